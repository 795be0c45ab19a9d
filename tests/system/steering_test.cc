// SPDX-License-Identifier: MIT
//
// Who gets a connection: the policies, the live counts, the decisions.
#include <memory>

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

TEST_CASE("least-conn is the policy where none is named") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    CHECK(cluster.status()["policy"] == "least-conn");
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
    for (const char* policy : {"round-robin", "least-conn", "hash", "round-robin"}) {
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
