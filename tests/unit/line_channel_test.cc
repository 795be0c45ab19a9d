// SPDX-License-Identifier: MIT
//
// The message channel over real pipes: the master's end against a forked child that uses
// include/drover/worker.hpp, or against bare bytes.
#include "worker/line_channel.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/wait.h>

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <drover/worker.hpp>
#include <functional>
#include <random>
#include <vector>

#include "worker/line_protocol.h"

using namespace drover;
using namespace std::chrono_literals;
using worker::Address;
using worker::LineChannel;

namespace {

constexpr auto kDeadline = 120s;  // for the slowest machine, under a sanitizer
constexpr int kChildFailed = 9;

struct Recorder : worker::ChannelObserver {
    std::vector<std::string> told;
    std::vector<Error> errors;
    std::function<void(const std::string&)> on_message;  // instead of `told`
    std::function<void()> always;

    void add(std::string what) {
        told.push_back(std::move(what));
        if (always) always();
    }
    void on_channel_ready(uint64_t) override { add("ready"); }
    void on_channel_message(uint64_t, const std::string& data, Address to) override {
        if (on_message) return on_message(data);
        auto whom = to.kind == Address::Kind::all      ? "all"
                    : to.kind == Address::Kind::master ? "master"
                                                       : std::to_string(to.worker);
        add(data + " to " + whom);
    }
    void on_channel_load(uint64_t, double value) override { add(fmt::format("load {}", value)); }
    void on_channel_disconnect(uint64_t) override { add("disconnect"); }
    void on_channel_pong(uint64_t) override { add("pong"); }
    void on_channel_error(uint64_t, const Error& error) override {
        errors.push_back(error);
        add(error.code);
    }
    void on_channel_closed(uint64_t) override { add("closed"); }
};

using Told = std::vector<std::string>;

// A channel whose worker's ends are here, too.
struct Bench {
    EventLoop loop = std::move(*EventLoop::open());
    Recorder recorder;
    std::unique_ptr<LineChannel> channel;
    Fd read_end, write_end;  // the worker's
    pid_t child = 0;

    explicit Bench(uint64_t id = 7) : channel(open_channel(loop, recorder, id)) {
        auto fds = channel->child_fds();
        read_end.reset(::fcntl(fds.read, F_DUPFD_CLOEXEC, 3));
        write_end.reset(::fcntl(fds.write, F_DUPFD_CLOEXEC, 3));
    }
    ~Bench() {
        if (child == 0) return;
        ::kill(child, SIGKILL);
        ::waitpid(child, nullptr, 0);
    }

    static std::unique_ptr<LineChannel> open_channel(EventLoop& loop, Recorder& recorder,
                                                     uint64_t id) {
        std::signal(SIGPIPE, SIG_IGN);
        auto opened = LineChannel::open(loop, id, 0, 4, recorder);
        REQUIRE(opened);
        return std::move(*opened);
    }

    // A worker that holds all four ends, as a spawned one does, and none of the master's.
    void fork_child(const std::function<int(drover::Channel)>& run) {
        child = ::fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            auto fds = channel->child_fds();
            // Each is given, as by an exec; the master's own are not.
            for (int* fd : {&fds.read, &fds.write, &fds.spare_write, &fds.spare_read})
                *fd = ::fcntl(*fd, F_DUPFD, 3);
            channel.reset();
            read_end.reset();
            write_end.reset();
            ::setenv("DROVER_IPC_READ_FD", std::to_string(fds.read).c_str(), 1);
            ::setenv("DROVER_IPC_WRITE_FD", std::to_string(fds.write).c_str(), 1);
            ::alarm(static_cast<unsigned>(kDeadline.count()));
            ::_exit(run(drover::Channel::open()));
        }
        let_go();
    }
    void let_go() {
        channel->close_child_ends();
        read_end.reset();
        write_end.reset();
    }
    int wait_for_child() {
        int status = 0;
        REQUIRE(::waitpid(std::exchange(child, 0), &status, 0) > 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    }

    template <class Condition>
    bool run_until(Condition condition) {
        auto end = std::chrono::steady_clock::now() + kDeadline;
        while (!condition() && std::chrono::steady_clock::now() < end) loop.run_once(10ms);
        return condition();
    }
    // Serves all that is there.
    void settle() {
        for (int i = 0; i < 200; ++i) loop.run_once(0ms);
    }
    void write(std::string_view bytes) const {
        REQUIRE(::write(write_end.get(), bytes.data(), bytes.size()) ==
                static_cast<ssize_t>(bytes.size()));
    }
    // More than a pipe holds: the loop must run meanwhile.
    void write_much(std::string_view bytes) {
        REQUIRE(::fcntl(write_end.get(), F_SETFL, O_NONBLOCK) == 0);
        while (!bytes.empty()) {
            auto size = ::write(write_end.get(), bytes.data(), bytes.size());
            if (size > 0) bytes.remove_prefix(static_cast<size_t>(size));
            loop.run_once(0ms);
        }
    }
    std::string read() const {
        REQUIRE(::fcntl(read_end.get(), F_SETFL, O_NONBLOCK) == 0);
        std::string text;
        char bytes[65536];
        for (ssize_t size; (size = ::read(read_end.get(), bytes, sizeof(bytes))) > 0;)
            text.append(bytes, static_cast<size_t>(size));
        return text;
    }
};

bool is_nonblocking(int fd) {
    return (::fcntl(fd, F_GETFL) & O_NONBLOCK) != 0;
}

// The i-th message: sizes log-uniform from 1 byte to as much as a line takes, the first and the
// last being the extremes. Both sides make the same ones.
class Messages {
  public:
    static constexpr int kCount = 500;
    // {"type":"message","data":…,"from":"master"} is the longest that goes around it.
    static constexpr size_t kLongest = worker::kMaxLine - 45;

    explicit Messages(unsigned seed) : random_(seed), pool_(2 * kLongest, ' ') {
        for (char& byte : pool_) byte = static_cast<char>('a' + random_() % 26);
    }

    std::string next() {
        double share = std::uniform_real_distribution<>(0, 1)(random_);
        auto size = static_cast<size_t>(std::exp(share * std::log(double{kLongest})));
        if (made_ == 0) size = 1;
        if (made_ == kCount - 1) size = kLongest;
        ++made_;
        if (size < 2) return std::to_string(random_() % 10);
        // Random bytes from a random place: no checksum is needed where every byte is compared.
        std::string json = "\"";
        json.append(pool_, random_() % (pool_.size() - size), size - 2);
        if (size > 8) json.replace(3, 2, "\xC3\xA4");
        return json += '"';
    }

  private:
    std::mt19937 random_;
    std::string pool_;
    int made_ = 0;
};

// Sends all to the master while it takes all of the master's; nothing may be lost or out of order.
int talk(drover::Channel channel) {
    Messages outgoing(1), incoming(2);
    std::optional<std::string> unsent;
    int sent = 0, received = 0;
    while (sent < Messages::kCount || received < Messages::kCount) {
        if (sent < Messages::kCount) {
            if (!unsent) unsent = outgoing.next();
            auto result = channel.send(*unsent);
            if (result == Sent::yes) {
                unsent.reset();
                ++sent;
            } else if (result != Sent::queue_full) {
                return kChildFailed;
            }
        }
        bool is_stuck = unsent || sent == Messages::kCount;
        auto message = is_stuck ? channel.wait(10ms) : channel.receive();
        if (!message) continue;
        if (message->data != incoming.next() || message->from != 0) return kChildFailed;
        ++received;
    }
    return channel.flush(kDeadline) ? 0 : kChildFailed;
}

}  // namespace

TEST_CASE("a worker gets four ends, of which none can make the master block") {
    Bench bench;
    auto fds = bench.channel->child_fds();
    for (int fd : {fds.read, fds.write, fds.spare_write, fds.spare_read}) {
        REQUIRE(fd >= 0);
        CHECK((::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
        CHECK(!is_nonblocking(fd));
    }
    // What the worker does to its spare ends is not done to the master's.
    REQUIRE(::fcntl(fds.spare_write, F_SETFL, 0) == 0);
    REQUIRE(::fcntl(fds.spare_read, F_SETFL, 0) == 0);
    Result<void> sent;
    while (sent) sent = bench.channel->send("\"" + std::string(100'000, 'x') + "\"", 0);
    CHECK(sent.error().code == "queue-full");
    bench.settle();

    bench.channel->close_child_ends();
    CHECK(bench.channel->child_fds().read == -1);
    CHECK(bench.channel->child_fds().spare_read == -1);
}

TEST_CASE("the hello is the first line") {
    Bench bench;
    REQUIRE(bench.channel->send("1", 3));
    REQUIRE(bench.channel->disconnect(5s));
    REQUIRE(bench.channel->ping());
    CHECK(bench.read() == worker::hello_line(7, 0, 4) + worker::message_line("1", 3) +
                              worker::disconnect_line(5s) + worker::ping_line());
}

TEST_CASE("what the worker says is told in order") {
    Bench bench;
    bench.write("{\"type\":\"ready\"}\n{\"type\":\"message\",\"data\":[1],\"to\":\"all\"}\n");
    bench.write("{\"type\":\"message\",\"data\":2,\"to\":9}\n{\"type\":\"load\",\"value\":0.25}\n");
    bench.write("{\"type\":\"news\"}\n{\"type\":\"pong\"}\n{\"type\":\"disconnect\"}\n");
    bench.settle();
    CHECK(bench.recorder.told ==
          Told{"ready", "[1] to all", "2 to 9", "load 0.25", "pong", "disconnect"});
    CHECK(bench.channel->unknown_total() == 1);
}

TEST_CASE("lines in pieces are put together, and end with the line break alone") {
    Bench bench;
    std::string_view line = "{\"type\":\"message\",\"data\":\"x\xC3\xA4y\"}\n";
    for (char byte : line) {
        CHECK(bench.recorder.told.empty());
        bench.write({&byte, 1});
        bench.settle();
    }
    CHECK(bench.recorder.told == Told{"\"x\xC3\xA4y\" to master"});
}

TEST_CASE("a bad line is an error, is skipped, and the channel lives on") {
    const std::pair<std::string, std::string_view> cases[] = {
        {"{\"type\":", "malformed"},
        {"", "malformed"},
        {"{\"type\":\"message\",\"data\":\"\xFF\"}", "malformed"},
        {"{\"type\":\"message\",\"data\":" + std::string(60'000, '[') + "}", "malformed"},
        {"{\"type\":\"message\"}", "malformed"},
        {"{\"type\":\"message\",\"data\":\"" + std::string(worker::kMaxLine, 'x') + "\"}",
         "oversized"},
        {std::string(5 * worker::kMaxLine, '\0'), "oversized"},
    };
    for (const auto& [line, code] : cases) {
        Bench bench;
        bench.write_much(line + "\n{\"type\":\"ready\"}\n");
        bench.settle();
        CHECK(bench.recorder.told == Told{std::string(code), "ready"});
        CHECK(bench.recorder.errors.front().text.size() < 200);
    }
}

TEST_CASE("the longest line that is allowed gets through") {
    Bench bench;
    std::string head = "{\"type\":\"message\",\"data\":\"", tail = "\"}";
    auto data = std::string(worker::kMaxLine - head.size() - tail.size(), 'x');
    size_t size = 0;
    bench.recorder.on_message = [&](const std::string& got) { size = got.size(); };
    bench.write_much(head + data + tail + "\n");
    bench.settle();
    CHECK(size == data.size() + 2);
    bench.write_much(head + data + "x" + tail + "\n");
    bench.settle();
    CHECK(bench.recorder.told == Told{"oversized"});
    // To the worker, it does not fit any more with who sent it.
    auto sent = bench.channel->send("\"" + data + "\"", 0);
    REQUIRE(!sent);
    CHECK(sent.error().code == "oversized");
}

TEST_CASE("a worker that writes only garbage fills no event log") {
    Bench bench;
    bench.write_much(std::string(LineChannel::kMaxTurn, '\n'));
    bench.settle();
    size_t turns = 0;
    for (const auto& error : bench.recorder.errors)
        turns += error.text.find("more lines were refused") != std::string::npos ? 1 : 0;
    CHECK(turns >= 1);
    CHECK(bench.recorder.errors.size() <= turns * (LineChannel::kMaxErrorsPerTurn + 1));
    bench.write("{\"type\":\"ready\"}\n");
    bench.settle();
    CHECK(bench.recorder.told.back() == "ready");
}

TEST_CASE("a full queue takes nothing of a message, and all of it later") {
    Bench bench;
    const auto data = "\"" + std::string(100'000, 'x') + "\"";
    size_t sent = 0;
    Result<void> result;
    for (; (result = bench.channel->send(data, 0)); ++sent) continue;
    CHECK(result.error().code == "queue-full");
    CHECK(bench.channel->queued_bytes() <= worker::kMaxQueued);
    CHECK(bench.channel->queued_bytes() > worker::kMaxQueued - data.size() - 100);
    // To be asked to go is not a matter of room.
    while (bench.channel->ping()) continue;
    CHECK(bench.channel->disconnect(1s));

    std::string text;
    CHECK(bench.run_until([&] {
        text += bench.read();
        return bench.channel->queued_bytes() == 0;
    }));
    text += bench.read();
    size_t messages = 0;
    for (size_t at = 0; (at = text.find(data, at)) != std::string::npos; at += data.size())
        ++messages;
    CHECK(messages == sent);
    CHECK(text.ends_with(worker::disconnect_line(1s)));
    CHECK(bench.channel->send(data, 0));
}

TEST_CASE("closing reads what the worker wrote last, and tells of the half line") {
    Bench bench;
    bench.write("{\"type\":\"ready\"}\n");
    for (int i = 0; i < 1000; ++i) bench.write("{\"type\":\"message\",\"data\":1}\n");
    bench.write("{\"type\":\"mess");
    bench.channel->close();
    auto& told = bench.recorder.told;
    REQUIRE(told.size() == 1003);
    CHECK(told.front() == "ready");
    CHECK(told[1001] == "truncated");
    CHECK(told[1002] == "closed");
    bench.channel->close();
    CHECK(told.size() == 1003);
    CHECK(bench.channel->send("1", 0).error().code == "closed");
    CHECK(bench.channel->disconnect(1s).error().code == "closed");
}

TEST_CASE("a worker that closes its ends is no end of the channel, and keeps nobody busy") {
    Bench bench;
    bench.write("{\"type\":\"ready\"}\n{\"ty");
    bench.channel->close_child_ends();
    bench.write_end.reset();
    bench.settle();
    CHECK(bench.recorder.told == Told{"ready", "truncated"});
    // The other direction is still there.
    REQUIRE(bench.channel->send("1", 0));
    CHECK(bench.read().ends_with(worker::message_line("1", 0)));
    bench.read_end.reset();
    CHECK(bench.channel->send("2", 0).error().code == "closed");
    auto began = std::chrono::steady_clock::now();
    bench.loop.run_once(50ms);
    CHECK(std::chrono::steady_clock::now() - began >= 50ms);
    bench.channel->close();
    CHECK(bench.recorder.told == Told{"ready", "truncated", "closed"});
}

TEST_CASE("a worker that closes what it reads from can still be heard") {
    Bench bench;
    bench.channel->close_child_ends();
    bench.read_end.reset();
    CHECK(bench.channel->send("1", 0).error().code == "closed");
    bench.write("{\"type\":\"ready\"}\n");
    bench.settle();
    CHECK(bench.recorder.told == Told{"ready"});
}

TEST_CASE("the observer may close or destroy the channel from within any call") {
    for (bool destroys : {false, true}) {
        for (auto line : {"{\"type\":\"ready\"}\n", "garbage\n", "{\"type\":\"pong\"}\n"}) {
            Bench bench;
            bench.recorder.always = [&] {
                bench.recorder.always = nullptr;
                if (destroys) return bench.channel.reset();
                bench.channel->close();
            };
            for (int i = 0; i < 100; ++i) bench.write(line);
            bench.settle();
            CHECK(bench.recorder.told.size() == (destroys ? 1 : 2));
        }
        Bench bench;
        bench.write("half");
        bench.recorder.always = [&] {
            bench.recorder.always = nullptr;
            if (destroys) bench.channel.reset();
        };
        bench.channel->close();
        CHECK(bench.recorder.told == (destroys ? Told{"truncated"} : Told{"truncated", "closed"}));
    }
}

TEST_CASE("500 messages each way, 1 byte to 1 MiB: none is lost, changed or out of order") {
    Bench bench;
    Messages outgoing(2), incoming(1);
    int received = 0, wrong = 0;
    bench.recorder.on_message = [&](const std::string& data) {
        wrong += data != incoming.next() ? 1 : 0;
        ++received;
    };
    bench.fork_child(talk);
    int sent = 0, refused = 0;
    std::optional<std::string> unsent;
    CHECK(bench.run_until([&] {
        while (sent < Messages::kCount) {
            if (!unsent) unsent = outgoing.next();
            auto result = bench.channel->send(*unsent, 0);
            if (!result) {
                CHECK(result.error().code == "queue-full");
                ++refused;
                break;
            }
            unsent.reset();
            ++sent;
        }
        return sent == Messages::kCount && received == Messages::kCount &&
               bench.channel->queued_bytes() == 0;
    }));
    CHECK(wrong == 0);
    CHECK(refused > 0);  // else the queue's limit was not tried
    CHECK(bench.wait_for_child() == 0);
    CHECK(bench.recorder.errors.empty());
}

TEST_CASE("a worker that stops reading, and one that floods, slow nobody else") {
    Bench bench;
    Recorder deaf_recorder, flood_recorder;
    auto deaf = Bench::open_channel(bench.loop, deaf_recorder, 8);  // nobody reads
    auto flood = Bench::open_channel(bench.loop, flood_recorder, 9);
    bench.fork_child([](drover::Channel channel) {
        for (;;) {
            auto message = channel.wait(kDeadline);
            if (!message || channel.send(message->data) != Sent::yes) return kChildFailed;
        }
    });
    Fd flood_end(::fcntl(flood->child_fds().write, F_DUPFD_CLOEXEC, 3));
    REQUIRE(::fcntl(flood_end.get(), F_SETFL, O_NONBLOCK) == 0);
    uint64_t flooded = 0;
    flood_recorder.on_message = [&](const std::string&) { ++flooded; };
    std::string lines;
    while (lines.size() < LineChannel::kMaxTurn) lines += "{\"type\":\"message\",\"data\":1}\n";

    while (deaf->send("\"" + std::string(50'000, 'x') + "\"", 0)) continue;
    // Each message goes forth and back while the flood's pipe is filled anew in every round.
    int round_trips = 0, rounds = 0;
    bench.recorder.on_message = [&](const std::string&) {
        ++round_trips;
        (void)bench.channel->send("1", 0);
    };
    REQUIRE(bench.channel->send("1", 0));
    CHECK(bench.run_until([&] {
        ++rounds;
        (void)!::write(flood_end.get(), lines.data(), lines.size());
        return round_trips == 200;
    }));
    CHECK(flooded > 0);
    MESSAGE("200 round trips in " << rounds << " rounds, " << flooded << " messages of the flood");
    CHECK(!deaf->send("\"" + std::string(50'000, 'x') + "\"", 0));
}

TEST_CASE("one turn of a flood is bounded") {
    Bench bench;
    REQUIRE(::fcntl(bench.write_end.get(), F_SETPIPE_SZ, 1024 * 1024) > 0);
    size_t messages = 0;
    bench.recorder.on_message = [&](const std::string&) { ++messages; };
    const std::string_view line = "{\"type\":\"message\",\"data\":1}\n";
    std::string lines;
    while (lines.size() < 500'000) lines += line;
    bench.write(lines);
    bench.loop.run_once(0ms);
    CHECK(messages > 0);
    CHECK(messages <= LineChannel::kMaxTurn / line.size());
}

TEST_CASE("the master's death is no end of file for a worker, and no SIGPIPE") {
    Bench bench;
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    Fd dead_read(ends[0]), dead_write(ends[1]);
    bench.fork_child([&](drover::Channel channel) {
        std::signal(SIGPIPE, SIG_DFL);
        dead_write.reset();
        channel.ready();
        pollfd death{dead_read.get(), POLLIN, 0};
        if (::poll(&death, 1, -1) != 1) return kChildFailed;
        if (channel.wait(20ms) || channel.fd() < 0) return kChildFailed;
        Sent sent = Sent::yes;
        for (auto data = std::string(1000, '1'); sent == Sent::yes;) sent = channel.send(data);
        return sent == Sent::queue_full && channel.is_open() ? 0 : kChildFailed;
    });
    CHECK(bench.run_until([&] { return bench.recorder.told == Told{"ready"}; }));
    bench.channel.reset();
    dead_write.reset();
    CHECK(bench.wait_for_child() == 0);
}
