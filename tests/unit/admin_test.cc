// SPDX-License-Identifier: MIT
//
// The control socket: the JSON shapes word for word, requests out of any bytes, and the server over
// a real socket with a supervisor that is played by the test.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "admin/schema.h"
#include "admin/server.h"
#include "base/event_loop.h"

using namespace drover;
using namespace drover::admin;
using namespace drover::supervisor;
using namespace std::chrono_literals;

namespace {

WallTime at(int64_t milliseconds) {
    return WallTime(std::chrono::milliseconds(milliseconds));
}

Event event_of(EventKind kind, EventData data = {}, uint64_t seq = 81) {
    Event event;
    event.seq = seq;
    event.time = at(1'700'000'000'042);
    event.kind = kind;
    event.worker = WorkerRef{7, 0, 3, 99, 2};
    event.data = std::move(data);
    return event;
}

Json data_json(EventKind kind, EventData data) {
    return to_json(event_of(kind, std::move(data)), "web")["data"];
}

// Plays the supervisor: notes what it is asked, and answers when the test says so.
class FakeCommands final : public Commands {
  public:
    Status status_value;
    Config config_value;
    std::deque<Event> events;
    std::vector<std::string> calls;
    std::vector<Done> pending;
    std::vector<supervisor::ReloadRequest> reloads;

    [[nodiscard]] Status status() const override { return status_value; }
    [[nodiscard]] const std::deque<Event>& recent_events() const override { return events; }
    [[nodiscard]] Config config() const override { return config_value; }
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
    void probe(WorkerId worker, const std::string& path, Asked done) override {
        calls.push_back(fmt::format("probe {} {}", worker, path));
        done(worker::ProbeAnswer{200, "HTTP/1.1 200 OK", 1500us, 2, "hi"});
    }
    void weight(WorkerId worker, int weight, Done done) override {
        note(fmt::format("weight {} {}", worker, weight), done);
    }
    void rescue(WorkerId worker, Done done) override {
        note(fmt::format("rescue {}", worker), done);
    }
    void signal(std::optional<WorkerId> worker, int number, Done done) override {
        note(fmt::format("signal {} {}", worker.value_or(0), number), done);
    }
    void policy(const PolicyChoice& policy, Done done) override {
        note(fmt::format("policy {}", supervisor::name_of(policy)), done);
    }
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

Fd connect_to(const std::string& path) {
    Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    REQUIRE(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    return fd;
}

// A server in a folder of its own, and clients of it; all on one loop, all nonblocking.
struct Fixture {
    std::string folder = [] {
        char path[] = "/tmp/drover-admin-XXXXXX";
        return std::string(::mkdtemp(path));
    }();
    std::string path = folder + "/control.sock";
    EventLoop loop = std::move(*EventLoop::open());
    FakeCommands commands;
    std::unique_ptr<ControlServer> server =
        std::move(*ControlServer::open(loop, path, "web", commands));

    ~Fixture() {
        server.reset();
        std::filesystem::remove_all(folder);
    }

    // Serves until the condition holds; false when five seconds have not sufficed.
    template <class Condition>
    bool until(Condition condition) {
        auto deadline = std::chrono::steady_clock::now() + 5s;
        while (!condition()) {
            if (std::chrono::steady_clock::now() > deadline) return false;
            loop.run_once(5ms);
        }
        return true;
    }

    [[nodiscard]] Fd connect() const { return connect_to(path); }

    // Appends what has arrived; false at the end of the stream.
    static bool read_more(const Fd& fd, std::string& text) {
        char chunk[65536];
        for (;;) {
            ssize_t size = ::recv(fd.get(), chunk, sizeof(chunk), MSG_DONTWAIT);
            if (size > 0) text.append(chunk, static_cast<size_t>(size));
            if (size == 0 || (size < 0 && errno != EAGAIN)) return false;
            if (size < 0) return true;
        }
    }

    Json read_line(const Fd& fd) {
        std::string line;
        char c = 0;
        REQUIRE(until([&] {
            while (::recv(fd.get(), &c, 1, MSG_DONTWAIT) == 1) {
                if (c == '\n') return true;
                line += c;
            }
            return false;
        }));
        return Json::parse(line, nullptr, false);
    }

    bool ends(const Fd& fd) {
        std::string rest;
        return until([&] { return !read_more(fd, rest); });
    }

    void write(const Fd& fd, std::string_view text) {
        size_t sent = 0;
        REQUIRE(until([&] {
            ssize_t size = ::send(fd.get(), text.data() + sent, text.size() - sent,
                                  MSG_DONTWAIT | MSG_NOSIGNAL);
            if (size > 0) sent += static_cast<size_t>(size);
            return sent == text.size() || (size < 0 && errno == EPIPE);
        }));
    }

    Json ask(const Fd& fd, std::string_view verb, std::string_view args = "{}") {
        write(fd, fmt::format(R"({{"v":1,"id":5,"verb":"{}","args":{}}})"
                              "\n",
                              verb, args));
        return read_line(fd);
    }

    // The same for a verb that is done later: the fake supervisor answers it as soon as it is
    // asked.
    Json ask_and_answer(const Fd& fd, std::string_view verb, std::string_view args) {
        commands.pending.clear();
        write(fd, fmt::format(R"({{"v":1,"id":5,"verb":"{}","args":{}}})"
                              "\n",
                              verb, args));
        REQUIRE(until([&] { return !commands.pending.empty(); }));
        commands.pending.front()({});
        return read_line(fd);
    }

    void happen(uint64_t seq) {
        commands.events.push_back(event_of(EventKind::online, {}, seq));
        server->publish(commands.events.back());
    }
};

}  // namespace

TEST_SUITE("admin") {
    TEST_CASE("a status has exactly the shape of the vocabulary") {
        Status status;
        status.cluster = "web";
        status.pid = 1;
        status.version = "0.1.0";
        status.state = "running";
        status.policy = "least-conn";
        status.generation = 2;
        status.wanted = 4;
        status.ready = 3;
        status.groups = {{"tcp", "::", 80, false, {0, 1}, 5}};
        WorkerStatus worker;
        worker.id = 7;
        worker.slot = 4;
        worker.generation = 2;
        worker.pid = 99;
        worker.state = State::ready;
        worker.flags = {"held"};
        worker.started_at = at(1'700'000'000'042);
        worker.restarts_total = 1;
        worker.live = 12;
        worker.queued = 3;
        worker.accepted_total = 900;
        worker.cpu_ms_total = 10;
        worker.memory_bytes = 1;
        worker.log_dropped_total = 9;
        worker.last_exit = Exit{std::nullopt, "KILL", ExitReason::crash};
        WorkerStatus waiting;
        waiting.id = 8;
        waiting.instance = 1;
        waiting.state = State::backoff;
        waiting.reason = "exit code 1";
        waiting.retry_at = at(0);
        waiting.last_exit = Exit{1, std::nullopt, ExitReason::exec};
        status.workers = {worker, waiting};
        status.log = "/var/log/drover/web.log";
        status.decisions_total = {1, 2, 3, 4, 5, 6, 7};
        status.corrections_total = 7;
        status.moved_total = 8;

        CHECK(
            to_line(to_json(status)) ==
            R"({"v":1,"cluster":"web","pid":1,"version":"0.1.0","state":"running",)"
            R"("drained":false,"policy":"least-conn","generation":2,"wanted":4,"ready":3,)"
            R"("log":"/var/log/drover/web.log",)"
            R"("groups":[{"proto":"tcp","addr":"::","port":80,"v6only":false,"active":[0,1],)"
            R"("parked":5}],)"
            R"("workers":[{"id":7,"instance":0,"slot":4,"generation":2,"pid":99,)"
            R"("state":"ready","flags":["held"],"reason":null,"retry_at":null,)"
            R"("started_at":"2023-11-14T22:13:20.042Z","restarts_total":1,"live":12,)"
            R"("queued":3,"accepted_total":900,"weight":1,"cpu_ms_total":10,"memory_bytes":1,)"
            R"("log_dropped_total":9,"last_exit":{"code":null,"signal":"KILL","reason":"crash"}},)"
            R"({"id":8,"instance":1,"slot":null,"generation":1,"pid":null,)"
            R"("state":"backoff","flags":[],"reason":"exit code 1",)"
            R"("retry_at":"1970-01-01T00:00:00.000Z","started_at":null,"restarts_total":0,)"
            R"("live":0,"queued":0,"accepted_total":0,"weight":1,"cpu_ms_total":0,)"
            R"("memory_bytes":0,"log_dropped_total":0,)"
            R"("last_exit":{"code":1,"signal":null,"reason":"exec"}}],)"
            R"("decisions_total":{"picked":1,"fallback":2,"keeper":3,"dropped":4,"moved":5,)"
            R"("stray":6,"pinned":7},)"
            R"("corrections_total":7,"moved_total":8})");
    }

    TEST_CASE("an event has exactly the shape of the vocabulary") {
        CHECK(to_line(to_json(event_of(EventKind::fork), "web")) ==
              R"({"v":1,"seq":81,"time":"2023-11-14T22:13:20.042Z","cluster":"web",)"
              R"("event":"fork","worker":{"id":7,"instance":0,"slot":3,"pid":99,"generation":2},)"
              R"("data":{}})");
        Event event = event_of(EventKind::scaled, ScaledData{2, 4});
        event.worker.reset();
        CHECK(to_line(to_json(event, "web")) ==
              R"({"v":1,"seq":81,"time":"2023-11-14T22:13:20.042Z","cluster":"web",)"
              R"("event":"scaled","worker":null,"data":{"from":2,"to":4}})");
    }

    TEST_CASE("each kind of event has its data") {
        auto line = [](EventKind kind, EventData data) {
            return to_line(data_json(kind, std::move(data)));
        };
        CHECK(line(EventKind::listening, ListeningData{"tcp", "::1", 80}) ==
              R"({"proto":"tcp","addr":"::1","port":80})");
        CHECK(line(EventKind::exit, ExitData{{3, std::nullopt, ExitReason::stopped}, 1500ms}) ==
              R"({"code":3,"signal":null,"uptime_ms":1500,"reason":"stopped"})");
        CHECK(line(EventKind::state, StateData{State::ready, State::draining, "drained by hand"}) ==
              R"({"from":"ready","to":"draining","reason":"drained by hand"})");
        CHECK(line(EventKind::state, StateData{State::starting, State::online, ""}) ==
              R"({"from":"starting","to":"online","reason":null})");
        CHECK(line(EventKind::error, ErrorData{"system", "no memory"}) ==
              R"({"code":"system","text":"no memory"})");
        CHECK(line(EventKind::conflict, ConflictData{80, 12, "nginx", "port 80 is taken"}) ==
              R"({"port":80,"pid":12,"command":"nginx","text":"port 80 is taken"})");
        CHECK(line(EventKind::conflict, ConflictData{80, 0, "", "port 80 is taken"}) ==
              R"({"port":80,"pid":null,"command":null,"text":"port 80 is taken"})");
        CHECK(line(EventKind::reload, ReloadData{ReloadPhase::rolled_back, 1, 4, ""}) ==
              R"({"phase":"rolled-back","done":1,"total":4,"error":null})");
        CHECK(line(EventKind::reload, ReloadData{ReloadPhase::failed, 0, 4, "instance 0: …"}) ==
              R"({"phase":"failed","done":0,"total":4,"error":"instance 0: …"})");
        CHECK(line(EventKind::restart_limit, RestartLimitData{5, 60s}) ==
              R"({"restarts":5,"within_ms":60000})");
        CHECK(to_json(event_of(EventKind::restart_limit), "web")["event"] == "restart-limit");
    }

    TEST_CASE("bytes that are no UTF-8 do not spoil a line") {
        auto line = to_line(data_json(EventKind::error, ErrorData{"system", "caf\xe9"}));
        CHECK(line == "{\"code\":\"system\",\"text\":\"caf\xef\xbf\xbd\"}");
    }

    TEST_CASE("a time before 1970 is written right, too") {
        CHECK(format_time(at(-1)) == "1969-12-31T23:59:59.999Z");
        CHECK(format_time(at(951'782'400'007)) == "2000-02-29T00:00:00.007Z");
    }

    TEST_CASE("a request is read") {
        auto request = parse_request(R"({"v":1,"id":-3,"verb":"scale","args":{"n":6},"new":[]})");
        REQUIRE(request);
        CHECK(request->id == -3);
        CHECK(request->verb == "scale");
        CHECK(worker_count(request->args) == 6);
        for (auto text :
             {R"({"v":1,"id":1,"verb":"status"})", R"({"v":1,"id":1,"verb":"status","args":null})",
              " {\"v\":1,\"id\":1,\"verb\":\"status\",\"args\":{}}\r"}) {
            auto bare = parse_request(text);
            REQUIRE(bare);
            CHECK(bare->args.is_object());
            CHECK(bare->args.empty());
        }
    }

    TEST_CASE("bytes that are no request are refused") {
        using namespace std::string_view_literals;
        for (std::string_view text : {
                 ""sv,
                 "{"sv,
                 "[]"sv,
                 "null"sv,
                 "17"sv,
                 R"({"v":1,"id":1,"verb":"x"} {})"sv,
                 "{\"v\":1,\"id\":1,\"verb\":\"x\"}\0{}"sv,
                 R"({"id":1,"verb":"x"})"sv,
                 R"({"v":2,"id":1,"verb":"x"})"sv,
                 R"({"v":"1","id":1,"verb":"x"})"sv,
                 R"({"v":1,"verb":"x"})"sv,
                 R"({"v":1,"id":1.5,"verb":"x"})"sv,
                 R"({"v":1,"id":"1","verb":"x"})"sv,
                 R"({"v":1,"id":9223372036854775808,"verb":"x"})"sv,
                 R"({"v":1,"id":1e999,"verb":"x"})"sv,
                 R"({"v":1,"id":1})"sv,
                 R"({"v":1,"id":1,"verb":""})"sv,
                 R"({"v":1,"id":1,"verb":7})"sv,
                 R"({"v":1,"id":1,"verb":"x","args":[]})"sv,
                 "{\"v\":1,\"id\":1,\"verb\":\"\xff\"}"sv,
                 "{\"v\":1,\"id\":1,\"verb\":\"\xed\xa0\x80\"}"sv,
             }) {
            CAPTURE(text);
            auto request = parse_request(text);
            REQUIRE_FALSE(request);
            CHECK(request.error().code == "bad-request");
            CHECK_FALSE(request.error().text.empty());
        }
        CHECK_FALSE(parse_request(std::string(100'000, '[')));
        CHECK_FALSE(parse_request(R"({"v":1,"id":1,"verb":"x","args":{"a":)" +
                                  std::string(20, '[') + std::string(20, ']') + "}}"));
        CHECK(parse_request(R"({"v":1,"id":1,"verb":"x","args":{"a":"[[[[[[[[[[[[[[[[[[[[\"["}})"));
        CHECK_FALSE(parse_request(R"({"v":1,"id":1,"verb":")" + std::string(1 << 20, 'x') + "\"}"));
    }

    TEST_CASE("no prefix of a request, and no changed byte in it, upsets the parser") {
        const std::string whole = R"({"v":1,"id":1,"verb":"s\u00e9","args":{"n":[1,{"a":null}]}})";
        REQUIRE(parse_request(whole));
        for (size_t size = 0; size < whole.size(); ++size)
            CHECK_FALSE(parse_request(std::string_view(whole).substr(0, size)));
        for (size_t place = 0; place < whole.size(); ++place)
            for (int byte = 0; byte < 256; ++byte) {
                std::string changed = whole;
                changed[place] = static_cast<char>(byte);
                if (auto request = parse_request(changed)) CHECK(request->args.is_object());
            }
    }

    TEST_CASE("arguments are checked, and the error names the one that is wrong") {
        auto args = [](const char* text) { return Json::parse(text, nullptr, false); };
        CHECK(optional_worker(args("{}")).value() == std::nullopt);
        CHECK(optional_worker(args(R"({"worker":null})")).value() == std::nullopt);
        CHECK(optional_worker(args(R"({"worker":7})")).value() == 7);
        for (auto text : {R"({"worker":0})", R"({"worker":-1})", R"({"worker":"7"})",
                          R"({"worker":18446744073709551615})", R"({"worker":1.5})"}) {
            auto worker = optional_worker(args(text));
            REQUIRE_FALSE(worker);
            CHECK(worker.error().code == "bad-value");
            CHECK(worker.error().text.find("\"worker\"") == 0);
        }
        CHECK(required_worker(args("{}")).error().code == "bad-value");
        CHECK(worker_count(args(R"({"n":-1})")).error().code == "bad-value");
        CHECK(worker_count(args(R"({"n":4294967296})")).error().code == "bad-value");
        CHECK(worker_count(args("{}")).error().code == "bad-value");
        CHECK(signal_number(args(R"({"signal":"HUP"})")).value() == 1);
        CHECK(signal_number(args(R"({"signal":15})")).value() == 15);
        CHECK(signal_number(args(R"({"signal":"NOPE"})")).error().code == "bad-value");
        CHECK(signal_number(args("{}")).error().code == "bad-value");
        CHECK(admin::policy(args(R"({"policy":"hash"})")).value() == Policy::hash);
        CHECK(admin::policy(args(R"({"policy":"best"})")).error().code == "bad-value");
        auto own = admin::policy(args(R"({"policy":"/srv/my.bpf.o"})")).value();
        CHECK(own == PolicyChoice(Policy::custom, "/srv/my.bpf.o"));
        // The client resolves it.
        CHECK(admin::policy(args(R"({"policy":"my.bpf.o"})")).error().code == "bad-value");
        CHECK(admin::policy(args(R"({"policy":1})")).error().code == "bad-value");
        auto reload = reload_request(args(
            R"({"options":{"env":["A=1","B=2"],"cwd":"/srv"},"command":["a","b"],"canary":"10%"})"));
        REQUIRE(reload);
        CHECK(reload->options == std::vector<std::pair<std::string, std::string>>{
                                     {"env", "A=1"}, {"env", "B=2"}, {"cwd", "/srv"}});
        CHECK(reload->command == std::vector<std::string>{"a", "b"});
        CHECK(reload->parallel == 1);
        CHECK(reload->canary == Share{10, true});
        for (auto text :
             {R"({"options":[]})", R"({"options":{"env":1}})", R"({"options":{"env":[1]}})",
              R"({"command":"a"})", R"({"command":[1]})", R"({"parallel":0})",
              R"({"parallel":"2"})", R"({"canary":10})", R"({"canary":"x"})"})
            CHECK(reload_request(args(text)).error().code == "bad-value");
        CHECK(follow(args("{}")).value() == false);
        CHECK(follow(args(R"({"follow":true})")).value() == true);
        CHECK(follow(args(R"({"follow":1})")).error().code == "bad-value");
    }

    TEST_CASE("the socket is root's alone, replaces a stale one, and goes with the server") {
        Fixture fixture;
        struct stat info {};
        REQUIRE(::stat(fixture.path.c_str(), &info) == 0);
        CHECK((info.st_mode & 0777) == 0600);
        // The master was killed: its socket is still there.
        auto next = ControlServer::open(fixture.loop, fixture.path, "web", fixture.commands);
        REQUIRE(next);
        auto client = fixture.connect();
        CHECK(fixture.ask(client, "status")["ok"] == true);
        next->reset();
        CHECK(::stat(fixture.path.c_str(), &info) != 0);
    }

    TEST_CASE("a file that is no socket is left alone") {
        Fixture fixture;
        std::string path = fixture.folder + "/file";
        std::ofstream(path) << "precious";
        auto server = ControlServer::open(fixture.loop, path, "web", fixture.commands);
        REQUIRE_FALSE(server);
        CHECK(server.error().text.find(path) != std::string::npos);
        CHECK(std::filesystem::exists(path));
    }

    TEST_CASE("a path too long for a socket is an error that says so") {
        Fixture fixture;
        auto server = ControlServer::open(fixture.loop, fixture.folder + std::string(200, 'x'),
                                          "web", fixture.commands);
        REQUIRE_FALSE(server);
        CHECK(server.error().text.find("too long") != std::string::npos);
    }

    TEST_CASE("status is answered with the status") {
        Fixture fixture;
        fixture.commands.status_value.cluster = "web";
        auto client = fixture.connect();
        auto reply = fixture.ask(client, "status");
        CHECK(reply["id"] == 5);
        CHECK(reply["ok"] == true);
        CHECK(reply["data"] == to_json(fixture.commands.status_value));
    }

    TEST_CASE("config is answered with what was given, and the defaults") {
        Fixture fixture;
        auto& config = fixture.commands.config_value;
        for (auto [name, value] : {std::pair{"name", "web"}, {"port", "80"}, {"workers", "2"}})
            REQUIRE(set_option(config, name, value));
        config.command = {"node", "server.js"};
        auto client = fixture.connect();
        auto data = fixture.ask(client, "config")["data"];
        CHECK(data["cluster"] == "web");
        CHECK(data["file"].is_null());
        CHECK(data["command"] == Json({"node", "server.js"}));
        CHECK(data["options"]["port"] == Json({"80"}));
        CHECK(data["options"]["workers"] == "2");
        CHECK(data["options"]["drain_timeout"] == "10s");
        CHECK_FALSE(data["options"].contains("user"));
    }

    TEST_CASE("each verb reaches the supervisor with its arguments") {
        Fixture fixture;
        auto client = fixture.connect();
        struct {
            const char *verb, *args, *call;
        } cases[] = {
            {"stop", "{}", "stop 0"},
            {"stop", R"({"worker":7})", "stop 7"},
            {"restart", R"({"worker":7})", "restart 7"},
            {"scale", R"({"n":6})", "scale 6"},
            {"drain", R"({"worker":7})", "drain 7"},
            {"resume", R"({"worker":7})", "resume 7"},
            {"weight", R"({"worker":7,"weight":3})", "weight 7 3"},
            {"rescue", R"({"worker":7})", "rescue 7"},
            {"signal", R"({"signal":"HUP"})", "signal 0 1"},
            {"signal", R"({"worker":7,"signal":"TERM"})", "signal 7 15"},
            {"policy", R"({"policy":"round-robin"})", "policy round-robin"},
            {"policy", R"({"policy":"/srv/my.bpf.o"})", "policy my.bpf.o"},
            {"send", R"({"worker":7,"data":{"a":[1]}})", R"(send 7 {"a":[1]})"},
            {"send", R"({"data":null})", "send 0 null"},
            {"reload", "{}", "reload"},
            {"upgrade", "{}", "upgrade"},
            {"promote", "{}", "promote"},
            {"rollback", "{}", "rollback"},
        };
        for (auto& one : cases) {
            auto reply = fixture.ask_and_answer(client, one.verb, one.args);
            CHECK(to_line(reply) == R"({"id":5,"ok":true,"data":{}})");
            CHECK(fixture.commands.calls.back() == one.call);
        }
    }

    TEST_CASE("a probe is answered with what the worker answered") {
        Fixture fixture;
        auto client = fixture.connect();
        CHECK(
            to_line(fixture.ask(client, "probe", R"({"worker":7,"path":"/health"})")["data"]) ==
            R"({"status":200,"line":"HTTP/1.1 200 OK","took_ms":1.5,"body_bytes":2,"body":"hi"})");
        CHECK(fixture.commands.calls.back() == "probe 7 /health");
        for (const char* bad : {R"({"path":"/"})", R"({"worker":7})", R"({"worker":7,"path":"x"})",
                                R"({"worker":7,"path":"/a b"})", R"({"worker":7,"path":1})"})
            CHECK(fixture.ask(client, "probe", bad)["error"]["code"] == "bad-value");
    }

    TEST_CASE("errors are replies, and the connection goes on") {
        Fixture fixture;
        auto client = fixture.connect();
        CHECK(fixture.ask(client, "fly")["error"]["code"] == "unknown-verb");
        CHECK(fixture.ask(client, "rescue")["error"]["code"] == "bad-value");
        fixture.write(client, "no json\n");
        auto reply = fixture.read_line(client);
        CHECK(reply["id"].is_null());
        CHECK(reply["error"]["code"] == "bad-request");
        fixture.write(client, "{\"v\":1,\"id\":9,\"verb\":\"stop\",\"args\":{\"worker\":3}}\n");
        REQUIRE(fixture.until([&] { return !fixture.commands.pending.empty(); }));
        fixture.commands.pending.back()(fail("no-such-worker", "there is no worker 3"));
        CHECK(to_line(fixture.read_line(client)) ==
              R"({"id":9,"ok":false,"error":{"code":"no-such-worker",)"
              R"("text":"there is no worker 3"}})");
        CHECK(fixture.commands.calls.size() == 1);
    }

    TEST_CASE("requests are found in pieces and in one piece") {
        Fixture fixture;
        auto client = fixture.connect();
        const std::string line = "{\"v\":1,\"id\":1,\"verb\":\"status\"}\n";
        for (char c : line) {
            fixture.write(client, std::string_view(&c, 1));
            fixture.loop.run_once(0ms);
        }
        CHECK(fixture.read_line(client)["ok"] == true);
        fixture.write(client, line + line + line);
        for (int i = 0; i < 3; ++i) CHECK(fixture.read_line(client)["ok"] == true);
    }

    TEST_CASE("a client that ends its requests still gets the replies it is owed") {
        Fixture fixture;
        auto client = fixture.connect();
        fixture.write(client, "{\"v\":1,\"id\":1,\"verb\":\"stop\"}\n");
        ::shutdown(client.get(), SHUT_WR);
        REQUIRE(fixture.until([&] { return !fixture.commands.pending.empty(); }));
        for (int i = 0; i < 5; ++i) fixture.loop.run_once(1ms);
        CHECK(fixture.server->clients() == 1);
        fixture.commands.pending.back()({});
        CHECK(fixture.read_line(client)["ok"] == true);
        CHECK(fixture.ends(client));
        CHECK(fixture.until([&] { return fixture.server->clients() == 0; }));
    }

    TEST_CASE("a verb that is done after its asker left harms nobody") {
        Fixture fixture;
        auto client = fixture.connect();
        fixture.write(client, "{\"v\":1,\"id\":1,\"verb\":\"stop\"}\n");
        REQUIRE(fixture.until([&] { return !fixture.commands.pending.empty(); }));
        client.reset();
        REQUIRE(fixture.until([&] { return fixture.server->clients() == 0; }));
        fixture.commands.pending.back()({});

        client = fixture.connect();
        fixture.write(client, "{\"v\":1,\"id\":1,\"verb\":\"stop\"}\n");
        REQUIRE(fixture.until([&] { return fixture.commands.pending.size() == 2; }));
        fixture.server.reset();
        CHECK(fixture.ends(client));
        fixture.commands.pending.back()({});
    }

    TEST_CASE("a line that is too long is refused and ends the connection") {
        Fixture fixture;
        auto client = fixture.connect();
        std::string endless((1 << 20) + 200'000, 'x');
        fixture.write(client, endless);
        CHECK(fixture.read_line(client)["error"]["code"] == "bad-request");
        CHECK(fixture.ends(client));
        CHECK(fixture.server->clients() == 0);

        client = fixture.connect();
        std::string longest = R"({"v":1,"id":1,"verb":"status","args":{"a":")";
        longest.append((1 << 20) - longest.size() - 3, 'x').append("\"}}");
        REQUIRE(longest.size() == 1 << 20);
        fixture.write(client, longest + "\n");
        CHECK(fixture.read_line(client)["ok"] == true);
    }

    TEST_CASE("a follower gets the recent events, then each new one, none missed and none twice") {
        Fixture fixture;
        for (uint64_t seq = 1; seq <= 3; ++seq) fixture.happen(seq);
        auto once = fixture.connect();
        CHECK(fixture.ask(once, "events")["data"]["events"].size() == 3);
        auto follower = fixture.connect();
        auto reply = fixture.ask(follower, "events", R"({"follow":true})");
        CHECK(reply["data"]["events"].size() == 3);
        CHECK(reply["data"]["events"][2]["seq"] == 3);
        // An event that the reply had is not sent again.
        fixture.server->publish(fixture.commands.events.back());
        for (uint64_t seq = 4; seq <= 6; ++seq) fixture.happen(seq);
        for (uint64_t seq = 4; seq <= 6; ++seq) {
            auto event = fixture.read_line(follower);
            CHECK(event["event"] == "online");
            CHECK(event["seq"] == seq);
        }
        // Who did not ask to follow got nothing more: the next line is the reply.
        CHECK(fixture.ask(once, "status")["ok"] == true);
    }

    TEST_CASE("a follower that only listens is kept, and the first event of all reaches it") {
        Fixture fixture;
        auto follower = fixture.connect();
        fixture.write(follower,
                      "{\"v\":1,\"id\":1,\"verb\":\"events\",\"args\":{\"follow\":true}}\n");
        ::shutdown(follower.get(), SHUT_WR);
        CHECK(fixture.read_line(follower)["data"]["events"].empty());
        for (int i = 0; i < 5; ++i) fixture.loop.run_once(1ms);
        fixture.happen(1);
        CHECK(fixture.read_line(follower)["seq"] == 1);
    }

    TEST_CASE("a follower that does not read is dropped, and the others go on") {
        Fixture fixture;
        auto slow = fixture.connect();
        auto quick = fixture.connect();
        fixture.ask(slow, "events", R"({"follow":true})");
        fixture.ask(quick, "events", R"({"follow":true})");
        std::string read;
        Event event = event_of(EventKind::error, ErrorData{"system", std::string(100'000, 'x')});
        for (uint64_t seq = 1; seq <= 60; ++seq) {
            event.seq = seq;
            fixture.server->publish(event);
            REQUIRE(fixture.until([&] {
                Fixture::read_more(quick, read);
                return static_cast<uint64_t>(std::count(read.begin(), read.end(), '\n')) == seq;
            }));
        }
        CHECK(fixture.server->clients() == 1);
        CHECK(fixture.ends(slow));
    }

    TEST_CASE("a client that reads late gets all of what waited") {
        Fixture fixture;
        auto late = fixture.connect();
        fixture.ask(late, "events", R"({"follow":true})");
        Event event = event_of(EventKind::error, ErrorData{"system", std::string(100'000, 'x')});
        for (uint64_t seq = 1; seq <= 30; ++seq) {
            event.seq = seq;
            fixture.server->publish(event);
        }
        for (uint64_t seq = 1; seq <= 30; ++seq) CHECK(fixture.read_line(late)["seq"] == seq);
    }

    TEST_CASE("a peer that is neither root nor the master's user is sent away" *
              doctest::skip(::geteuid() != 0)) {
        Fixture fixture;
        REQUIRE(::chmod(fixture.folder.c_str(), 0755) == 0);
        REQUIRE(::chmod(fixture.path.c_str(), 0666) == 0);
        REQUIRE(::seteuid(65534) == 0);
        Fd stranger = fixture.connect();
        REQUIRE(::seteuid(0) == 0);
        CHECK(fixture.read_line(stranger)["error"]["code"] == "denied");
        CHECK(fixture.ends(stranger));
        CHECK(fixture.commands.calls.empty());
    }

    TEST_CASE("too many clients at once are told so, and room is made again") {
        Fixture fixture;
        std::vector<Fd> clients(128);
        for (auto& client : clients) {
            client = fixture.connect();
            fixture.ask(client, "status");
        }
        Fd one_more = fixture.connect();
        CHECK(fixture.read_line(one_more)["error"]["code"] == "busy");
        clients.pop_back();
        REQUIRE(fixture.until([&] { return fixture.server->clients() == 127; }));
        Fd again = fixture.connect();
        CHECK(fixture.ask(again, "status")["ok"] == true);
    }
}
