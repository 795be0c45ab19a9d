// SPDX-License-Identifier: MIT
//
// include/drover/worker.hpp by itself: the worker's end against bare pipes, and a program that is
// not under drover. Together with the master's end it is tested in line_channel_test.cc.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <drover/worker.hpp>
#include <limits>
#include <map>

#include "base/fd.h"

using drover::Fd;
using drover::Message;
using drover::Sent;
using drover::To;
using namespace std::chrono_literals;

namespace {

// Variables for one test; as they were afterwards.
class Environment {
  public:
    explicit Environment(const std::map<std::string, std::string>& variables) {
        for (auto name :
             {"DROVER_WORKER_ID", "DROVER_INSTANCE", "DROVER_WORKERS", "DROVER_IPC_READ_FD",
              "DROVER_IPC_WRITE_FD", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) {
            if (const char* value = std::getenv(name)) before_[name] = value;
            ::unsetenv(name);
        }
        for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
        for (const auto& [name, value] : variables) set_.push_back(name);
    }
    ~Environment() {
        for (const auto& name : set_) ::unsetenv(name.c_str());
        for (const auto& [name, value] : before_) ::setenv(name.c_str(), value.c_str(), 1);
    }

  private:
    std::map<std::string, std::string> before_;
    std::vector<std::string> set_;
};

struct Pipes {
    Fd worker_read, master_write, master_read, worker_write;
    drover::Channel channel;

    Pipes() {
        int ends[2];
        REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
        worker_read.reset(ends[0]);
        master_write.reset(ends[1]);
        REQUIRE(::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
        master_read.reset(ends[0]);
        worker_write.reset(ends[1]);
        channel = drover::Channel::open(worker_read.get(), worker_write.get());
    }
    void write(std::string_view text) const {
        REQUIRE(::write(master_write.get(), text.data(), text.size()) ==
                static_cast<ssize_t>(text.size()));
    }
    std::string read() const {
        std::string text;
        char bytes[65536];
        for (ssize_t size; (size = ::read(master_read.get(), bytes, sizeof(bytes))) > 0;)
            text.append(bytes, static_cast<size_t>(size));
        return text;
    }
};

}  // namespace

TEST_CASE("a program that is not under drover runs as ever") {
    Environment none({});
    CHECK(!drover::is_worker());
    CHECK(drover::worker_id() == 0);
    CHECK(drover::instance() == 0);
    CHECK(drover::workers() == 1);
    CHECK(drover::listening_fds().empty());
    auto channel = drover::Channel::open();
    CHECK(!channel.is_open());
    CHECK(channel.fd() == -1);
    CHECK(channel.ready() == Sent::no_channel);
    CHECK(channel.send("1") == Sent::no_channel);
    CHECK(channel.report_load(0.5) == Sent::no_channel);
    CHECK(channel.disconnect() == Sent::no_channel);
    CHECK(!channel.receive());
    CHECK(channel.flush());
    auto began = std::chrono::steady_clock::now();
    CHECK(!channel.wait(30ms));
    CHECK(std::chrono::steady_clock::now() - began >= 30ms);
}

TEST_CASE("a worker knows who it is") {
    Environment some(
        {{"DROVER_WORKER_ID", "7"}, {"DROVER_INSTANCE", "2"}, {"DROVER_WORKERS", "4"}});
    CHECK(drover::is_worker());
    CHECK(drover::worker_id() == 7);
    CHECK(drover::instance() == 2);
    CHECK(drover::workers() == 4);
}

TEST_CASE("the channel is found by the environment, and only where it is one") {
    Pipes pipes;
    auto number = [](const Fd& fd) { return std::to_string(fd.get()); };
    {
        Environment some({{"DROVER_IPC_READ_FD", number(pipes.worker_read)},
                          {"DROVER_IPC_WRITE_FD", number(pipes.worker_write)}});
        auto channel = drover::Channel::open();
        CHECK(channel.fd() == pipes.worker_read.get());
        CHECK((::fcntl(channel.fd(), F_GETFD) & FD_CLOEXEC) != 0);
        CHECK((::fcntl(channel.fd(), F_GETFL) & O_NONBLOCK) != 0);
    }
    Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    for (auto wrong : {std::string("999"), std::string("x"), std::string(""), number(null)}) {
        Environment some(
            {{"DROVER_IPC_READ_FD", wrong}, {"DROVER_IPC_WRITE_FD", number(pipes.worker_write)}});
        CHECK(!drover::Channel::open().is_open());
    }
}

TEST_CASE("what a worker sends is as documented") {
    Pipes pipes;
    CHECK(pipes.channel.ready() == Sent::yes);
    CHECK(pipes.channel.send("{\n\"a\":\r1}") == Sent::yes);
    CHECK(pipes.channel.send("1", To::all()) == Sent::yes);
    CHECK(pipes.channel.send("2", To::worker(9)) == Sent::yes);
    CHECK(pipes.channel.report_load(0.7) == Sent::yes);
    CHECK(pipes.channel.report_load(12) == Sent::yes);
    CHECK(pipes.channel.report_load(1.9999999) == Sent::yes);
    CHECK(pipes.channel.disconnect() == Sent::yes);
    CHECK(pipes.read() ==
          "{\"type\":\"ready\"}\n"
          "{\"type\":\"message\",\"data\":{ \"a\": 1}}\n"
          "{\"type\":\"message\",\"data\":1,\"to\":\"all\"}\n"
          "{\"type\":\"message\",\"data\":2,\"to\":9}\n"
          "{\"type\":\"load\",\"value\":0.700000}\n"
          "{\"type\":\"load\",\"value\":12.000000}\n"
          "{\"type\":\"load\",\"value\":2.000000}\n"
          "{\"type\":\"disconnect\"}\n");
}

TEST_CASE("what the master would refuse is not sent") {
    Pipes pipes;
    for (auto wrong : {"",
                       " ",
                       "{",
                       "{]",
                       "01",
                       "1.",
                       ".5",
                       "+1",
                       "1e",
                       "'a'",
                       "\"\n\"",
                       "\"\\x\"",
                       "\"\\ud800\"",
                       "\"\\udc00\"",
                       "\"\\udc00\\udc00\"",
                       "\"\\ud800\\u0041\"",
                       "\"\xFF\"",
                       "\"\xC3\"",
                       "tru",
                       "nulll",
                       "[1,]",
                       "[,]",
                       "{\"a\"}",
                       "{\"a\":}",
                       "{a:1}",
                       "1 2",
                       "\"a",
                       "\"\xED\xA0\x80\"",
                       "-"})
        CHECK_MESSAGE(pipes.channel.send(wrong) == Sent::invalid, std::string(wrong));
    for (auto right : {"0", "-0.5e-7", " [ ] ", "{\"a\" : [ { } , \"\\u00e4\\ud83d\\ude00\" ] }",
                       "true", "null", "\"\xF0\x9F\x98\x80\""})
        CHECK_MESSAGE(pipes.channel.send(right) == Sent::yes, std::string(right));
    auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
    CHECK(pipes.channel.send(nested(drover::Channel::kMaxDepth)) == Sent::yes);
    CHECK(pipes.channel.send(nested(drover::Channel::kMaxDepth + 1)) == Sent::invalid);
    pipes.read();
    CHECK(pipes.channel.send("\"" + std::string(drover::Channel::kMaxLine - 10, 'x') + "\"") ==
          Sent::too_long);
    for (double value : {-0.1, std::nan(""), std::numeric_limits<double>::infinity(), 1e10})
        CHECK(pipes.channel.report_load(value) == Sent::invalid);
    CHECK(pipes.read().empty());
}

TEST_CASE("messages come in order, whatever pieces they arrive in") {
    Pipes pipes;
    std::string text =
        "{\"type\":\"hello\",\"v\":1,\"id\":7,\"instance\":0,\"workers\":4}\n"
        "{\"type\":\"message\",\"data\":{\"type\":\"ping\",\"from\":5},\"from\":\"master\"}\n"
        "{\"from\" : 12 ,\"x\":[\"}\"], \"data\": \"\xC3\xA4\\\"\" , \"type\":\"message\"}\n"
        "{\"type\":\"disconnect\",\"deadline_ms\":10000}\n";
    for (size_t step : {size_t{1}, size_t{7}, text.size()}) {
        std::vector<Message> messages;
        for (size_t at = 0; at < text.size(); at += step) {
            pipes.write(std::string_view(text).substr(at, step));
            while (auto message = pipes.channel.receive()) messages.push_back(*message);
        }
        REQUIRE(messages.size() == 3);
        CHECK(messages[0].data == "{\"type\":\"ping\",\"from\":5}");
        CHECK(messages[0].from == 0);
        CHECK(messages[1].data == "\"\xC3\xA4\\\"\"");
        CHECK(messages[1].from == 12);
        CHECK(messages[2].kind == Message::Kind::disconnect);
        CHECK(messages[2].deadline == 10s);
    }
    CHECK(pipes.channel.ignored_total() == 0);
}

TEST_CASE("a ping is answered") {
    Pipes pipes;
    pipes.write("{\"type\":\"ping\"}\n");
    CHECK(!pipes.channel.receive());
    CHECK(pipes.read() == "{\"type\":\"pong\"}\n");
}

TEST_CASE("lines that make no sense are ignored and counted") {
    Pipes pipes;
    pipes.write("garbage\n\n{\"type\":\"news\"}\n{\"type\":\"message\"}\n{\"type\":\"ping\"\n");
    pipes.write("{\"type\":\"message\",\"data\":1}\n");
    auto message = pipes.channel.receive();
    REQUIRE(message);
    CHECK(message->data == "1");
    CHECK(pipes.channel.ignored_total() == 5);
    // Longer than allowed: skipped up to its end.
    std::string piece(50'000, 'x');
    for (size_t size = 0; size < 3 * drover::Channel::kMaxLine; size += piece.size()) {
        pipes.write(piece);
        CHECK(!pipes.channel.receive());
    }
    pipes.write("\n{\"type\":\"message\",\"data\":2}\n");
    message = pipes.channel.receive();
    REQUIRE(message);
    CHECK(message->data == "2");
    CHECK(pipes.channel.ignored_total() == 6);
}

TEST_CASE("a master that does not read blocks nobody, and nothing that was taken is lost") {
    Pipes pipes;
    const std::string data = "\"" + std::string(100'000, 'x') + "\"";
    size_t sent = 0;
    while (pipes.channel.send(data) == Sent::yes) ++sent;
    CHECK(sent * data.size() > drover::Channel::kMaxQueued - 2 * data.size());
    CHECK(pipes.channel.has_unsent());
    CHECK(!pipes.channel.flush(20ms));
    std::string text;
    while (!pipes.channel.flush()) text += pipes.read();
    text += pipes.read();
    CHECK(!pipes.channel.has_unsent());
    CHECK(text.size() ==
          sent * (data.size() + std::string("{\"type\":\"message\",\"data\":}\n").size()));
    CHECK(pipes.channel.send(data) == Sent::yes);
}

TEST_CASE("waiting ends with a message, with its time, or with a signal") {
    Pipes pipes;
    CHECK(!pipes.channel.wait(0ms));
    auto began = std::chrono::steady_clock::now();
    CHECK(!pipes.channel.wait(30ms));
    CHECK(std::chrono::steady_clock::now() - began >= 30ms);
    pipes.write("{\"type\":\"message\",\"data\":1}\n{\"type\":\"message\",\"data\":2}\n");
    CHECK(pipes.channel.wait(-1ms)->data == "1");
    CHECK(pipes.channel.wait(-1ms)->data == "2");

    struct sigaction action {
    }, before{};
    action.sa_handler = [](int) {};
    ::sigaction(SIGALRM, &action, &before);
    ::ualarm(20'000, 0);
    CHECK(!pipes.channel.wait(-1ms));
    ::sigaction(SIGALRM, &before, nullptr);
}

TEST_CASE("the end of the pipes is noticed, without SIGPIPE") {
    Pipes pipes;
    // Before the fork: their last copies.
    pipes.master_read.reset();
    pipes.master_write.reset();
    ::fflush(nullptr);
    pid_t child = ::fork();
    if (child == 0) {
        std::signal(SIGPIPE, SIG_DFL);
        bool is_right = !pipes.channel.receive() && pipes.channel.fd() == -1 &&
                        pipes.channel.ready() == Sent::no_channel && !pipes.channel.is_open();
        ::_exit(is_right ? 0 : 1);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    CHECK(status == 0);
}

TEST_CASE("a moved channel takes everything along") {
    Pipes pipes;
    pipes.write("{\"type\":\"message\",\"data\":1}\n{\"type\":\"message\",\"data\":2}\n{\"ty");
    CHECK(pipes.channel.receive()->data == "1");
    auto moved = std::move(pipes.channel);
    CHECK(!pipes.channel.is_open());  // NOLINT: what is left of it is defined
    CHECK(moved.receive()->data == "2");
    pipes.write("pe\":\"message\",\"data\":3}\n");
    CHECK(moved.receive()->data == "3");
}

TEST_CASE("any bytes become a JSON string") {
    CHECK(drover::json_string("") == "\"\"");
    CHECK(drover::json_string("a\"\\\n\x1F\x7F") == "\"a\\\"\\\\\\u000a\\u001f\\u007f\"");
    CHECK(drover::json_string("\xC3\xA4") == "\"\xC3\xA4\"");
    CHECK(drover::json_string("x\xFFy\xC3") == "\"x\xEF\xBF\xBDy\xEF\xBF\xBD\"");
}

TEST_CASE("passed sockets are those of this very process") {
    // In a child: the numbers from 3 on are another's here.
    pid_t child = ::fork();
    if (child == 0) {
        Fd null(::open("/dev/null", O_RDONLY));
        ::dup2(null.get(), 3);
        ::dup2(null.get(), 4);
        ::dup2(null.get(), 5);
        ::setenv("LISTEN_FDS", "3", 1);
        ::setenv("LISTEN_FDNAMES", "web::x", 1);
        ::setenv("LISTEN_PID", std::to_string(::getppid()).c_str(), 1);
        if (!drover::listening_fds().empty()) ::_exit(1);
        ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
        auto fds = drover::listening_fds();
        if (fds.size() != 3 || fds[0].fd != 3 || fds[2].fd != 5) ::_exit(2);
        if (fds[0].name != "web" || fds[1].name != "unknown" || fds[2].name != "x") ::_exit(3);
        if ((::fcntl(5, F_GETFD) & FD_CLOEXEC) == 0) ::_exit(4);
        ::unsetenv("LISTEN_FDNAMES");
        if (drover::listening_fds()[2].name != "unknown") ::_exit(5);
        ::_exit(0);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    CHECK(WEXITSTATUS(status) == 0);
}
