// SPDX-License-Identifier: MIT
//
// The logger: its pure parts, its sinks, and the Logger itself over real pipes and a real socket.
#include "logger/logger.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <csignal>
#include <cstring>

#include "base/safe_text.h"

using namespace drover;
using namespace drover::logger;
using namespace std::chrono_literals;

namespace {

struct TwoEnds {
    Fd read;
    Fd write;
};

TwoEnds make_pipe() {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    return {Fd(ends[0]), Fd(ends[1])};
}

void put(int fd, std::string_view text) {
    REQUIRE(::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
}

// What can be read now, without waiting.
std::string take(int fd) {
    REQUIRE(::fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    std::string text;
    char bytes[65536];
    for (ssize_t size; (size = ::read(fd, bytes, sizeof(bytes))) > 0;)
        text.append(bytes, static_cast<size_t>(size));
    return text;
}

// A Logger whose stdout and stderr are pipes that the test reads.
class Bench {
  public:
    explicit Bench(const Settings& settings = {})
        : loop_(std::move(*EventLoop::open())), out_(make_pipe()), err_(make_pipe()) {
        std::signal(SIGPIPE, SIG_IGN);
        int ends[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
        control_.reset(ends[0]);
        Outlets outlets("web", out_.write.get(), err_.write.get(), settings, "");
        logger_ =
            std::make_unique<Logger>(loop_, Fd(ends[1]), std::move(outlets), "web", settings.rate);
        REQUIRE(logger_->start([this] { has_ended_ = true; }));
    }

    void send(const std::string& text, int fd) {
        alignas(cmsghdr) char rights[CMSG_SPACE(sizeof(int))] = {};
        iovec buffer{const_cast<char*>(text.data()), text.size()};
        msghdr message{};
        message.msg_iov = &buffer;
        message.msg_iovlen = 1;
        message.msg_control = rights;
        message.msg_controllen = sizeof(rights);
        cmsghdr* part = CMSG_FIRSTHDR(&message);
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(sizeof(int));
        std::memcpy(CMSG_DATA(part), &fd, sizeof(fd));
        REQUIRE(::sendmsg(control_.get(), &message, 0) > 0);
    }

    // The answer to a question for the worker's last lines.
    std::string ask(int worker) {
        auto text = fmt::format(R"({{"tail":{}}})", worker);
        REQUIRE(::send(control_.get(), text.data(), text.size(), 0) > 0);
        settle();
        char answer[65536];
        auto size = ::recv(control_.get(), answer, sizeof(answer), MSG_DONTWAIT);
        return size > 0 ? std::string(answer, static_cast<size_t>(size)) : "";
    }

    // A worker's pipe; returns the end that the worker writes to. Its ID is one more.
    Fd add(int instance, const std::string& stream) {
        auto pipe = make_pipe();
        send(fmt::format(R"({{"worker":{},"instance":{},"stream":"{}"}})", instance + 1, instance,
                         stream),
             pipe.read.get());
        return std::move(pipe.write);
    }

    // All that is ready is served: nothing was for a whole turn.
    void settle() {
        for (int turn = 0; turn < 50; ++turn) loop_.run_once(0us);
    }

    void turn(int times) {
        for (int i = 0; i < times; ++i) loop_.run_once(0us);
    }

    std::string out() { return settle(), take(out_.read.get()); }
    std::string err_now() { return take(err_.read.get()); }
    // Something comes within a second.
    std::string wait_err() {
        auto end = std::chrono::steady_clock::now() + 1s;
        std::string text;
        while ((text = take(err_.read.get())).empty() && std::chrono::steady_clock::now() < end)
            loop_.run_once(10ms);
        return text;
    }
    // What the master is told.
    std::string received() {
        char message[4096];
        auto size = ::recv(control_.get(), message, sizeof(message), MSG_DONTWAIT);
        return size > 0 ? std::string(message, static_cast<size_t>(size)) : "";
    }
    std::string err() { return settle(), take(err_.read.get()); }
    bool has_ended() { return settle(), has_ended_; }
    Logger& logger() { return *logger_; }
    void close_control() { control_.reset(); }
    void break_out() { out_.read.reset(); }

  private:
    EventLoop loop_;
    TwoEnds out_;
    TwoEnds err_;
    Fd control_;
    std::unique_ptr<Logger> logger_;
    bool has_ended_ = false;
};

}  // namespace

TEST_CASE("the last twenty lines are kept, cut where they are long") {
    Tail tail;
    tail.feed("");
    CHECK(tail.lines().empty());
    tail.feed("one\ntwo\n");
    CHECK(tail.lines() == std::deque<std::string>{"one", "two"});
    std::string many;
    for (int i = 0; i < 100; i++) many += fmt::format("{}\n", i);
    tail.feed(many);
    REQUIRE(tail.lines().size() == Tail::kLines);
    CHECK(tail.lines().front() == "80");
    CHECK(tail.lines().back() == "99");
    tail.feed("\n" + std::string(5000, 'a') + "\n");
    CHECK(tail.lines().back().size() == Tail::kLongest);
    CHECK(tail.lines()[Tail::kLines - 2].empty());
    CHECK(tail.lines().front() == "82");
}

TEST_CASE("the logger tells a worker's last lines, what is still in its pipes included") {
    Bench bench;
    Fd out = bench.add(0, "out");
    Fd err = bench.add(0, "err");
    bench.settle();
    put(out.get(), "first\n");
    CHECK(bench.ask(1) == R"({"lines":["first"],"tail":1})");
    put(err.get(), "no\nnewline");
    out.reset();
    err.reset();
    // Both are at their end, and the worker is gone: it is told all the same.
    CHECK(bench.ask(1) == R"({"lines":["first","no","newline"],"tail":1})");
    CHECK(bench.ask(2) == R"({"lines":[],"tail":2})");
}

TEST_CASE("whole lines are given out, a partial one waits for its rest") {
    LineSplitter lines;
    CHECK(lines.feed("one\ntw") == "one\n");
    CHECK(lines.feed("o").empty());
    CHECK(lines.feed("\n\nthree\n") == "two\n\nthree\n");
    CHECK(lines.finish().empty());
}

TEST_CASE("a last line without a newline is completed") {
    LineSplitter lines;
    CHECK(lines.feed("bye").empty());
    CHECK(lines.finish() == "bye\n");
    CHECK(lines.finish().empty());
}

TEST_CASE("a line that is too long is cut into pieces") {
    constexpr auto kLongest = LineSplitter::kLongest;
    std::string longest(kLongest, 'x');
    LineSplitter lines;
    CHECK(lines.feed(longest + longest + "yy\nz\n") == longest + "\n" + longest + "\nyy\nz\n");
    // Exactly full: the newline ends the piece and is no empty line, however the bytes arrive.
    CHECK(lines.feed(longest + "\n" + "z\n") == longest + "\nz\n");
    CHECK(lines.feed(longest) == longest + "\n");
    CHECK(lines.feed("\n\nz\n") == "\nz\n");
}

TEST_CASE("the same bytes give the same lines, however they are split") {
    std::string text = std::string(70'000, 'a') + "\n\nb\n" + std::string(65'536, 'c') + "\nd";
    LineSplitter whole;
    auto expected = whole.feed(text);
    expected += whole.finish();
    for (size_t step : {1u, 7u, 4096u, 65536u}) {
        LineSplitter lines;
        std::string found;
        for (size_t at = 0; at < text.size(); at += step)
            found += lines.feed(text.substr(at, step));
        found += lines.finish();
        bool is_same = found == expected;  // a failure shall not print 200 KB
        CHECK(is_same);
    }
}

TEST_CASE("for a terminal everything that could steer it is escaped, colours are not") {
    auto safe = made_safe;
    CHECK(safe("\x1b[1;31mred\x1b[0m\ttab") == "\x1b[1;31mred\x1b[0m\ttab");
    CHECK(safe("\x1b[2J") == "\\x1b[2J");
    CHECK(safe("\x1b]0;title\x07") == "\\x1b]0;title\\x07");
    CHECK(safe("\x1b[31") == "\\x1b[31");
    CHECK(safe("a\rb\x08\x7f") == "a\\x0db\\x08\\x7f");
    CHECK(safe("windows\r") == "windows");
    CHECK(safe("grüße €😀") == "grüße €😀");
    CHECK(safe("\xc2\x9b"
               "2J") == "\\xc2\\x9b2J");  // CSI as one character
    CHECK(safe("\x9b"
               "2J\xff\xe2\x82") == "\\x9b2J\\xff\\xe2\\x82");
    CHECK(safe("\xc0\x9b\xed\xa0\x80") == "\\xc0\\x9b\\xed\\xa0\\x80");
    CHECK(safe(safe("\x1b[2J\xff ü")) == "\\x1b[2J\\xff ü");
}

TEST_CASE("a sink knows a terminal") {
    int master = -1, terminal = -1;
    REQUIRE(::openpty(&master, &terminal, nullptr, nullptr, nullptr) == 0);
    Fd master_fd(master);
    Fd terminal_fd(terminal);
    auto pipe = make_pipe();
    Sink to_terminal(terminal, "", 0ms);
    Sink to_pipe(pipe.write.get(), "", 0ms);
    to_terminal.open();
    to_pipe.open();
    CHECK(to_terminal.is_terminal());
    CHECK_FALSE(to_pipe.is_terminal());
    to_terminal.write("hello\n");
    CHECK(take(master) == "hello\r\n");
    CHECK((::fcntl(terminal, F_GETFL) & O_NONBLOCK) == 0);
}

TEST_CASE("a sink that nobody empties costs lines, which are counted and told of") {
    auto pipe = make_pipe();
    Sink sink(pipe.write.get(), "[web] ", 1ms);
    sink.open();
    std::string line = std::string(99, 'x') + "\n";
    std::string many;
    for (int i = 0; i < 1000; ++i) many += line;
    sink.write(many);
    auto lost = sink.discarded_lines_total();
    CHECK(lost > 0);
    CHECK(lost < 1000);
    sink.write("lost too\n");
    CHECK(sink.discarded_lines_total() == lost + 1);
    auto before = take(pipe.read.get());
    sink.write("back\n");
    auto all = before + take(pipe.read.get());
    std::string expected;
    for (uint64_t i = 0; i < 1000 - lost; ++i) expected += line;
    expected += fmt::format(
        "[web] drover: {} lines discarded: this output could not be written\nback\n", lost + 1);
    CHECK(all == expected);
    CHECK((::fcntl(pipe.write.get(), F_GETFL) & O_NONBLOCK) == 0);
}

TEST_CASE("each worker's lines carry its instance and keep their stream") {
    Bench bench;
    auto first = bench.add(0, "out");
    auto second = bench.add(1, "err");
    put(first.get(), "hello\nworld\n");
    put(second.get(), "oops\n");
    CHECK(bench.out() == "[web/0] hello\n[web/0] world\n");
    CHECK(bench.err() == "[web/1] oops\n");
}

TEST_CASE("the logger ends when its socket is closed and the last pipe too, not before") {
    Bench bench;
    auto worker = bench.add(3, "out");
    bench.close_control();
    CHECK_FALSE(bench.has_ended());
    put(worker.get(), "last words");
    CHECK(bench.out().empty());
    CHECK_FALSE(bench.has_ended());
    worker.reset();
    CHECK(bench.out() == "[web/3] last words\n");
    CHECK(bench.has_ended());
}

TEST_CASE("the logger lives without pipes as long as its socket") {
    Bench bench;
    bench.add(0, "out").reset();
    CHECK_FALSE(bench.has_ended());
    CHECK(bench.logger().pipes() == 0);
    bench.close_control();
    CHECK(bench.has_ended());
}

TEST_CASE("a broken output costs lines and nothing else") {
    Bench bench;
    auto worker = bench.add(0, "out");
    auto other = bench.add(1, "err");
    bench.break_out();
    put(worker.get(), "one\ntwo\n");
    put(other.get(), "still here\n");
    CHECK(bench.err() == "[web/1] still here\n");
    CHECK(bench.logger().discarded_lines_total() == 2);
    CHECK(bench.logger().pipes() == 2);
}

TEST_CASE("a worker that has much to say does not keep the logger from the others") {
    Bench bench;
    auto talkative = bench.add(0, "out");
    auto terse = bench.add(1, "err");
    bench.settle();
    bench.break_out();
    REQUIRE(::fcntl(talkative.get(), F_SETPIPE_SZ, 1 << 20) == 1 << 20);
    std::string much;
    while (much.size() < 1 << 20) much += "abcdefg\n";
    put(talkative.get(), much);
    put(terse.get(), "me too\n");
    bench.turn(3);
    CHECK(bench.err_now() == "[web/1] me too\n");
    int unread = 0;
    REQUIRE(::ioctl(talkative.get(), FIONREAD, &unread) == 0);
    CHECK(unread > 1 << 19);
}

TEST_CASE("a worker that prints too much loses the rest, which is told, to the master as well") {
    Settings settings;
    settings.rate = {3, 50ms};
    Bench bench(settings);
    auto noisy = bench.add(0, "out");
    auto other = bench.add(1, "out");
    put(noisy.get(), "1\n2\n3\n4\n5\n");
    put(other.get(), "fine\n");
    CHECK(bench.out() == "[web/0] 1\n[web/0] 2\n[web/0] 3\n[web/1] fine\n");
    noisy.reset();  // its end is early enough to tell
    CHECK(bench.wait_err() ==
          "drover: warning: web/0: 2 lines of worker 1 were dropped: it printed more than 3 in "
          "50ms\n");
    CHECK(bench.received() == R"({"worker":1,"dropped":2})");
}

TEST_CASE("messages that make no sense are ignored and their fds closed") {
    Bench bench;
    for (const char* text : {"", "nonsense", "[]", "{}", R"({"instance":"0","stream":"out"})"}) {
        if (*text == '\0') continue;
        auto pipe = make_pipe();
        bench.send(text, pipe.read.get());
        pipe.read.reset();
        bench.settle();
        CHECK(::write(pipe.write.get(), "x", 1) == -1);  // EPIPE: nobody holds the read end
    }
    CHECK(bench.logger().pipes() == 0);
    auto worker = bench.add(0, "out");
    put(worker.get(), "fine\n");
    CHECK(bench.out() == "[web/0] fine\n");
}
