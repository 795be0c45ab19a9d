// SPDX-License-Identifier: MIT
//
// What the system tests are written with.
//
//     TEST_CASE("round-robin gives each worker exactly its share") {
//         Sandbox sandbox;
//         Cluster cluster(sandbox, "web", {"-n", "4", "--policy", "round-robin"}, hello());
//         REQUIRE(cluster.wait_ready(4));
//         CHECK(spread("127.0.0.1", 8080, 40) == std::map<int, int>{…});
//         CHECK(cluster.stop() == 0);
//         CHECK(sandbox.leftovers() == "");
//     }
//
// A Sandbox is a network namespace, a cgroup, a folder of pins and a temporary folder, all of them
// named after the test; it is cleaned before and after, whatever the test did. Nothing here sleeps
// for a guessed time: `eventually` looks again and again, up to a deadline.
#pragma once

#include <doctest/doctest.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"

namespace drover::test {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Words = std::vector<std::string>;

inline constexpr milliseconds kDeadline{30'000};

// How many times slower than an ordinary one this machine is: DROVER_TEST_PATIENCE, else 1. An
// emulated one says so. All deadlines are multiplied by it, the clients' rates divided.
int slowness();

// A duration as an option's value, longer on a slow machine: patient(500) is "500ms", or "2000ms".
std::string patient(int ms);

// Looks until `condition` holds; false when it did not within the deadline.
bool eventually(const std::function<bool()>& condition, milliseconds deadline = kDeadline);

// Stops a process, and waits until it stands still: until then a call of accept() that is under way
// may succeed.
bool stop_process(pid_t pid);

// Folder with the drover binary and servers/: $DROVER_BUILD, else where the test binary is.
std::string build_folder();
std::string hello_path();  // the static C server

// The command of a hello server on port 8080 with further options.
Words hello(const Words& options = {});

std::string read_file(const std::string& path);
void write_file(const std::string& path, const std::string& content);
size_t count_lines(const std::string& text);
bool contains(const std::string& text, const std::string& part);

// Says that the running test cannot run here. scripts/run-tests counts these lines.
void say_skip(const std::string& reason);
// Looks for a program in the usual system folders; says a skip where there is none.
std::optional<std::string> find_program(const std::string& name);

// What a finished command left.
struct Outcome {
    int status = -1;  // of exit(); 128 + n for signal n; -1: did not end in time
    std::string out;
    std::string err;
};

// How a child is started.
struct Start {
    Words command;
    Words extra_environment;        // NAME=VALUE
    std::optional<uid_t> identity;  // uid and gid to run as
    std::string cwd;
};

// A child process whose output goes to files; killed and reaped at the end.
class Child {
  public:
    Child() = default;
    // `files` is the common beginning of the names of the two output files.
    Child(const Start& start, std::string files);
    Child(Child&& other) noexcept;
    Child& operator=(Child&& other) noexcept;
    ~Child();

    [[nodiscard]] pid_t pid() const { return pid_; }
    [[nodiscard]] bool runs();  // reaps
    void send(int signal) const;
    // Waits for the end; the status as in Outcome.
    int wait(milliseconds deadline = kDeadline);
    [[nodiscard]] std::string out() const { return read_file(files_ + ".out"); }
    [[nodiscard]] std::string err() const { return read_file(files_ + ".err"); }

  private:
    void end();
    pid_t pid_ = -1;
    std::optional<int> status_;
    std::string files_;
};

class Sandbox {
  public:
    Sandbox();  // named after the running test
    ~Sandbox();
    Sandbox(const Sandbox&) = delete;
    Sandbox& operator=(const Sandbox&) = delete;

    [[nodiscard]] std::string path(const std::string& name) const { return folder_ + "/" + name; }
    [[nodiscard]] std::string cgroup() const { return cgroup_; }
    [[nodiscard]] std::string pins() const { return pins_; }
    [[nodiscard]] std::string run_folder() const { return folder_ + "/run"; }
    [[nodiscard]] std::string log_folder() const { return folder_ + "/var-log"; }

    // Starts a program in the sandbox (DROVER_* point into it).
    Child start(Start start);
    // Runs a program to its end.
    Outcome run(const Start& start, milliseconds deadline = kDeadline);
    // Runs `drover ARGUMENTS`.
    Outcome drover(const Words& arguments, milliseconds deadline = kDeadline);

    // What a clean end must not leave: processes, cgroups, pins, files, listening sockets. Empty
    // when all is clean; waits a little for the kernel to be done.
    std::string leftovers();
    // Whether some cgroup here is told to stand still.
    [[nodiscard]] bool has_frozen() const;

  private:
    [[nodiscard]] std::string look_for_leftovers() const;
    void clean();

    std::string name_, folder_, cgroup_, pins_;
    Fd outer_network_;
    int children_ = 0;
};

// One `drover run`.
class Cluster {
  public:
    // WRAPPER drover run --name NAME OPTIONS -- COMMAND
    Cluster(Sandbox& sandbox, std::string name, const Words& options, const Words& command,
            const Words& environment = {}, const Words& wrapper = {});

    [[nodiscard]] const std::string& name() const { return name_; }
    Child& master() { return master_; }
    // Waits until so many workers are ready and no others are there; on failure prints the master's
    // output.
    bool wait_ready(int workers, milliseconds deadline = kDeadline);
    Json status();                     // null when there is no answer
    Json worker(int instance);         // of the status; null where there is none
    pid_t pid_of(int instance);        // 0 where there is none
    std::string target(int instance);  // "NAME/ID"
    std::vector<Json> events();
    // `drover stop`; the master's exit status.
    int stop(milliseconds deadline = kDeadline);
    Outcome drover(const Words& arguments, milliseconds deadline = kDeadline);

  private:
    Sandbox& sandbox_;
    std::string name_;
    Child master_;
};

}  // namespace drover::test
