// SPDX-License-Identifier: MIT
//
// Deaths: of a worker, of the logger, of the master. What was not yet accepted is never lost.
#include <signal.h>

#include <cstring>
#include <memory>

#include "counters.h"
#include "half_open.h"
#include "harness.h"
#include "http.h"

namespace drover::test {

namespace {

using Shares = std::map<int, int>;
using Connections = std::vector<std::unique_ptr<Connection>>;

// Connections with their request already sent.
Connections ask(int count) {
    Connections connections;
    for (int i = 0; i < count; i++) {
        connections.push_back(std::make_unique<Connection>("127.0.0.1", 8080));
        REQUIRE(connections.back()->send_request("/", false));
    }
    return connections;
}

// How each of them ended, by instance; -1 counts those that were lost.
Shares answers(Connections& connections) {
    Shares counts;
    for (auto& connection : connections) {
        auto reply = connection->receive();
        if (!reply.ok()) MESSAGE("lost: " << reply.error);
        counts[reply.ok() ? instance_in(reply.body) : -1]++;
    }
    return counts;
}

bool wait_replaced(Cluster& cluster, int instance, pid_t former) {
    Json worker;
    bool alive = true;
    bool replaced = eventually([&] {
        worker = cluster.worker(instance);
        alive = cluster.master().runs();
        return !alive ||
               (worker.is_object() && worker["state"] == "ready" && worker["pid"] != former);
    });
    if (!alive) MESSAGE("the master has ended with status " << cluster.master().wait());
    if (!alive || !replaced) MESSAGE(worker.dump(1) << cluster.master().err());
    return alive && replaced;
}

}  // namespace

TEST_SUITE_BEGIN("crash");

TEST_CASE("connections in the queue of a killed worker are answered by another") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--policy", "round-robin", "--stall-after", "never"}, hello());
    REQUIRE(cluster.wait_ready(2));
    pid_t victim = cluster.pid_of(0);
    REQUIRE(stop_process(victim));
    auto connections = ask(400);
    REQUIRE(cluster.worker(0)["live"] == 200);
    REQUIRE(::kill(victim, SIGKILL) == 0);
    auto counts = answers(connections);
    CHECK(counts.count(-1) == 0);
    CHECK(counts[0] + counts[1] == 400);
    CHECK(wait_replaced(cluster, 0, victim));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("connections in the queue of the only worker are answered by its replacement") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    pid_t victim = cluster.pid_of(0);
    REQUIRE(stop_process(victim));
    auto connections = ask(200);
    REQUIRE(::kill(victim, SIGKILL) == 0);
    CHECK(answers(connections) == Shares{{0, 200}});
    CHECK(wait_replaced(cluster, 0, victim));
    CHECK(eventually([&] { return cluster.worker(0)["live"] == 0; }));
    CHECK(cluster.status()["corrections_total"] == 0);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("handshakes half done with a killed worker are ended by another") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin"}, hello());
    REQUIRE(cluster.wait_ready(2));
    pid_t victim = cluster.pid_of(0);
    REQUIRE(hold_handshakes(victim) == 1);
    auto connections = ask(20);
    CHECK(half_open_handshakes() == 10);
    REQUIRE(::kill(victim, SIGKILL) == 0);
    CHECK(answers(connections).count(-1) == 0);
    CHECK(half_open_handshakes() == 0);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a one-worker cluster killed five times under load loses only what it had accepted") {
    Sandbox sandbox;
    std::string file = sandbox.path("counters");
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello({"--accept-log", file}));
    REQUIRE(cluster.wait_ready(1));
    Load load("127.0.0.1", 8080, 500);
    for (int i = 0; i < 5; i++) {
        // More than a second's worth, so that the death counts as a crash and not a failed start.
        REQUIRE(load.wait_answered(650));
        pid_t victim = cluster.pid_of(0);
        REQUIRE(victim > 0);
        REQUIRE(::kill(victim, SIGKILL) == 0);
        REQUIRE(wait_replaced(cluster, 0, victim));
    }
    REQUIRE(load.wait_answered(100));
    auto result = load.stop();
    auto counters = read_counters(file);
    INFO(result.text(), "; accepted ", counters.accepted, ", answered ", counters.answered);
    CHECK(result.started > 3000);
    CHECK(static_cast<uint64_t>(result.failed()) <= counters.accepted - counters.answered);
    CHECK(counters.accepted - counters.answered <= static_cast<uint64_t>(50 * slowness()));
    CHECK(cluster.worker(0)["restarts_total"] == 5);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that crashes by itself is replaced under the same instance") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin"}, hello());
    REQUIRE(cluster.wait_ready(2));
    auto reply = get("127.0.0.1", 8080, "/crash");
    CHECK(reply.error != "");
    REQUIRE(eventually([&] {
        Json status = cluster.status();
        return status["ready"] == 2 && (status["workers"][0]["restarts_total"] == 1 ||
                                        status["workers"][1]["restarts_total"] == 1);
    }));
    CHECK(spread("127.0.0.1", 8080, 10) == Shares{{0, 5}, {1, 5}});
    bool found = false;
    for (const auto& event : cluster.events()) {
        if (event["event"] != "exit") continue;
        found = true;
        CHECK(event["data"]["code"].is_null());
        CHECK(event["data"]["signal"] == "ABRT");
        CHECK(event["data"]["reason"] == "crash");
    }
    CHECK(found);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a killed logger is replaced and the workers' output goes on") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    std::string procs = sandbox.cgroup() + "/web/logger/cgroup.procs";
    int logger = std::atoi(read_file(procs).c_str());
    REQUIRE(logger > 0);
    REQUIRE(::kill(logger, SIGKILL) == 0);
    REQUIRE(eventually([&] {
        int now = std::atoi(read_file(procs).c_str());
        return now > 0 && now != logger;
    }));
    CHECK(get("127.0.0.1", 8080, "/out?still-here").ok());
    CHECK(eventually([&] { return contains(cluster.master().out(), "[web/0] still-here"); }));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a killed master interrupts neither connections nor steering nor counting") {
    Sandbox sandbox;
    std::string log = sandbox.path("requests");
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", "least-conn", "--port", "8080"},
                    hello({"--log", log}));
    REQUIRE(cluster.wait_ready(4));
    Load load("127.0.0.1", 8080, 400);
    REQUIRE(load.wait_answered(200));
    cluster.master().send(SIGKILL);
    CHECK(cluster.master().wait() == 128 + SIGKILL);
    REQUIRE(load.wait_answered(400));
    auto result = load.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
    CHECK(count_lines(read_file(log)) == static_cast<size_t>(result.answered));
    {
        // The counts go on: least-conn is exact, for connections opened and closed meanwhile too.
        Connections held;
        Shares counts;
        for (int i = 0; i < 64; i++) {
            held.push_back(std::make_unique<Connection>("127.0.0.1", 8080));
            auto reply = held.back()->get("/hold");
            counts[reply.ok() ? instance_in(reply.body) : -1]++;
        }
        CHECK(counts == Shares{{0, 16}, {1, 16}, {2, 16}, {3, 16}});
    }
    auto stop = sandbox.drover({"stop", "web"});
    INFO(stop.err);
    CHECK(stop.status == 0);
    CHECK(sandbox.leftovers() == "");
    CHECK(get("127.0.0.1", 8080).error == "refused");
}

TEST_CASE("after a killed master was cleaned up the name can be used again") {
    Sandbox sandbox;
    Cluster first(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(first.wait_ready(2));
    first.master().send(SIGKILL);
    first.master().wait();
    REQUIRE(sandbox.drover({"stop", "web"}).status == 0);
    Cluster second(sandbox, "web", {"-n", "2", "--policy", "round-robin"}, hello());
    REQUIRE(second.wait_ready(2));
    CHECK(spread("127.0.0.1", 8080, 10) == Shares{{0, 5}, {1, 5}});
    CHECK(second.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
