// SPDX-License-Identifier: MIT
//
// Workers that hang, and what becomes of the connections that wait for them.
#include <fmt/format.h>
#include <signal.h>

#include <memory>

#include "harness.h"
#include "http.h"

namespace drover::test {

namespace {

// Requests that are sent and whose answers are awaited later.
class Waiting {
  public:
    explicit Waiting(int count, const std::string& path = "/") {
        for (int i = 0; i < count; i++) {
            connections_.push_back(std::make_unique<Connection>("127.0.0.1", 8080));
            REQUIRE(connections_.back()->error() == "");
            REQUIRE(connections_.back()->send_request(path, false));
        }
    }
    // By instance; −1: not answered.
    std::map<int, int> answers() {
        std::map<int, int> by_instance;
        for (auto& connection : connections_) {
            Reply reply = connection->receive();
            by_instance[reply.ok() ? instance_in(reply.body) : -1]++;
        }
        return by_instance;
    }

  private:
    std::vector<std::unique_ptr<Connection>> connections_;
};

std::vector<Json> events_named(Cluster& cluster, const std::string& name) {
    std::vector<Json> found;
    for (const Json& event : cluster.events())
        if (event["event"] == name) found.push_back(event);
    return found;
}

bool is_stalled(Cluster& cluster, int instance) {
    return cluster.worker(instance)["flags"] == Json({"stalled"});
}

}  // namespace

TEST_SUITE_BEGIN("stall");

TEST_CASE("what waits for a stopped worker is answered by the others, and it rejoins") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", "round-robin"}, hello());
    REQUIRE(cluster.wait_ready(4));
    pid_t stopped = cluster.pid_of(1);
    REQUIRE(stop_process(stopped));
    Waiting waiting(40);
    auto answers = waiting.answers();
    CHECK(answers[-1] == 0);
    CHECK(answers[1] == 0);
    CHECK(answers[0] + answers[2] + answers[3] == 40);
    REQUIRE(is_stalled(cluster, 1));
    CHECK(cluster.worker(1)["state"] == "ready");  // it lives, and may be well again
    CHECK(events_named(cluster, "stalled").size() == 1);
    uint64_t moved = 0;
    for (const Json& event : events_named(cluster, "rescued"))
        moved += event["data"]["moved"].get<uint64_t>();
    CHECK(moved == 10);
    CHECK(cluster.status()["moved_total"] == 10);
    // It gets no new ones.
    auto meanwhile = spread("127.0.0.1", 8080, 9);
    CHECK(meanwhile == std::map<int, int>{{0, 3}, {2, 3}, {3, 3}});
    REQUIRE(::kill(stopped, SIGCONT) == 0);
    REQUIRE(eventually([&] { return !is_stalled(cluster, 1); }));
    CHECK(events_named(cluster, "recovered").size() == 1);
    CHECK(spread("127.0.0.1", 8080, 40) == std::map<int, int>{{0, 10}, {1, 10}, {2, 10}, {3, 10}});
    CHECK(cluster.pid_of(1) == stopped);
    for (int instance = 0; instance < 4; instance++)
        CHECK(eventually([&] { return cluster.worker(instance)["live"] == 0; }));
    CHECK(cluster.status()["corrections_total"] == 0);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that stops after a time of steady traffic is found as well") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "4", "--policy", "round-robin", "--stall-after", "100ms"}, hello());
    REQUIRE(cluster.wait_ready(4));
    Load load("127.0.0.1", 8080, 400);
    // Long enough for the looks at the queues to have ended and begun again many times.
    REQUIRE(load.wait_answered(800));
    pid_t stopped = cluster.pid_of(1);
    REQUIRE(stop_process(stopped));
    REQUIRE(eventually([&] { return is_stalled(cluster, 1); }));
    REQUIRE(load.wait_answered(200));
    REQUIRE(::kill(stopped, SIGCONT) == 0);
    REQUIRE(eventually([&] { return !is_stalled(cluster, 1); }));
    auto result = load.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a Node worker that computes is relieved of its queue and does not notice") {
    auto node = find_program("node");
    if (!node) return;
    Sandbox sandbox;
    write_file(sandbox.path("server.js"),
               "require('http').createServer((request, response) => {\n"
               "  if (request.url === '/long')\n"
               "    for (const end = Date.now() + 2000; Date.now() < end;);\n"
               "  response.end(`instance ${process.env.DROVER_INSTANCE}\\n`);\n"
               "}).listen(8080);");
    for (const char* ipc : {"node", "pipe"}) {
        CAPTURE(ipc);
        Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin", "--ipc", ipc},
                        {*node, sandbox.path("server.js")});
        REQUIRE(cluster.wait_ready(2));
        auto pids = std::pair(cluster.pid_of(0), cluster.pid_of(1));
        Waiting busy(1, "/long");
        Waiting waiting(10);
        CHECK(waiting.answers()[-1] == 0);
        // Those that went to the busy one were answered by the other while it computed.
        CHECK_FALSE(events_named(cluster, "rescued").empty());
        CHECK(busy.answers()[-1] == 0);
        REQUIRE(eventually([&] { return !is_stalled(cluster, 0) && !is_stalled(cluster, 1); }));
        CHECK(spread("127.0.0.1", 8080, 10) == std::map<int, int>{{0, 5}, {1, 5}});
        CHECK(std::pair(cluster.pid_of(0), cluster.pid_of(1)) == pids);
        CHECK(cluster.stop() == 0);
    }
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that waits in accept() is not disturbed by the rescue of another") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin"}, hello({"--block"}));
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(stop_process(cluster.pid_of(0)));
    Waiting waiting(6);
    CHECK(waiting.answers() == std::map<int, int>{{1, 6}});
    REQUIRE(::kill(cluster.pid_of(0), SIGCONT) == 0);
    REQUIRE(eventually([&] { return events_named(cluster, "recovered").size() == 1; }));
    CHECK(spread("127.0.0.1", 8080, 6) == std::map<int, int>{{0, 3}, {1, 3}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("what waits in a socket of --listen is taken away as well") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--policy", "round-robin", "--listen", "tcp://0.0.0.0:8080"},
                    {build_folder() + "/servers/talker"});
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(stop_process(cluster.pid_of(0)));
    Waiting waiting(6);
    CHECK(waiting.answers() == std::map<int, int>{{1, 6}});
    CHECK(cluster.status()["moved_total"] == 3);
    REQUIRE(::kill(cluster.pid_of(0), SIGCONT) == 0);
    REQUIRE(eventually([&] { return events_named(cluster, "recovered").size() == 1; }));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("the last worker that serves is left alone, and its queue waits for it") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1", "--stall-after", "100ms"}, hello());
    REQUIRE(cluster.wait_ready(1));
    REQUIRE(stop_process(cluster.pid_of(0)));
    Waiting waiting(3);
    REQUIRE(eventually([&] { return is_stalled(cluster, 0); }));
    CHECK(cluster.status()["groups"][0]["active"] == Json({0}));
    REQUIRE(::kill(cluster.pid_of(0), SIGCONT) == 0);
    CHECK(waiting.answers() == std::map<int, int>{{0, 3}});
    CHECK(eventually([&] { return !is_stalled(cluster, 0); }));
    CHECK(cluster.status()["moved_total"] == 0);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("with --stall-kill a worker that hangs is killed and replaced") {
    Sandbox sandbox;
    Cluster cluster(
        sandbox, "web",
        {"-n", "2", "--policy", "round-robin", "--stall-after", "100ms", "--stall-kill", "1s"},
        hello());
    REQUIRE(cluster.wait_ready(2));
    pid_t stopped = cluster.pid_of(0);
    REQUIRE(stop_process(stopped));
    Waiting waiting(4);
    CHECK(waiting.answers()[-1] == 0);
    REQUIRE(eventually([&] { return !events_named(cluster, "exit").empty(); }));
    auto exit = events_named(cluster, "exit").front();
    CHECK(exit["worker"]["pid"] == stopped);
    CHECK(exit["data"]["reason"] == "stalled");
    CHECK(exit["data"]["signal"] == "KILL");
    REQUIRE(cluster.wait_ready(2));
    CHECK(spread("127.0.0.1", 8080, 4) == std::map<int, int>{{0, 2}, {1, 2}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("drover rescue moves what waits, on demand, and says why where it cannot") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--policy", "round-robin", "--stall-after", "never"}, hello());
    REQUIRE(cluster.wait_ready(2));
    pid_t stopped = cluster.pid_of(0);
    REQUIRE(stop_process(stopped));
    Waiting waiting(4);
    REQUIRE(eventually([&] { return cluster.worker(0)["queued"] == 2; }));
    CHECK(cluster.drover({"rescue", cluster.target(0)}).status == 0);
    CHECK(cluster.worker(0)["queued"] == 0);
    CHECK(waiting.answers() == std::map<int, int>{{1, 4}});
    auto rescued = events_named(cluster, "rescued");
    REQUIRE(rescued.size() == 1);
    CHECK(rescued.front()["data"]["moved"] == 2);
    CHECK(events_named(cluster, "stalled").empty());
    // It was asked for once: the worker goes on as before.
    CHECK(cluster.status()["groups"][0]["active"] == Json({0, 1}));
    REQUIRE(::kill(stopped, SIGCONT) == 0);
    CHECK(spread("127.0.0.1", 8080, 4) == std::map<int, int>{{0, 2}, {1, 2}});

    REQUIRE(cluster.drover({"drain", cluster.target(1)}).status == 0);
    auto refused = cluster.drover({"rescue", cluster.target(0)});
    CHECK(refused.status == 1);
    CHECK(contains(refused.err, "no other worker"));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker with idle connections is not called stalled") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--stall-after", "500ms"}, hello());
    REQUIRE(cluster.wait_ready(2));
    std::vector<std::unique_ptr<Connection>> idle;
    for (int i = 0; i < 10; i++) {
        idle.push_back(std::make_unique<Connection>("127.0.0.1", 8080));
        REQUIRE(idle.back()->get("/").ok());
    }
    // Time for many looks; what is awaited must not come.
    CHECK_FALSE(
        eventually([&] { return !events_named(cluster, "stalled").empty(); }, milliseconds(1'500)));
    CHECK(spread("127.0.0.1", 8080, 10)[-1] == 0);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
