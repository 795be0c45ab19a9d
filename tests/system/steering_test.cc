// SPDX-License-Identifier: MIT
//
// Who gets a connection: the policies, the live counts, the decisions.
#include <signal.h>

#include <memory>
#include <thread>

#include "harness.h"
#include "http.h"

namespace drover::test {

namespace {

using Shares = std::map<int, int>;

// Opens connections that stay open, and counts by instance who answered on them.
Shares hold(std::vector<std::unique_ptr<Connection>>& held, int connections) {
    Shares counts;
    for (int i = 0; i < connections; i++) {
        held.push_back(std::make_unique<Connection>("127.0.0.1", 8080));
        auto reply = held.back()->get("/hold");
        counts[reply.ok() ? instance_in(reply.body) : -1]++;
    }
    return counts;
}

int total_live(Cluster& cluster) {
    int sum = 0;
    Json status = cluster.status();
    if (!status.is_object()) return -1;
    for (const auto& worker : status["workers"]) sum += worker["live"].get<int>();
    return sum;
}

}  // namespace

TEST_SUITE_BEGIN("steering");

TEST_CASE("round-robin gives each worker exactly its share") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "5", "--policy", "round-robin"}, hello());
    REQUIRE(cluster.wait_ready(5));
    CHECK(spread("127.0.0.1", 8080, 500) ==
          Shares{{0, 100}, {1, 100}, {2, 100}, {3, 100}, {4, 100}});
    CHECK(cluster.stop() == 0);
}

TEST_CASE("least-conn spreads 1,024 long-lived connections over 8 workers as 128 each") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "8", "--policy", "least-conn"}, hello());
    REQUIRE(cluster.wait_ready(8));
    std::vector<std::unique_ptr<Connection>> held;
    Shares expected;
    for (int i = 0; i < 8; i++) expected[i] = 128;
    CHECK(hold(held, 1024) == expected);
    Json status = cluster.status();
    for (const auto& worker : status["workers"]) CHECK(worker["live"] == 128);
    held.clear();
    CHECK(eventually([&] { return total_live(cluster) == 0; }));
    CHECK(cluster.status()["corrections_total"] == 0);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("least-busy is the policy where none is named") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    CHECK(cluster.status()["policy"] == "least-busy");
    CHECK(cluster.stop() == 0);
}

TEST_CASE("least-busy spreads 1,024 long-lived connections over 8 workers as 128 each") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "8", "--policy", "least-busy"}, hello());
    REQUIRE(cluster.wait_ready(8));
    std::vector<std::unique_ptr<Connection>> held;
    Shares expected;
    for (int i = 0; i < 8; i++) expected[i] = 128;
    CHECK(hold(held, 1024) == expected);
    held.clear();
    CHECK(eventually([&] { return total_live(cluster) == 0; }));
    CHECK(cluster.status()["corrections_total"] == 0);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("least-busy gives a worker that computes no connection while others are idle") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "5", "--policy", "least-busy"}, hello());
    REQUIRE(cluster.wait_ready(5));
    Connection computing("127.0.0.1", 8080);
    REQUIRE(computing.send_request("/spin?2000", false));
    auto served = spread("127.0.0.1", 8080, 100);
    int busy = instance_in(computing.receive().body);
    CHECK_FALSE(served.contains(-1));
    CHECK_FALSE(served.contains(busy));
    CHECK(served.size() == 4);
    // Nor did one wait there until the worker was found to be stuck.
    CHECK(cluster.status()["moved_total"] == 0);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("least-busy tells who works from who only has connections") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "3", "--policy", "least-busy", "--stall-after", "never"},
                    hello());
    REQUIRE(cluster.wait_ready(3));
    (void)spread("127.0.0.1", 8080, 100);  // so that it is known how long they usually take
    REQUIRE(eventually([&] { return total_live(cluster) == 0; }));
    std::vector<std::unique_ptr<Connection>> held;
    REQUIRE(hold(held, 3) == Shares{{0, 1}, {1, 1}, {2, 1}});
    // One works at something: it was woken for a request, and does not come back to wait.
    int busy = instance_in(held[0]->get("/").body);
    pid_t working = cluster.pid_of(busy);
    REQUIRE(stop_process(working));
    REQUIRE(held[0]->send_request("/", true));
    // All have as many connections.
    for (int i = 0; i < 15; i++) {
        auto served = spread("127.0.0.1", 8080, 1);
        CHECK_FALSE(served.contains(busy));
        CHECK_FALSE(served.contains(-1));
        REQUIRE(eventually([&] { return total_live(cluster) == 3; }));
    }
    // Those that have nothing to do have more.
    auto more = hold(held, 8);
    CHECK_FALSE(more.contains(busy));
    CHECK_FALSE(more.contains(-1));
    // As soon as it waits again it gets the next ones.
    REQUIRE(::kill(working, SIGCONT) == 0);
    CHECK(instance_in(held[0]->receive().body) == busy);
    CHECK(eventually([&] { return hold(held, 1) == Shares{{busy, 1}}; }));
    held.clear();
    CHECK(cluster.stop() == 0);
}

TEST_CASE("least-busy gives a worker that serves one at a time no second connection") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "6", "--policy", "least-busy"}, hello({"--block"}));
    REQUIRE(cluster.wait_ready(6));
    std::vector<std::unique_ptr<Connection>> held;
    auto busy = hold(held, 2);
    REQUIRE(busy.size() == 2);
    auto served = spread("127.0.0.1", 8080, 100);
    CHECK_FALSE(served.contains(-1));
    for (const auto& [instance, connections] : busy) CHECK_FALSE(served.contains(instance));
    CHECK(served.size() == 4);
    // Nor did one wait there until the worker was found to be stuck.
    CHECK(cluster.status()["moved_total"] == 0);
    held.clear();
    CHECK(cluster.stop() == 0);
}

TEST_CASE("least-busy passes by a worker that stands still, though fewest connections are there") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "least-busy", "--stall-after", "never"},
                    hello());
    REQUIRE(cluster.wait_ready(2));
    (void)spread("127.0.0.1", 8080, 100);  // so that it is known how long they usually take
    std::vector<std::unique_ptr<Connection>> held;
    Shares shares = hold(held, 28);  // who was slow for a moment has one less
    REQUIRE((shares[0] >= 11 && shares[1] >= 11));
    // The first worker keeps one of its own, and hangs; one more waits there. The other keeps
    // eleven: more than the first can be taken for while nothing waits there (one, and eight for
    // its delay), and with the twelve below still less than while something does (two and 32).
    pid_t hung = cluster.pid_of(0);
    std::vector<std::unique_ptr<Connection>> kept;
    std::map<int, int> left{{0, 1}, {1, 11}};
    for (auto& connection : held)
        if (left[instance_in(connection->get("/").body)]-- > 0)
            kept.push_back(std::move(connection));
    held.clear();
    REQUIRE(eventually([&] { return cluster.worker(0)["live"] == 1; }));
    REQUIRE(eventually([&] { return cluster.worker(1)["live"] == 11; }));
    // On a busy machine one may have been relieved before.
    auto moved = [&] { return cluster.status()["moved_total"].get<int>(); };
    int before = moved();
    REQUIRE(stop_process(hung));
    Connection waiting("127.0.0.1", 8080);
    REQUIRE(waiting.send_request("/", false));
    // It does not wait for long. The next one does: a worker is relieved once for what it does.
    CHECK(instance_in(waiting.receive().body) == 1);
    // The answer may come before the first worker is active again; that is one step of the
    // master's.
    CHECK(moved() == before + 1);
    Connection next("127.0.0.1", 8080);
    REQUIRE(next.send_request("/", false));
    REQUIRE(eventually([&] { return cluster.worker(0)["queued"] == 1; }));
    // Each time its usual pace counts as a connection, up to 32, which takes a slow worker longer.
    // By connections alone eight of these would wait there, too.
    std::this_thread::sleep_for(slowness() * milliseconds(100));
    CHECK(hold(kept, 12) == Shares{{1, 12}});
    // Nor is anything moved there from a worker that stands still, but not for as long. (It has
    // just finished one: what it did before does not count as tried.)
    int live = total_live(cluster);
    kept.pop_back();
    REQUIRE(eventually([&] { return total_live(cluster) == live - 1; }));
    pid_t paused = cluster.pid_of(1);
    REQUIRE(stop_process(paused));
    Connection third("127.0.0.1", 8080);
    REQUIRE(third.send_request("/", false));
    REQUIRE(eventually([&] { return cluster.worker(1)["queued"] == 1; }));
    std::this_thread::sleep_for(slowness() * milliseconds(100));
    REQUIRE(::kill(paused, SIGCONT) == 0);
    CHECK(instance_in(third.receive().body) == 1);
    CHECK(moved() == before + 1);
    REQUIRE(::kill(hung, SIGCONT) == 0);
    CHECK(instance_in(next.receive().body) == 0);
    kept.clear();
    CHECK(cluster.stop() == 0);
}

TEST_CASE("least-conn sends new connections to the worker whose old ones ended") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "least-conn"}, hello());
    REQUIRE(cluster.wait_ready(2));
    std::vector<std::unique_ptr<Connection>> held;
    REQUIRE(hold(held, 20) == Shares{{0, 10}, {1, 10}});
    std::vector<std::unique_ptr<Connection>> kept;
    for (auto& connection : held)
        if (instance_in(connection->get("/").body) == 1) kept.push_back(std::move(connection));
    held.clear();
    REQUIRE(eventually([&] { return cluster.worker(0)["live"] == 0; }));
    CHECK(hold(kept, 10) == Shares{{0, 10}});
    kept.clear();
    CHECK(cluster.stop() == 0);
}

TEST_CASE("hash gives every worker some of the connections") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", "hash"}, hello());
    REQUIRE(cluster.wait_ready(4));
    auto counts = spread("127.0.0.1", 8080, 400);
    CHECK(counts.count(-1) == 0);
    for (int i = 0; i < 4; i++) {
        CHECK(counts[i] > 40);
        CHECK(counts[i] < 200);
    }
    CHECK(cluster.stop() == 0);
}

TEST_CASE("each decision is counted once, by reason") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin"}, hello());
    REQUIRE(cluster.wait_ready(2));
    auto before = cluster.status()["decisions_total"];
    spread("127.0.0.1", 8080, 100);
    auto after = cluster.status()["decisions_total"];
    CHECK(after["picked"].get<int>() - before["picked"].get<int>() == 100);
    CHECK(after["fallback"] == before["fallback"]);
    CHECK(after["keeper"] == before["keeper"]);
    CHECK(after["dropped"] == before["dropped"]);
    Json status = cluster.status();
    for (const auto& worker : status["workers"]) CHECK(worker["accepted_total"] == 50);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a waiting connection is counted as queued and live") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    REQUIRE(cluster.drover({"signal", "web", "STOP"}).status == 0);
    std::vector<std::unique_ptr<Connection>> waiting;
    for (int i = 0; i < 7; i++) {
        waiting.push_back(std::make_unique<Connection>("127.0.0.1", 8080));
        REQUIRE(waiting.back()->error() == "");
    }
    CHECK(eventually([&] {
        Json worker = cluster.worker(0);
        return worker["queued"] == 7 && worker["live"] == 7;
    }));
    REQUIRE(cluster.drover({"signal", "web", "CONT"}).status == 0);
    CHECK(eventually([&] { return cluster.worker(0)["queued"] == 0; }));
    for (auto& connection : waiting) CHECK(connection->get("/").error == "");
    waiting.clear();
    CHECK(cluster.stop() == 0);
}

TEST_CASE("the policy changes while connections come, and none is lost") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", "hash"}, hello());
    REQUIRE(cluster.wait_ready(4));
    Load load("127.0.0.1", 8080, 300);
    for (const char* policy :
         {"round-robin", "least-conn", "hash", "source", "least-busy", "round-robin"}) {
        REQUIRE(load.wait_answered(30));
        CHECK(cluster.drover({"policy", "web", policy}).status == 0);
        CHECK(cluster.status()["policy"] == policy);
    }
    auto result = load.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
    CHECK(spread("127.0.0.1", 8080, 20) == Shares{{0, 5}, {1, 5}, {2, 5}, {3, 5}});
    CHECK(cluster.stop() == 0);
}

TEST_SUITE_END();

}  // namespace drover::test
