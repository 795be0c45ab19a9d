// SPDX-License-Identifier: MIT
//
// Workers with bad habits, and grounds that lack something: the others serve on, it is said what is
// wrong where somebody has to know, and nothing is left behind.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>

#include <filesystem>
#include <memory>

#include "harness.h"
#include "http.h"
#include "messages.h"
#include "mounted.h"
#include "truth.h"

namespace drover::test {

namespace {

Words odd(const Words& options = {}) {
    Words command = {build_folder() + "/servers/odd"};
    command.insert(command.end(), options.begin(), options.end());
    return command;
}

// A cluster "web" of two workers that take turns.
struct Pair {
    Sandbox sandbox;
    Cluster cluster;
    explicit Pair(const Words& command, const Words& options = {})
        : cluster(sandbox, "web", with(options), command) {
        REQUIRE(cluster.wait_ready(2));
    }
    static Words with(const Words& options) {
        Words all = {"-n", "2", "--policy", "round-robin"};
        all.insert(all.end(), options.begin(), options.end());
        return all;
    }
    bool serves_in_turns() {
        return eventually([&] {
            Json status = cluster.status();
            return status["ready"] == 2 && status["groups"][0]["active"].size() == 2 &&
                   spread("127.0.0.1", 8080, 8) == std::map<int, int>{{0, 4}, {1, 4}};
        });
    }
    void check_clean_end() {
        CHECK(cluster.stop() == 0);
        CHECK(sandbox.leftovers() == "");
    }
};

bool has_error(Cluster& cluster, const std::string& part) {
    return eventually([&] {
        for (const auto& event : events_of(cluster, "error"))
            if (contains(event["data"]["text"], part)) return true;
        return false;
    });
}

// The one error that a master which has ended has said.
std::string last_word(Child& master) {
    std::string word;
    std::istringstream lines(master.err());
    for (std::string line; std::getline(lines, line);)
        if (line.starts_with("drover: error: ")) {
            CHECK(word == "");
            word = line;
        }
    return word;
}

// What waits for an answer.
struct Waiting {
    std::vector<std::unique_ptr<Connection>> connections;
    explicit Waiting(int count) {
        for (int i = 0; i < count; i++) {
            connections.push_back(std::make_unique<Connection>("127.0.0.1", 8080));
            REQUIRE(connections.back()->send_request("/", false));
        }
    }
    std::map<int, int> answers() {
        std::map<int, int> counts;
        for (auto& connection : connections) counts[instance_in(connection->receive().body)]++;
        return counts;
    }
};

}  // namespace

TEST_SUITE_BEGIN("odd");

TEST_CASE("a worker that closes its listener gets no connections until it listens again") {
    Pair pair(odd());
    int closer = instance_in(get("127.0.0.1", 8080, "/reopen?1500").body);
    REQUIRE(eventually([&] { return pair.cluster.worker(closer)["state"] != "ready"; }));
    CHECK(spread("127.0.0.1", 8080, 6) == std::map<int, int>{{1 - closer, 6}});
    CHECK(pair.serves_in_turns());
    CHECK(pair.cluster.worker(closer)["restarts_total"] == 0);
    pair.check_clean_end();
}

TEST_CASE("a worker whose listener goes on under another number is steered on") {
    Pair pair(odd());
    for (int i = 0; i < 2; i++) CHECK(get("127.0.0.1", 8080, "/dup").ok());
    CHECK(pair.serves_in_turns());
    // Also where it is to be looked for anew.
    pid_t pid = pair.cluster.pid_of(0);
    REQUIRE(stop_process(pid));
    Waiting waiting(4);
    CHECK(eventually([&] { return !events_of(pair.cluster, "rescued").empty(); }));
    CHECK(waiting.answers() == std::map<int, int>{{1, 4}});
    ::kill(pid, SIGCONT);
    pair.check_clean_end();
}

TEST_CASE("a worker that puts another listener in the place of its first is steered on") {
    Pair pair(odd());
    for (int i = 0; i < 2; i++) CHECK(get("127.0.0.1", 8080, "/dup2").ok());
    CHECK(pair.serves_in_turns());
    pair.check_clean_end();
}

TEST_CASE("a worker with another listener in the place of its first is found when it hangs") {
    Pair pair(odd());
    for (int i = 0; i < 2; i++) CHECK(get("127.0.0.1", 8080, "/dup2").ok());
    REQUIRE(pair.serves_in_turns());
    pid_t hung = pair.cluster.pid_of(0);
    REQUIRE(stop_process(hung));
    // Half of them wait for it until its queue is moved.
    std::vector<std::unique_ptr<Connection>> waiting;
    for (int i = 0; i < 6; i++) {
        waiting.push_back(std::make_unique<Connection>("127.0.0.1", 8080));
        REQUIRE(waiting.back()->send_request("/", false));
    }
    for (auto& connection : waiting) CHECK(connection->receive().ok());
    REQUIRE(::kill(hung, SIGCONT) == 0);
    CHECK(eventually([&] { return pair.cluster.worker(0)["flags"] == Json::array(); }));
    pair.check_clean_end();
}

TEST_CASE("workers that become another user before or after they listen are steered") {
    for (const char* when : {"--early-uid", "--late-uid"}) {
        INFO(when);
        Pair pair(odd({when, "33"}));
        CHECK(pair.serves_in_turns());
        pid_t killed = pair.cluster.pid_of(0);
        ::kill(killed, SIGKILL);
        CHECK(eventually([&] { return pair.cluster.pid_of(0) != killed; }));
        CHECK(pair.serves_in_turns());
        pair.check_clean_end();
    }
}

TEST_CASE("workers that make cgroups of their own are counted, relieved, and taken over") {
    Sandbox sandbox;
    std::string below = sandbox.cgroup() + "/web/w$DROVER_WORKER_ID/below";
    Words options = {"-n", "2", "--policy", "round-robin"};
    Words command = {
        "/bin/sh", "-c",
        fmt::format("mkdir {0} && echo $$ > {0}/cgroup.procs && exec {1}/servers/hello", below,
                    build_folder())};
    Cluster first(sandbox, "web", options, command);
    REQUIRE(first.wait_ready(2));
    std::vector<std::unique_ptr<Connection>> held;
    for (int i = 0; i < 6; i++) {
        held.push_back(std::make_unique<Connection>("127.0.0.1", 8080));
        REQUIRE(held.back()->get("/hold").ok());
    }
    check_counts(sandbox, first);
    REQUIRE(eventually([&] { return first.worker(1)["memory_bytes"] > 0; }));
    pid_t hung = first.pid_of(0);
    first.master().send(SIGKILL);
    REQUIRE(first.master().wait() == 128 + SIGKILL);
    Cluster cluster(sandbox, "web", options, command);
    REQUIRE(cluster.wait_ready(2));
    CHECK(cluster.pid_of(0) == hung);
    CHECK(spread("127.0.0.1", 8080, 6) == std::map<int, int>{{0, 3}, {1, 3}});
    // The next proof of the counts, 5 s later, would correct what the first one had found.
    CHECK_FALSE(eventually([&] { return cluster.status()["corrections_total"] != 0; },
                           milliseconds(7'000)));
    check_counts(sandbox, cluster);
    REQUIRE(stop_process(hung));
    Waiting waiting(4);
    CHECK(eventually([&] { return !events_of(cluster, "rescued").empty(); }));
    CHECK(waiting.answers() == std::map<int, int>{{1, 4}});
    ::kill(hung, SIGCONT);
    held.clear();
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that goes to the background is a failed start, and what it left is ended") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1", "--max-restarts", "2/60s"}, odd({"--daemonize"}));
    CHECK(cluster.master().wait() == 1);
    CHECK(contains(last_word(cluster.master()), "exit status 0"));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("processes that a worker never asked for are in nobody's way") {
    Pair pair(odd());
    for (int i = 0; i < 2; i++) CHECK(get("127.0.0.1", 8080, "/zombies?50").ok());
    CHECK(pair.serves_in_turns());
    CHECK(pair.cluster.drover({"restart", "web"}).status == 0);
    CHECK(pair.serves_in_turns());
    pair.check_clean_end();
}

TEST_CASE("a worker that waits for a process of its own is relieved as any other") {
    Pair pair(odd());
    int hung = instance_in(get("127.0.0.1", 8080, "/vfork?3000").body);
    Waiting waiting(4);
    CHECK(eventually([&] { return !events_of(pair.cluster, "rescued").empty(); }));
    CHECK(waiting.answers() == std::map<int, int>{{1 - hung, 4}});
    CHECK(pair.serves_in_turns());
    pair.check_clean_end();
}

TEST_CASE("a worker that cannot be frozen keeps its queue, and is not left half frozen") {
    Pair pair(odd(), {"--stall-after", "never"});
    int hung = instance_in(get("127.0.0.1", 8080, "/hang?3000").body);
    REQUIRE(eventually([&] { return contains(pair.cluster.master().out(), "hangs"); }));
    Waiting waiting(4);
    auto refused = pair.cluster.drover({"rescue", pair.cluster.target(hung)});
    CHECK(refused.status == 1);
    CHECK(contains(refused.err, "could not be stopped within 50 ms: its queue stays"));
    // When it goes on it answers what waited.
    CHECK(waiting.answers() == std::map<int, int>{{0, 2}, {1, 2}});
    CHECK(pair.serves_in_turns());
    pair.check_clean_end();
}

TEST_CASE("a worker that hangs in the kernel is found, and the others serve all the time") {
    Pair pair(odd());
    int hung = instance_in(get("127.0.0.1", 8080, "/hang?3000").body);
    Waiting waiting(4);
    CHECK(eventually([&] { return !events_of(pair.cluster, "stalled").empty(); }));
    CHECK(eventually([&] { return pair.cluster.status()["groups"][0]["active"].size() == 1; }));
    CHECK(spread("127.0.0.1", 8080, 6) == std::map<int, int>{{1 - hung, 6}});
    auto answers = waiting.answers();
    CHECK(answers.count(-1) == 0);
    CHECK(pair.serves_in_turns());
    pair.check_clean_end();
}

TEST_CASE("of more ports than there is room for some are not steered, which is told") {
    Pair pair(odd({"--ports", "70"}));
    CHECK(has_error(pair.cluster, "listens on more than 32 addresses and ports"));
    CHECK(pair.cluster.status()["groups"].size() == 32);
    CHECK(pair.serves_in_turns());
    CHECK(pair.cluster.drover({"reload", "web"}).status == 0);
    CHECK(pair.serves_in_turns());
    pair.check_clean_end();
}

TEST_CASE("more workers than there is room for are refused, and those that there are serve on") {
    Pair pair(odd());
    auto refused = pair.cluster.drover({"scale", "web", "257"});
    CHECK(refused.status != 0);
    CHECK(contains(refused.err, "256"));
    CHECK(pair.serves_in_turns());
    pair.check_clean_end();
}

TEST_CASE("a master that was too slow for what happened looks at everything anew") {
    Pair pair(odd());
    int first = instance_in(get("127.0.0.1", 8080, "/").body);
    pid_t died = pair.cluster.pid_of(first);
    pair.cluster.master().send(SIGSTOP);
    // The other one listens and closes so often that there is no room for its last listener.
    CHECK(get("127.0.0.1", 8080, "/churn?3000").ok());
    REQUIRE(eventually([&] { return contains(pair.cluster.master().out(), "churned"); }));
    ::kill(died, SIGKILL);
    pair.cluster.master().send(SIGCONT);
    CHECK(has_error(pair.cluster, "all listeners are looked at anew"));
    CHECK(pair.serves_in_turns());
    CHECK(pair.cluster.worker(1 - first)["restarts_total"] == 0);
    pair.check_clean_end();
}

TEST_CASE("a port that was open for as long as the master did not look is no trouble") {
    Sandbox sandbox;
    std::string opened = sandbox.log_folder() + "/opened";
    // At SIGUSR1 it listens on a second port, and closes that again.
    std::string program = fmt::format(
        "import os, signal, socket\n"
        "def listen(port):\n"
        "    s = socket.socket()\n"
        "    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "    s.bind(('', port)); s.listen()\n"
        "    return s\n"
        "first = listen(8080)\n"
        "def again(*_):\n"
        "    listen(8081).close()\n"
        "    open('{}', 'w').close()\n"
        "signal.signal(signal.SIGUSR1, again)\n"
        "while True: signal.pause()\n",
        opened);
    Cluster cluster(sandbox, "web", {"-n", "1"}, {"/usr/bin/python3", "-c", program});
    REQUIRE(cluster.wait_ready(1));
    pid_t worker = cluster.pid_of(0), master = cluster.master().pid();
    for (int i = 0; i < 3; i++) {
        std::filesystem::remove(opened);
        ::kill(master, SIGSTOP);
        ::kill(worker, SIGUSR1);
        CHECK(eventually([&] { return std::filesystem::exists(opened); }));
        ::kill(master, SIGCONT);
        REQUIRE(cluster.drover({"status", "web"}).status == 0);
    }
    CHECK(cluster.pid_of(0) == worker);
    CHECK(cluster.status()["groups"].size() == 1);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("with queues of one connection everybody is answered, also while a worker restarts") {
    Sandbox sandbox;
    write_file("/proc/sys/net/core/somaxconn", "1");
    REQUIRE(read_file("/proc/sys/net/core/somaxconn") == "1\n");
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    CHECK(spread("127.0.0.1", 8080, 20) == std::map<int, int>{{0, 20}});
    // Few: those that begin at once, after this machine stood still for a moment, are refused at
    // once, too, and all try again in the same moment, after 1, 3, 7 and 15 s.
    Load load("127.0.0.1", 8080, 10);
    REQUIRE(load.wait_answered(20));
    CHECK(cluster.drover({"restart", "web"}).status == 0);
    REQUIRE(load.wait_answered(20));
    auto result = load.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a start with too few file descriptors ends with one sentence and leaves nothing") {
    Sandbox sandbox;
    Child master =
        sandbox.start({.command = {"prlimit", "--nofile=64:64", build_folder() + "/drover", "run",
                                   "--name", "web", "-n", "8", "--", hello_path()},
                       .extra_environment = {},
                       .identity = {},
                       .cwd = {}});
    CHECK(master.wait() == 1);
    CHECK(contains(last_word(master), "Too many open files"));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a master that runs out of file descriptors says so, and serves on with what it has") {
    Pair pair(hello());
    auto limit = fmt::format("--nofile=128:128");
    auto pid = std::to_string(pair.cluster.master().pid());
    REQUIRE(pair.sandbox
                .run({.command = {"prlimit", "--pid", pid, limit},
                      .extra_environment = {},
                      .identity = {},
                      .cwd = {}})
                .status == 0);
    (void)pair.cluster.drover({"scale", "web", "40"}, milliseconds(3000));
    CHECK(spread("127.0.0.1", 8080, 8).count(-1) == 0);
    CHECK(contains(pair.cluster.master().err(), "Too many open files"));
    // What is left over is enough to do less again.
    CHECK(eventually([&] { return pair.cluster.drover({"scale", "web", "2"}).status == 0; }));
    CHECK(pair.serves_in_turns());
    auto reload = pair.cluster.drover({"reload", "web"});
    INFO(reload.err);
    CHECK(reload.status == 0);
    CHECK(pair.serves_in_turns());
    pair.check_clean_end();
}

TEST_CASE("a start with a full disk ends with one sentence, or is told what is missing") {
    Sandbox sandbox;
    Mounted small(sandbox.run_folder(), "size=64k,nr_inodes=2");
    small.fill();
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    CHECK(cluster.master().wait() == 1);
    CHECK(contains(last_word(cluster.master()), "No space left on device"));
    small.make_room();
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("with a full disk the workers serve on, and what is written down later is good") {
    Sandbox sandbox;
    Mounted small(sandbox.run_folder(), "size=64k");
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin"}, hello());
    REQUIRE(cluster.wait_ready(2));
    small.fill();
    CHECK(cluster.drover({"reload", "web"}).status == 0);
    CHECK(
        contains(cluster.master().err(), "No space left on device: should this master be killed"));
    CHECK(spread("127.0.0.1", 8080, 8) == std::map<int, int>{{0, 4}, {1, 4}});
    small.make_room();
    // By itself; the next master finds it.
    pid_t worker = cluster.pid_of(0);
    CHECK(eventually([&] {
        return contains(read_file(sandbox.run_folder() + "/web/state.json"),
                        fmt::format("\"pid\": {}", worker));
    }));
    cluster.master().send(SIGKILL);
    CHECK(cluster.master().wait() != -1);
    Cluster next(sandbox, "web", {"-n", "2", "--policy", "round-robin"}, hello());
    CHECK(next.wait_ready(2));
    CHECK(next.pid_of(0) == worker);
    CHECK(next.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
