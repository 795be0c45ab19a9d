// SPDX-License-Identifier: MIT
//
// Workers that get more than others: weights, and the slow start of new ones.
#include <fmt/format.h>
#include <signal.h>

#include <memory>

#include "harness.h"
#include "http.h"

namespace drover::test {

namespace {

using Shares = std::map<int, int>;
using Held = std::vector<std::unique_ptr<Connection>>;

// Opens connections that stay open.
void hold(Held& held, int connections) {
    for (int i = 0; i < connections; i++) {
        held.push_back(std::make_unique<Connection>("127.0.0.1", 8080));
        REQUIRE(held.back()->get("/hold").ok());
    }
}

Shares live(Cluster& cluster) {
    Shares shares;
    Json status = cluster.status();
    if (!status.is_object()) return shares;
    for (const auto& worker : status["workers"])
        shares[worker["instance"].get<int>()] = worker["live"].get<int>();
    return shares;
}

bool set_weight(Cluster& cluster, int instance, int weight) {
    return cluster.drover({"weight", cluster.target(instance), std::to_string(weight)}).status == 0;
}

// With weights 1 and 3 a run of 40 turns is 10 and 30, wherever it begins.
bool is_one_to_three() {
    return spread("127.0.0.1", 8080, 40) == Shares{{0, 10}, {1, 30}};
}

Words two_by(const std::string& policy) {
    return {"-n", "2", "--policy", policy};
}

}  // namespace

TEST_SUITE_BEGIN("steering");

TEST_CASE("weight: round-robin gives 1 : 3 exactly, until the weight is 1 again") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", two_by("round-robin"), hello());
    REQUIRE(cluster.wait_ready(2));
    CHECK(cluster.worker(0)["weight"] == 1);
    CHECK(cluster.worker(1)["weight"] == 1);
    auto told = cluster.drover({"weight", cluster.target(1), "3"});
    CHECK(told.status == 0);
    CHECK(told.out == cluster.target(1) + " has weight 3\n");
    CHECK(cluster.worker(0)["weight"] == 1);
    CHECK(cluster.worker(1)["weight"] == 3);
    CHECK(is_one_to_three());
    REQUIRE(set_weight(cluster, 1, 1));
    CHECK(spread("127.0.0.1", 8080, 40) == Shares{{0, 20}, {1, 20}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("weight: what is no weight or no worker is refused, and changes nothing") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", two_by("round-robin"), hello());
    REQUIRE(cluster.wait_ready(2));
    CHECK(cluster.drover({"weight", cluster.target(1), "0"}).status == 2);
    CHECK(cluster.drover({"weight", cluster.target(1), "101"}).status == 2);
    auto nobody = cluster.drover({"weight", "web/999", "3"});
    CHECK(nobody.status == 1);
    CHECK(contains(nobody.err, "no worker 999"));
    CHECK(cluster.worker(1)["weight"] == 1);
    CHECK(spread("127.0.0.1", 8080, 40) == Shares{{0, 20}, {1, 20}});
    CHECK(cluster.stop() == 0);
}

TEST_CASE("weight: held connections of least-conn end at 1 : 3") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", two_by("least-conn"), hello());
    REQUIRE(cluster.wait_ready(2));
    Held held;
    hold(held, 20);
    CHECK(live(cluster) == Shares{{0, 10}, {1, 10}});
    REQUIRE(set_weight(cluster, 1, 3));
    hold(held, 20);  // all of them to the second
    CHECK(live(cluster) == Shares{{0, 10}, {1, 30}});
    hold(held, 40);
    CHECK(live(cluster) == Shares{{0, 20}, {1, 60}});
    held.clear();
    CHECK(cluster.stop() == 0);
}

TEST_CASE("weight: held connections of least-busy end at 1 : 3, to one") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", two_by("least-busy"), hello());
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(set_weight(cluster, 1, 3));
    Held held;
    hold(held, 80);
    auto shares = live(cluster);
    CHECK(std::abs(shares[0] - 20) <= 1);
    CHECK(shares[0] + shares[1] == 80);
    held.clear();
    CHECK(cluster.stop() == 0);
}

TEST_CASE("weight: a quarter and three quarters of the addresses are whose source makes them") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", two_by("source"), hello());
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(set_weight(cluster, 1, 3));
    Shares shares;
    for (int network = 1; network <= 4; network++)
        for (int i = 1; i <= 100; i++)
            shares[instance_in(
                get("127.0.0.1", 8080, "/", kDeadline, fmt::format("127.0.{}.{}", network, i))
                    .body)]++;
    CHECK(shares.size() == 2);
    CHECK(shares[0] > 70);
    CHECK(shares[0] < 130);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("weight: it stays with the instance when its worker is restarted or dies") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", two_by("round-robin"), hello());
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(set_weight(cluster, 1, 3));
    pid_t former = cluster.pid_of(1);
    REQUIRE(cluster.drover({"restart", cluster.target(1)}).status == 0);
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(cluster.pid_of(1) != former);
    CHECK(cluster.worker(1)["weight"] == 3);
    CHECK(is_one_to_three());

    former = cluster.pid_of(1);
    REQUIRE(::kill(former, SIGKILL) == 0);
    REQUIRE(eventually([&] { return cluster.worker(1)["pid"] != former; }));
    REQUIRE(cluster.wait_ready(2));
    CHECK(cluster.worker(0)["weight"] == 1);
    CHECK(cluster.worker(1)["weight"] == 3);
    CHECK(is_one_to_three());
    CHECK(cluster.stop() == 0);
}

TEST_CASE("slow-start: a new worker begins with little and comes to its full share") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", "round-robin", "--slow-start", "4s"},
                    hello());
    REQUIRE(cluster.wait_ready(4));
    const Shares even = {{0, 10}, {1, 10}, {2, 10}, {3, 10}};
    // The first workers begin slowly too, all alike: only after that is a new one behind them.
    auto begin = Clock::now();
    REQUIRE(eventually([&] { return Clock::now() - begin > milliseconds(4'200); }));
    CHECK(spread("127.0.0.1", 8080, 40) == even);
    REQUIRE(cluster.drover({"restart", cluster.target(2)}).status == 0);
    auto now = spread("127.0.0.1", 8080, 100);
    // Of 25. It has a tenth of its weight at first, and half of it after two seconds.
    CHECK(now[2] > 0);
    CHECK(now[2] < 15);
    CHECK(now[0] + now[1] + now[3] == 100 - now[2]);
    CHECK(std::abs(now[0] - now[3]) <= 3);  // the others are as they were
    CHECK(eventually([&] { return spread("127.0.0.1", 8080, 40) == even; }));
    CHECK(cluster.stop() == 0);
}

TEST_SUITE_END();

}  // namespace drover::test
