// SPDX-License-Identifier: MIT
//
// Node programs that know nothing of drover: it is their cluster's primary. Their lives and
// messages are here, their sockets in node_sockets_test.cc; the longer programs are in tests/node.
#include <fmt/format.h>
#include <signal.h>

#include <set>

#include "half_open.h"
#include "harness.h"
#include "http.h"
#include "messages.h"
#include "node_programs.h"

namespace drover::test {

namespace {

// An exit within a second of being ready counts as a failed start, which is not what is tested.
bool wait_until_established(Cluster& cluster) {
    auto ready = Clock::now();
    return eventually([&] { return Clock::now() - ready > milliseconds(1'050); }) &&
           cluster.status()["state"] == "running";
}

// One instance's worker was replaced by another that is ready.
bool wait_replaced(Cluster& cluster, int instance, int former_id) {
    return eventually([&] {
        Json worker = cluster.worker(instance);
        return worker.is_object() && worker["id"] != former_id && worker["state"] == "ready";
    });
}

// The exit event of a worker; null where there is none.
Json exit_of(Cluster& cluster, int id) {
    for (const auto& event : events_of(cluster, "exit"))
        if (event["worker"]["id"] == id) return event;
    return {};
}

}  // namespace

TEST_SUITE_BEGIN("node");

NODE_TEST_CASE("an unmodified Express app answers from all workers in turn") {
    auto command = express_program<Node>("hello.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "4", "--policy", "round-robin"}, *command);
    REQUIRE(cluster.wait_ready(4));
    CHECK(spread("127.0.0.1", 8080, 20) == Shares{{0, 5}, {1, 5}, {2, 5}, {3, 5}});
    CHECK(spread("::1", 8080, 20) == Shares{{0, 5}, {1, 5}, {2, 5}, {3, 5}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

NODE_TEST_CASE("the cluster program of every tutorial runs as a worker and forks nothing") {
    auto command = express_program<Node>("tutorial.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "3", "--policy", "round-robin"}, *command);
    REQUIRE(cluster.wait_ready(3));
    CHECK(spread("127.0.0.1", 8080, 12) == Shares{{0, 4}, {1, 4}, {2, 4}});
    auto pids = pids_of(cluster);
    for (int i = 0; i < 3; i++) CHECK(pids.count(pid_in(get("127.0.0.1", 8080).body)) == 1);
    CHECK_FALSE(contains(cluster.master().out(), "Primary"));
    CHECK(contains(cluster.master().out(), fmt::format("Worker {} started", *pids.begin())));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

NODE_TEST_CASE("a Node worker is a cluster worker whose id is drover's") {
    auto command = express_program<Node>("cluster.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "2", "--policy", "round-robin"}, *command);
    REQUIRE(cluster.wait_ready(2));
    std::set<int> ids;
    for (int i = 0; i < 2; i++) {
        Json seen = Json::parse(get("127.0.0.1", 8080, "/cluster").body, nullptr, false);
        REQUIRE(seen.is_object());
        INFO(seen.dump());
        CHECK(seen["version"].get<std::string>().starts_with(Node::version));
        CHECK(seen["isWorker"] == true);
        CHECK(seen["isPrimary"] == false);
        CHECK(seen["connected"] == true);
        CHECK(seen["id"] == seen["environment"]);
        CHECK(seen["leaked"] == Json::array());
        ids.insert(seen["id"].get<int>());
    }
    CHECK(ids == std::set<int>{id_of(cluster, 0), id_of(cluster, 1)});
    CHECK(cluster.stop() == 0);
}

NODE_TEST_CASE(
    "process.send is a message event, and drover send arrives as process.on('message')") {
    auto command = express_program<Node>("cluster.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "2"}, *command);
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(get("127.0.0.1", 8080, "/send").ok());
    REQUIRE(eventually([&] { return events_of(cluster, "message").size() == 1; }));
    Json event = events_of(cluster, "message")[0];
    Json id = event["worker"]["id"];
    CHECK(event["data"]["from"] == id);
    CHECK(event["data"]["to"] == "master");
    CHECK(event["data"]["data"] ==
          Json{{"from", id}, {"text", "grüße"}, {"list", Json::array({1, 2.5, nullptr})}});

    int first = id_of(cluster, 0), second = id_of(cluster, 1);
    Json alone = {{"job", "für einen"}, {"deep", {{"list", {1, 2, 3}}}}};
    CHECK(send(cluster, cluster.target(1), alone) == 0);
    CHECK(wait_said(cluster, second, {{"got", alone}}));
    for (const Json& data : {Json("a string"), Json(7), Json(true)}) {
        CHECK(send(cluster, "web", data) == 0);
        CHECK(wait_said(cluster, first, {{"got", data}}));
        CHECK(wait_said(cluster, second, {{"got", data}}));
    }
    for (const auto& said : said_by(cluster, first)) CHECK(said != Json{{"got", alone}});
    CHECK(cluster.stop() == 0);
}

NODE_TEST_CASE("a worker that disconnects exits with 0 and is replaced at once") {
    auto command = express_program<Node>("cluster.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "1"}, *command);
    REQUIRE(cluster.wait_ready(1));
    REQUIRE(wait_until_established(cluster));
    int id = id_of(cluster, 0);
    REQUIRE(get("127.0.0.1", 8080, "/disconnect").ok());
    CHECK(get("127.0.0.1", 8080).ok());  // waits for the replacement, if need be
    REQUIRE(wait_replaced(cluster, 0, id));
    Json exit = exit_of(cluster, id);
    REQUIRE(exit.is_object());
    CHECK(exit["data"]["code"] == 0);
    CHECK(exit["data"]["signal"] == nullptr);
    Json disconnects = events_of(cluster, "disconnect");
    REQUIRE(disconnects.size() == 1);
    CHECK(disconnects[0]["worker"]["id"] == id);
    auto forks = events_of(cluster, "fork");
    REQUIRE(forks.size() == 2);
    for (const Json& change : events_of(cluster, "state")) CHECK(change["data"]["to"] != "backoff");
    CHECK(eventually(
        [&] { return contains(cluster.master().out(), "exit 0, exitedAfterDisconnect true\n"); }));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

NODE_TEST_CASE("a Node worker that is to stop is told to disconnect while it has a connection") {
    auto command = express_program<Node>("cluster.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "1"}, *command);
    REQUIRE(cluster.wait_ready(1));
    Connection connection("127.0.0.1", 8080);
    REQUIRE(connection.send_request("/until-disconnect", false));
    REQUIRE(wait_said(cluster, id_of(cluster, 0), "waiting"));
    CHECK(cluster.stop() == 0);
    CHECK(connection.receive().body == "told to disconnect\n");
    CHECK(sandbox.leftovers() == "");
}

NODE_TEST_CASE("a Node worker that throws is replaced") {
    auto command = express_program<Node>("cluster.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "1"}, *command);
    REQUIRE(cluster.wait_ready(1));
    REQUIRE(wait_until_established(cluster));
    int id = id_of(cluster, 0);
    REQUIRE(get("127.0.0.1", 8080, "/throw").ok());
    REQUIRE(wait_replaced(cluster, 0, id));
    CHECK(get("127.0.0.1", 8080).ok());
    Json exit = exit_of(cluster, id);
    REQUIRE(exit.is_object());
    CHECK(exit["data"]["code"] == 1);
    CHECK(exit["data"]["reason"] == "crash");
    CHECK(contains(cluster.master().err(), "thrown on purpose"));
    CHECK(eventually([&] {
        return contains(cluster.master().out(), "exit 1, exitedAfterDisconnect undefined\n");
    }));
    CHECK(cluster.stop() == 0);
}

NODE_TEST_CASE("a restart of Node workers under load loses no connection") {
    auto command = express_program<Node>("hello.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "2"}, *command);
    REQUIRE(cluster.wait_ready(2));
    auto before = pids_of(cluster);
    Load load("127.0.0.1", 8080, 300);
    REQUIRE(load.wait_answered(100));
    CHECK(cluster.drover({"restart", "web"}, milliseconds(30'000)).status == 0);
    REQUIRE(cluster.wait_ready(2));
    CHECK(load.wait_answered(100));
    auto result = load.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
    for (pid_t pid : pids_of(cluster)) CHECK(before.count(pid) == 0);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

// Told to disconnect, Node closes its listener at once.
NODE_TEST_CASE("handshakes half done at a restart of Node workers are ended by others") {
    auto command = express_program<Node>("hello.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "2", "--policy", "round-robin"}, *command);
    REQUIRE(cluster.wait_ready(2));
    auto before = pids_of(cluster);
    for (pid_t pid : before) REQUIRE(hold_handshakes(pid) == 1);
    std::vector<Connection> clients;
    for (int i = 0; i < 20; i++) {
        clients.emplace_back("127.0.0.1", 8080);
        REQUIRE(clients.back().send_request("/", false));
    }
    CHECK(half_open_handshakes() == 20);
    CHECK(cluster.drover({"restart", "web"}, milliseconds(30'000)).status == 0);
    for (Connection& client : clients) {
        auto reply = client.receive();
        CHECK(reply.error == "");
        CHECK(before.count(pid_in(reply.body)) == 0);
    }
    CHECK(half_open_handshakes() == 0);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

NODE_TEST_CASE("Node workers live on without their master until drover stop") {
    auto command = express_program<Node>("cluster.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "2", "--policy", "round-robin"}, *command);
    REQUIRE(cluster.wait_ready(2));
    auto pids = pids_of(cluster);
    cluster.master().send(SIGKILL);
    REQUIRE(cluster.master().wait() == 128 + SIGKILL);
    CHECK(spread("127.0.0.1", 8080, 8) == Shares{{0, 4}, {1, 4}});
    // What they say goes nowhere, and does them no harm.
    for (int i = 0; i < 50; i++) CHECK(get("127.0.0.1", 8080, "/send").ok());
    for (int i = 0; i < 4; i++) CHECK(pids.count(pid_in(get("127.0.0.1", 8080).body)) == 1);
    CHECK(sandbox.drover({"stop", "web"}).status == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
