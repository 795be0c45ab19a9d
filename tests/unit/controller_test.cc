// SPDX-License-Identifier: MIT
//
// The controller, with real programs as controllers and a supervisor that is played by the test.
#include "admin/controller.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "admin/schema.h"
#include "base/cgroup.h"
#include "base/sys.h"

using namespace drover;
using namespace drover::admin;
using namespace drover::supervisor;
using namespace std::chrono_literals;
namespace fs = std::filesystem;

namespace {

// Notes what it is asked, and answers when the test says so.
class FakeCommands final : public Commands {
  public:
    Status status_value;
    std::deque<Event> events;
    std::vector<std::string> calls;
    std::vector<Done> pending;
    std::vector<supervisor::ReloadRequest> reloads;

    [[nodiscard]] Status status() const override { return status_value; }
    [[nodiscard]] const std::deque<Event>& recent_events() const override { return events; }
    [[nodiscard]] Config config() const override { return {}; }
    void stop(std::optional<WorkerId> worker, Done done) override {
        note(fmt::format("stop {}", worker.value_or(0)), done);
    }
    void restart(std::optional<WorkerId> worker, Done done) override {
        note(fmt::format("restart {}", worker.value_or(0)), done);
    }
    void scale(int workers, Done done) override { note(fmt::format("scale {}", workers), done); }
    void drain(std::optional<WorkerId> worker, Done done) override {
        note(fmt::format("drain {}", worker.value_or(0)), done);
    }
    void resume(std::optional<WorkerId> worker, Done done) override {
        note(fmt::format("resume {}", worker.value_or(0)), done);
    }
    void probe(WorkerId, const std::string&, Asked) override {}
    void weight(WorkerId, int, Done done) override { done({}); }
    void rescue(WorkerId, Done done) override { done({}); }
    void signal(std::optional<WorkerId> worker, int number, Done done) override {
        note(fmt::format("signal {} {}", worker.value_or(0), number), done);
    }
    void policy(const PolicyChoice&, Done done) override { note("policy", done); }

    void reload(const supervisor::ReloadRequest& request, Done done) override {
        reloads.push_back(request);
        note("reload", done);
    }
    void upgrade(Done done) override { note("upgrade", done); }
    void promote(Done done) override { note("promote", done); }
    void roll_back(Done done) override { note("rollback", done); }
    void send(std::optional<WorkerId> worker, const std::string& data, Done done) override {
        note(fmt::format("send {} {}", worker.value_or(0), data), done);
    }

  private:
    void note(std::string call, Done done) {
        calls.push_back(std::move(call));
        pending.push_back(std::move(done));
    }
};

Event event_of(uint64_t seq, std::string text = "something") {
    Event event;
    event.seq = seq;
    event.time = WallTime(1'700'000'000s);
    event.kind = EventKind::error;
    event.data = ErrorData{"test", std::move(text)};
    return event;
}

// What a controller's script asks, as it must stand in it.
std::string say(int id, const std::string& verb, const std::string& args = "{}") {
    return fmt::format(R"(echo '{{"v":1,"id":{},"verb":"{}","args":{}}}'
)",
                       id, verb, args);
}

struct Fixture {
    std::string folder = [] {
        char path[] = "/tmp/drover-controller-XXXXXX";
        std::string made = ::mkdtemp(path);
        ::chmod(path, 0777);  // a controller with a user of its own writes there
        return made;
    }();
    EventLoop loop = std::move(*EventLoop::open());
    FakeCommands commands;
    std::vector<std::string> told;
    Controller::Setup setup;
    std::unique_ptr<Controller> controller;

    Fixture() {
        std::signal(SIGPIPE, SIG_IGN);
        setup.environment = {"PATH=/usr/local/bin:/usr/bin:/bin", "HERE=" + folder};
        setup.first_delay = 10ms;
        setup.last_delay = 40ms;
    }
    ~Fixture() {
        controller.reset();
        fs::remove_all(folder);
    }

    void start(const std::string& script) {
        setup.command = script;
        auto opened = Controller::open(loop, setup, "web", commands, [this](const Error& error) {
            CHECK(error.code == "controller");
            told.push_back(error.text);
        });
        REQUIRE(opened);
        controller = std::move(*opened);
    }

    template <class Condition>
    bool until(Condition condition) {
        auto deadline = std::chrono::steady_clock::now() + 20s;
        while (!condition()) {
            if (std::chrono::steady_clock::now() > deadline) return false;
            loop.run_once(2ms);
        }
        return true;
    }

    [[nodiscard]] std::string path(const std::string& name) const { return folder + "/" + name; }

    // The whole lines that a controller has written to a file of that name.
    [[nodiscard]] std::vector<std::string> lines(const std::string& name) const {
        std::ifstream file(path(name));
        std::string content{std::istreambuf_iterator<char>(file), {}};
        content.resize(content.rfind('\n') + 1);
        std::istringstream stream(content);
        std::vector<std::string> lines;
        for (std::string line; std::getline(stream, line);) lines.push_back(line);
        return lines;
    }
    [[nodiscard]] bool has_lines(const std::string& name, size_t count) {
        return until([&] { return lines(name).size() >= count; });
    }
    // Lets a controller go on that waits in `read go < $HERE/gate`.
    void make_gate() { REQUIRE(::mkfifo(path("gate").c_str(), 0666) == 0); }
    void open_gate() {
        Fd gate;
        REQUIRE(until([&] {
            gate.reset(::open(path("gate").c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
            return gate.is_open();
        }));
        REQUIRE(::write(gate.get(), "go\n", 3) == 3);
    }
};

// Puts a cgroup beside the tests', which is gone afterwards. Empty path: none can be made.
struct CgroupPlace {
    std::string path;
    bool is_late = false;

    CgroupPlace() {
        auto mount = Cgroup::mount_point();
        if (::geteuid() != 0 || !mount) return;
        auto wanted = fmt::format("{}/drover-unit-controller-{}", *mount, ::getpid());
        auto made = Cgroup::create_anew(wanted);
        if (!made) return;
        path = wanted;
        is_late = sys::must_enter_late(made->fd());
    }
    ~CgroupPlace() {
        auto left = Cgroup::open(path);
        if (!left) return;
        left->kill();
        while (left->is_populated()) {
        }
        (void)left->remove();
    }
};

bool is_running(int pid) {
    std::ifstream file(fmt::format("/proc/{}/stat", pid));
    std::string content{std::istreambuf_iterator<char>(file), {}};
    auto end = content.rfind(')');
    return end != std::string::npos && content.compare(end, 3, ") Z") != 0;
}

}  // namespace

TEST_CASE("a controller gets every event as the JSON line that all others get") {
    Fixture f;
    f.start("exec cat > $HERE/got");
    f.controller->publish(event_of(1));
    f.controller->publish(event_of(2, "a\nb"));
    REQUIRE(f.has_lines("got", 2));
    CHECK(f.lines("got")[0] == to_line(to_json(event_of(1), "web")));
    CHECK(f.lines("got")[1] == to_line(to_json(event_of(2, "a\nb"), "web")));
    CHECK(f.controller->lost_total() == 0);
}

TEST_CASE("a controller's requests are done, and the replies come to it") {
    Fixture f;
    f.commands.status_value.cluster = "web";
    f.start(say(5, "scale", R"({"n":6})") + say(6, "status") + say(7, "drain", R"({"worker":9})") +
            say(8, "fly") + say(9, "events", R"({"follow":true})") + "exec cat > $HERE/got");
    REQUIRE(f.has_lines("got", 3));
    CHECK(f.commands.calls == std::vector<std::string>{"scale 6", "drain 9"});
    CHECK(f.lines("got")[0] == to_line(reply_ok(6, to_json(f.commands.status_value))));
    CHECK(f.lines("got")[1].find(R"("code":"unknown-verb")") != std::string::npos);
    CHECK(f.lines("got")[2] == R"({"id":9,"ok":true,"data":{"events":[]}})");
    // Later, and not in the order of the requests.
    f.commands.pending.at(1)(fail("no-such-worker", "there is no worker 9"));
    f.commands.pending.at(0)({});
    REQUIRE(f.has_lines("got", 5));
    CHECK(f.lines("got")[3] ==
          R"({"id":7,"ok":false,"error":{"code":"no-such-worker","text":"there is no worker 9"}})");
    CHECK(f.lines("got")[4] == R"({"id":5,"ok":true,"data":{}})");
    CHECK(f.told.empty());
}

TEST_CASE("garbage gets an error reply each, and nothing else happens") {
    Fixture f;
    f.start(
        "printf 'hello\\n\\n\\377\\376\\n[1]\\n{\"v\":2,\"id\":1}\\n';"
        "head -c 1100000 /dev/zero; echo;" +
        say(5, "scale", R"({"n":6})") + "exec cat > $HERE/got");
    REQUIRE(f.has_lines("got", 6));
    REQUIRE(f.until([&] { return !f.commands.calls.empty(); }));
    auto got = f.lines("got");
    REQUIRE(got.size() == 6);
    for (const auto& line : got) {
        CAPTURE(line);
        CHECK(line.rfind(R"({"id":null,"ok":false,"error":{"code":"bad-request")", 0) == 0);
    }
    CHECK(got[5].find("1 MiB") != std::string::npos);
    CHECK(f.commands.calls == std::vector<std::string>{"scale 6"});
    CHECK(f.told.empty());
}

TEST_CASE("a controller that dies is started again, later each time, and it is told") {
    Fixture f;
    f.setup.first_delay = 100ms;  // a shell starts and ends in less, on a busy machine too
    f.setup.last_delay = 400ms;
    f.start("echo $$ >> $HERE/ran; exit 3");
    REQUIRE(f.until([&] { return f.told.size() >= 4; }));
    for (size_t i = 0; i < 4; ++i) {
        CAPTURE(i);
        const char* delays[] = {"0.1", "0.2", "0.4", "0.4"};
        CHECK(f.told[i] == fmt::format("the controller exited with status 3; it is started again "
                                       "in {} s",
                                       delays[i]));
    }
    CHECK(f.lines("ran").size() == 4);
    CHECK(f.controller->pid() == 0);
    f.controller->publish(event_of(1));
    CHECK(f.controller->lost_total() == 1);
}

TEST_CASE("a controller that lived long enough is started again soon") {
    Fixture f;
    f.setup.first_delay = 100ms;
    f.setup.last_delay = 400ms;
    f.start("echo $$ >> $HERE/ran; [ $(wc -l < $HERE/ran) -lt 4 ] && exit 3; exec cat");
    REQUIRE(f.until([&] { return f.told.size() == 3 && f.controller->pid() != 0; }));
    CHECK(f.told[2].find("in 0.4 s") != std::string::npos);
    auto enough = std::chrono::steady_clock::now() + f.setup.last_delay;
    f.until([&] { return std::chrono::steady_clock::now() > enough; });
    int pid = f.controller->pid();
    REQUIRE(pid > 0);
    ::kill(pid, SIGKILL);
    REQUIRE(f.until([&] { return f.told.size() == 4; }));
    CHECK(f.told[3] == "the controller was ended by signal 9; it is started again in 0.1 s");
}

TEST_CASE("a controller that cannot be started is told of, and tried again") {
    Fixture f;
    f.setup.cwd = f.path("nowhere");
    f.start("echo yes > $HERE/ran; exec cat");
    REQUIRE(f.until([&] { return f.told.size() >= 2; }));
    CHECK(f.told[0].rfind("the controller could not be started: ", 0) == 0);
    CHECK(f.told[0].find(f.setup.cwd) != std::string::npos);
    fs::create_directory(f.setup.cwd);
    CHECK(f.has_lines("ran", 1));
}

TEST_CASE("what a controller asked before it ended is done") {
    Fixture f;
    f.setup.first_delay = 10s;
    f.start(say(5, "scale", R"({"n":6})"));
    REQUIRE(f.until([&] { return !f.commands.calls.empty() && !f.told.empty(); }));
    CHECK(f.commands.calls == std::vector<std::string>{"scale 6"});
}

TEST_CASE("a reply to a controller that has died is not given to the next one") {
    Fixture f;
    f.start("if [ ! -e $HERE/first ]; then touch $HERE/first; " + say(5, "scale", R"({"n":6})") +
            "exit; fi; exec cat > $HERE/got");
    REQUIRE(f.until([&] { return f.commands.pending.size() == 1 && f.told.size() == 1; }));
    REQUIRE(f.until([&] { return f.controller->pid() != 0; }));
    f.commands.pending.at(0)({});
    f.controller->publish(event_of(1));
    REQUIRE(f.has_lines("got", 1));
    CHECK(f.lines("got")[0] == to_line(to_json(event_of(1), "web")));
}

TEST_CASE("a controller that does not read loses events, and one notice says how many") {
    Fixture f;
    f.make_gate();
    f.start("read go < $HERE/gate; exec cat > $HERE/got");
    const std::string text(10'000, 'x');
    uint64_t seq = 0;
    while (seq < 500) f.controller->publish(event_of(++seq, text));
    auto lost = f.controller->lost_total();
    // A few tens of KiB are in the pipe beside what is queued.
    CHECK(lost >= 500 - (Controller::kMaxQueued + 256 * 1024) / text.size());
    CHECK(lost < 500 - (Controller::kMaxQueued - 256 * 1024) / (text.size() + 200));

    f.open_gate();
    auto is_notice = [](const std::string& line) {
        return line.find(R"("code":"lost")") != std::string::npos;
    };
    auto kept = 500 - lost;
    REQUIRE(f.has_lines("got", kept + 1));
    f.controller->publish(event_of(++seq));
    REQUIRE(f.has_lines("got", kept + 2));
    auto got = f.lines("got");
    REQUIRE(got.size() == kept + 2);
    CHECK(std::count_if(got.begin(), got.end(), is_notice) == 1);
    CHECK(got[kept - 1] == to_line(to_json(event_of(kept, text), "web")));
    auto notice = Json::parse(got[kept], nullptr, false);
    REQUIRE(notice.is_object());
    CHECK(notice["v"] == 1);
    CHECK(notice["event"] == "error");
    CHECK(notice["seq"] == 500);
    CHECK(notice["worker"].is_null());
    CHECK(notice["data"]["events"] == lost);
    CHECK(notice["data"]["replies"] == 0);
    CHECK(got[kept + 1] == to_line(to_json(event_of(501), "web")));
    CHECK(f.controller->lost_total() == lost);
}

TEST_CASE("events that come before half of the queue is read are lost as well") {
    Fixture f;
    f.make_gate();
    f.start(
        "read go < $HERE/gate; head -c 200000 > $HERE/first; read go < $HERE/gate; "
        "exec cat > $HERE/got");
    for (uint64_t seq = 1; seq <= 500; ++seq)
        f.controller->publish(event_of(seq, std::string(10'000, 'x')));
    auto lost = f.controller->lost_total();
    f.open_gate();
    // More than the pipe holds: so some of the queue has been written, too.
    REQUIRE(f.until([&] {
        std::error_code error;
        return fs::file_size(f.path("first"), error) == 200'000 && !error;
    }));
    f.controller->publish(event_of(501));  // there is room, but it would stand in a wrong place
    CHECK(f.controller->lost_total() == lost + 1);
    f.open_gate();
    REQUIRE(f.until([&] {
        auto got = f.lines("got");
        return !got.empty() &&
               got.back().find(fmt::format("\"events\":{}", lost + 1)) != std::string::npos;
    }));
}

TEST_CASE("a controller that only ever writes is listened to, however many replies that makes") {
    Fixture f;
    f.commands.status_value.version = std::string(100'000, 'x');
    f.start("for i in $(seq 100); do " + say(1, "status") + "done; " +
            say(2, "scale", R"({"n":6})") + "exec sleep 1000");
    REQUIRE(f.until([&] { return !f.commands.calls.empty(); }));
    CHECK(f.told.empty());
}

TEST_CASE("a controller that has closed its stdin may go on asking") {
    Fixture f;
    f.make_gate();
    f.start("exec <&-; echo closed > $HERE/state; read go < $HERE/gate; " +
            say(2, "scale", R"({"n":6})") + "exec sleep 1000");
    REQUIRE(f.has_lines("state", 1));
    f.controller->publish(event_of(1));
    f.controller->publish(event_of(2));
    CHECK(f.controller->lost_total() >= 1);
    f.open_gate();
    REQUIRE(f.until([&] { return !f.commands.calls.empty(); }));
    f.commands.pending.at(0)({});
    CHECK(f.controller->pid() != 0);
}

TEST_CASE("a controller that has closed its stdout still gets the events") {
    Fixture f;
    f.start("exec cat > $HERE/got");
    f.loop.run_once(10ms);
    f.controller->publish(event_of(1));
    CHECK(f.has_lines("got", 1));
    f.controller->publish(event_of(2));
    CHECK(f.has_lines("got", 2));
}

TEST_CASE("too many requests that are not done are refused, and the next ones taken again") {
    Fixture f;
    f.start(fmt::format("python3 -c \"for i in range({}): print('{{\\\"v\\\":1,\\\"id\\\":%d,"
                        "\\\"verb\\\":\\\"stop\\\"}}' % i)\";"
                        "read busy; echo \"$busy\" > $HERE/got; read done; ",
                        Controller::kMaxPending + 1) +
            say(1, "scale", R"({"n":6})") + "exec cat");
    REQUIRE(f.has_lines("got", 1));
    CHECK(f.lines("got")[0] == fmt::format(R"({{"id":{},"ok":false,"error":{{"code":"busy",)"
                                           R"("text":"too many requests at once"}}}})",
                                           Controller::kMaxPending));
    CHECK(f.commands.calls.size() == Controller::kMaxPending);
    f.commands.pending.at(0)({});
    CHECK(f.until([&] { return f.commands.calls.back() == "scale 6"; }));
}

TEST_CASE("many requests at once are done over several turns") {
    Fixture f;
    f.start(
        "python3 -c \"print(('{\\\"v\\\":1,\\\"id\\\":1,\\\"verb\\\":\\\"stop\\\"}' + chr(10)) "
        "* 500, end='', flush=True)\"; exec cat");
    size_t before = 0;
    size_t most = 0;
    REQUIRE(f.until([&] {
        most = std::max(most, f.commands.calls.size() - before);
        before = f.commands.calls.size();
        return before == 500;
    }));
    CHECK(most <= static_cast<size_t>(Controller::kMaxPerTurn));
}

TEST_CASE("a controller that is finished gets what waits for it, then the end") {
    Fixture f;
    f.start("cat > $HERE/got; " + say(1, "stop") + "echo bye > $HERE/end");
    f.controller->publish(event_of(1));
    bool ended = false;
    f.controller->finish(10s, [&] { ended = true; });
    CHECK_FALSE(ended);
    REQUIRE(f.until([&] { return ended; }));
    CHECK(f.lines("got").size() == 1);
    CHECK(f.lines("end").size() == 1);
    CHECK(f.commands.calls.empty());
    CHECK(f.told.empty());
    CHECK(f.controller->pid() == 0);
}

TEST_CASE("a controller that does not end in time is killed") {
    Fixture f;
    f.start("echo up > $HERE/up; exec sleep 1000");
    REQUIRE(f.has_lines("up", 1));
    int pid = f.controller->pid();
    bool ended = false;
    f.controller->finish(20ms, [&] { ended = true; });
    REQUIRE(f.until([&] { return ended; }));
    CHECK_FALSE(is_running(pid));
}

TEST_CASE("a controller can be finished while none runs") {
    Fixture f;
    f.setup.first_delay = 1000s;
    f.start("exit 1");
    REQUIRE(f.until([&] { return !f.told.empty(); }));
    bool ended = false;
    f.controller->finish(10s, [&] {
        ended = true;
        f.controller.reset();
    });
    CHECK_FALSE(ended);
    CHECK(f.until([&] { return ended; }));
}

TEST_CASE("what a dead controller has left running is ended, and the next one starts as usual") {
    CgroupPlace place;
    if (place.path.empty()) {
        MESSAGE("skipped: needs root and a cgroup v2 that can be written");
        return;
    }
    Fixture f;
    f.setup.cgroup = place.path;
    f.setup.enter_late = place.is_late;
    f.start(
        "if [ -s $HERE/left ]; then echo again > $HERE/again; exec cat; fi; "
        "sleep 1000 & echo $! > $HERE/left; exit 1");
    REQUIRE(f.has_lines("left", 1));
    int left = std::stoi(f.lines("left")[0]);
    REQUIRE(f.until([&] { return !is_running(left); }));
    REQUIRE(f.has_lines("again", 1));
    auto cgroup = Cgroup::open(place.path);
    REQUIRE(cgroup);
    CHECK(cgroup->pids() == std::vector<int>{f.controller->pid()});
    bool ended = false;
    f.controller->finish(10s, [&] { ended = true; });
    REQUIRE(f.until([&] { return ended; }));
    CHECK_FALSE(fs::exists(place.path));
}

TEST_CASE("a controller runs as its user, who may open its pipes anew") {
    if (::geteuid() != 0) {
        MESSAGE("skipped: needs root");
        return;
    }
    Fixture f;
    f.setup.identity = worker::Identity{65534, 65534, {}, "/", "nobody", "/bin/sh"};
    f.start("id -u > $HERE/uid; exec > /dev/stdout; " + say(2, "scale", R"({"n":6})") +
            "exec cat < /dev/stdin > $HERE/got");
    f.controller->publish(event_of(1));
    REQUIRE(f.has_lines("got", 1));
    CHECK(f.lines("uid") == std::vector<std::string>{"65534"});
    CHECK(f.until([&] { return !f.commands.calls.empty(); }));
}

TEST_CASE("the example scales by the live connections per worker") {
    auto example = fs::absolute(fs::path(__FILE__).parent_path() / "../controllers/autoscale.py");
    REQUIRE(fs::exists(example));
    Fixture f;
    auto set_load = [&](int workers, uint64_t live_each) {
        f.commands.status_value.wanted = workers;
        f.commands.status_value.workers.assign(static_cast<size_t>(workers), WorkerStatus{});
        for (auto& worker : f.commands.status_value.workers) worker.live = live_each;
    };
    set_load(2, 10);
    f.start(fmt::format("exec python3 {} 10 2 8 0.02", example.string()));
    auto& calls = f.commands.calls;
    auto scales_to = [&](int count) {
        size_t before = calls.size();
        if (!f.until([&] { return calls.size() > before; })) return false;
        return calls.back() == fmt::format("scale {}", count);
    };
    // Done: the next look sees so many workers, with so many connections each.
    auto done = [&](int workers, uint64_t live_each) {
        set_load(workers, live_each);
        f.commands.pending.back()({});
    };
    f.controller->publish(event_of(1));
    set_load(2, 20);
    CHECK(scales_to(4));
    done(4, 100);
    CHECK(scales_to(8));
    done(8, 8);
    auto enough = std::chrono::steady_clock::now() + 200ms;  // several looks: it is content
    f.until([&] { return std::chrono::steady_clock::now() > enough; });
    CHECK(calls.size() == 2);
    set_load(8, 2);
    CHECK(scales_to(7));
    done(2, 0);
    enough = std::chrono::steady_clock::now() + 200ms;
    f.until([&] { return std::chrono::steady_clock::now() > enough; });
    CHECK(calls.size() == 3);
    bool ended = false;
    f.controller->finish(10s, [&] { ended = true; });
    CHECK(f.until([&] { return ended; }));
    CHECK(f.told.empty());
}
