// SPDX-License-Identifier: MIT
//
// The master's side of the logger, with stand-ins for the logger process; the real one takes part
// in the system tests.
#include "worker/output.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

using namespace drover;
using namespace drover::worker;
using namespace std::chrono_literals;
namespace fs = std::filesystem;

namespace {

constexpr auto kDeadline = 10s;

// An executable script in a folder of its own.
class Script {
  public:
    explicit Script(const std::string& text) {
        std::string pattern = fs::temp_directory_path() / "drover-output-XXXXXX";
        REQUIRE(::mkdtemp(pattern.data()) != nullptr);
        folder_ = pattern;
        std::ofstream(folder_ / "script") << "#!/bin/sh\n" << text << "\n";
        REQUIRE(::chmod((folder_ / "script").c_str(), 0755) == 0);
    }
    ~Script() { fs::remove_all(folder_); }
    [[nodiscard]] fs::path folder() const { return folder_; }
    [[nodiscard]] std::string path() const { return folder_ / "script"; }

  private:
    fs::path folder_;
};

template <class Condition>
bool wait_until(EventLoop& loop, Condition condition) {
    auto end = std::chrono::steady_clock::now() + kDeadline;
    while (!condition() && std::chrono::steady_clock::now() < end) loop.run_once(100ms);
    return condition();
}

// Lets go of the stand-in, so that no test leaves a process behind.
void finish(EventLoop& loop, Output& output, std::chrono::milliseconds deadline) {
    bool has_ended = false;
    output.finish(deadline, [&] { has_ended = true; });
    REQUIRE(wait_until(loop, [&] { return has_ended; }));
    CHECK(output.pid() == 0);
}

}  // namespace

TEST_CASE("a logger that dies is replaced, and a worker's pipe outlives it") {
    std::signal(SIGPIPE, SIG_IGN);
    auto loop = std::move(*EventLoop::open());
    Script script("exec sleep 100");
    Output output(loop, "web", {}, "{}", script.path());
    std::string sentence;
    REQUIRE(output.start([&](const std::string& text) { sentence = text; }));
    auto pipes = output.add_worker(1, 0);
    REQUIRE(pipes);
    int first = output.pid();
    ::kill(first, SIGKILL);
    REQUIRE(wait_until(loop, [&] { return output.pid() == 0; }));
    CHECK(::write(pipes->out.get(), "x", 1) == 1);
    CHECK(::write(pipes->err.get(), "x", 1) == 1);
    REQUIRE(wait_until(loop, [&] { return !sentence.empty(); }));
    CHECK(sentence == "the logger process was ended by signal 9; it was started anew");
    CHECK(output.pid() > 0);
    CHECK(output.pid() != first);
    finish(loop, output, 0ms);
}

TEST_CASE("the pipes of a worker that is gone are let go of") {
    std::signal(SIGPIPE, SIG_IGN);
    auto loop = std::move(*EventLoop::open());
    // Takes what it is sent, without the descriptors. Were it gone before, they would be kept for
    // the next one.
    Script script("head -c 1 <&3 >/dev/null; exec 3>&-; exec sleep 100");
    Output output(loop, "web", {}, "{}", script.path());
    REQUIRE(output.start({}));
    auto pipes = output.add_worker(1, 0);
    REQUIRE(pipes);
    output.remove_worker(1);
    CHECK(wait_until(loop, [&] { return ::write(pipes->out.get(), "x", 1) == -1; }));
    finish(loop, output, 0ms);
}

TEST_CASE("a logger that ends by itself when let go of is waited for") {
    auto loop = std::move(*EventLoop::open());
    Script script("cat <&3");  // until the socket is at its end
    Output output(loop, "web", {}, "{}", script.path());
    REQUIRE(output.start({}));
    auto begin = std::chrono::steady_clock::now();
    finish(loop, output, kDeadline);
    CHECK(std::chrono::steady_clock::now() - begin < kDeadline);
}

TEST_CASE("a logger that does not end by itself is killed at the deadline") {
    auto loop = std::move(*EventLoop::open());
    Script script("exec sleep 100");
    Output output(loop, "web", {}, "{}", script.path());
    REQUIRE(output.start({}));
    finish(loop, output, 50ms);
}

TEST_CASE("more pipes than the socket holds at once all get through to a slow logger") {
    auto loop = std::move(*EventLoop::open());
    // Begins to read when the gate is opened, then counts the messages.
    Script script(
        "cd ${0%/*}; mkfifo gate; read go < gate; cat <&3 | tr '}' '\\n' | wc -l > count");
    Output output(loop, "web", {}, "{}", script.path());
    REQUIRE(output.start({}));
    constexpr uint64_t kWorkers = 300;
    for (uint64_t id = 1; id <= kWorkers; ++id) {
        REQUIRE(output.add_worker(id, 0));
        output.remove_worker(id);
    }
    auto gate = script.folder() / "gate";
    REQUIRE(wait_until(loop, [&] { return fs::exists(gate); }));
    std::ofstream(gate) << "go\n";
    finish(loop, output, kDeadline);
    uint64_t count = 0;
    std::ifstream(script.folder() / "count") >> count;
    CHECK(count == 2 * kWorkers);
}
