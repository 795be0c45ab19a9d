// SPDX-License-Identifier: MIT
//
// Adopt mode: unmodified servers bind their own port, and all of them share it.
#include <sched.h>

#include "harness.h"
#include "http.h"

namespace drover::test {

namespace {

using Shares = std::map<int, int>;

const Words kFourInTurn = {"-n", "4", "--policy", "round-robin"};

}  // namespace

TEST_SUITE_BEGIN("adopt");

TEST_CASE("four copies of a static server share the port that each of them binds") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", kFourInTurn, hello());
    REQUIRE(cluster.wait_ready(4));
    CHECK(spread("127.0.0.1", 8080, 20) == Shares{{0, 5}, {1, 5}, {2, 5}, {3, 5}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("this kernel lets the policies look at queues") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(cluster.wait_ready(2));
    CHECK_MESSAGE(!contains(cluster.master().err(), "look at listeners"), cluster.master().err());
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a port named beforehand is shared just the same") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", "round-robin", "--port", "8080"},
                    hello());
    REQUIRE(cluster.wait_ready(4));
    CHECK(spread("127.0.0.1", 8080, 20) == Shares{{0, 5}, {1, 5}, {2, 5}, {3, 5}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("an address named with the port is shared with its keeper in place from the start") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--policy", "round-robin", "--port", "127.0.0.1:8080"},
                    hello({"--addr", "127.0.0.1", "--delay-listen-ms", "700"}));
    // No worker listens yet, and nobody is refused: the keeper holds the connection.
    REQUIRE(eventually([&] { return Connection("127.0.0.1", 8080).error().empty(); }));
    auto reply = get("127.0.0.1", 8080);
    CHECK(reply.error == "");
    REQUIRE(cluster.wait_ready(2));
    CHECK(spread("127.0.0.1", 8080, 10) == Shares{{0, 5}, {1, 5}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("servers that listen on IPv6 only share the port") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", kFourInTurn, hello({"--addr", "::", "--v6only"}));
    REQUIRE(cluster.wait_ready(4));
    CHECK(spread("::1", 8080, 20) == Shares{{0, 5}, {1, 5}, {2, 5}, {3, 5}});
    CHECK(get("127.0.0.1", 8080).error == "refused");
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("dual-stack servers get both IPv4 and IPv6 connections in turn") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", kFourInTurn, hello({"--addr", "::"}));
    REQUIRE(cluster.wait_ready(4));
    CHECK(spread("::1", 8080, 20) == Shares{{0, 5}, {1, 5}, {2, 5}, {3, 5}});
    CHECK(spread("127.0.0.1", 8080, 20) == Shares{{0, 5}, {1, 5}, {2, 5}, {3, 5}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("servers with an IPv4 and an IPv6-only listener are steered on both") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin"},
                    hello({"--addr", "0.0.0.0", "--addr", "::", "--v6only"}));
    REQUIRE(cluster.wait_ready(2));
    CHECK(spread("127.0.0.1", 8080, 10) == Shares{{0, 5}, {1, 5}});
    CHECK(spread("::1", 8080, 10) == Shares{{0, 5}, {1, 5}});
    CHECK(cluster.status()["groups"].size() == 2);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("servers with two ports are steered on both") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", kFourInTurn, hello({"--extra-port", "8081"}));
    REQUIRE(cluster.wait_ready(4));
    // A worker may be ready by its first listener, some µs before the second one.
    REQUIRE(eventually([&] {
        Json groups = cluster.status()["groups"];
        return groups.size() == 2 && groups[0]["active"].size() == 4 &&
               groups[1]["active"].size() == 4;
    }));
    CHECK(spread("127.0.0.1", 8080, 20) == Shares{{0, 5}, {1, 5}, {2, 5}, {3, 5}});
    CHECK(spread("127.0.0.1", 8081, 20) == Shares{{0, 5}, {1, 5}, {2, 5}, {3, 5}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("servers that serve one connection at a time share the port") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", kFourInTurn, hello({"--block"}));
    REQUIRE(cluster.wait_ready(4));
    CHECK(spread("127.0.0.1", 8080, 20) == Shares{{0, 5}, {1, 5}, {2, 5}, {3, 5}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("workers of an unprivileged user bind port 80 where --port names it") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--policy", "round-robin", "--user", "nobody", "--port", "80"},
                    hello({"--port", "80"}));
    REQUIRE(cluster.wait_ready(2));
    CHECK(spread("127.0.0.1", 80, 10) == Shares{{0, 5}, {1, 5}});
    auto process = get("127.0.0.1", 80, "/process");
    CHECK(contains(process.body, "uid 65534\ngid 65534\n"));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("an unprivileged worker may not bind a low port that was not named") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1", "--user", "nobody", "--max-restarts", "1/60s"},
                    hello({"--port", "81"}));
    CHECK(cluster.master().wait() == 1);
    CHECK(contains(cluster.master().out() + cluster.master().err(), "bind: Permission denied"));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that tries to detach the steering program is refused and steering goes on") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", kFourInTurn, hello({"--detach"}));
    REQUIRE(cluster.wait_ready(4));
    for (int i = 0; i < 4; i++) CHECK(get("127.0.0.1", 8080, "/detach").body == "errno 1\n");
    CHECK(spread("127.0.0.1", 8080, 20) == Shares{{0, 5}, {1, 5}, {2, 5}, {3, 5}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("without -n there are as many workers as usable CPUs") {
    Sandbox sandbox;
    cpu_set_t cpus;
    REQUIRE(::sched_getaffinity(0, sizeof(cpus), &cpus) == 0);
    Cluster cluster(sandbox, "web", {}, hello());
    // A cpu.max of the cgroup that the tests run in may allow fewer.
    REQUIRE(eventually([&] {
        Json now = cluster.status();
        return now.is_object() && now["ready"] == now["wanted"] && now["ready"] > 0;
    }));
    CHECK(cluster.status()["wanted"] >= 1);
    CHECK(cluster.status()["wanted"] <= CPU_COUNT(&cpus));
    CHECK(cluster.stop() == 0);
}

TEST_SUITE_END();

}  // namespace drover::test
