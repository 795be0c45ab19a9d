// SPDX-License-Identifier: MIT
//
// The workers' lives: start, restart, scale, drain, stop, and what is told about it.
#include <signal.h>

#include <future>
#include <memory>
#include <set>

#include "harness.h"
#include "http.h"

namespace drover::test {

namespace {

constexpr milliseconds kDefaultTimeout{10'000};  // of draining, and of the stop signal

using Shares = std::map<int, int>;

std::set<int> ids_of(Cluster& cluster) {
    std::set<int> ids;
    Json status = cluster.status();
    for (const auto& worker : status["workers"]) ids.insert(worker["id"].get<int>());
    return ids;
}

// The kinds of the events about one worker, in order, but for its changes of state.
std::string story_of(const std::vector<Json>& events, int id) {
    std::string story;
    for (const auto& event : events) {
        if (!event["worker"].is_object() || event["worker"]["id"] != id) continue;
        if (event["event"] != "state") story += event["event"].get<std::string>() + " ";
    }
    return story;
}

size_t count_events(const std::vector<Json>& events, const std::string& kind) {
    size_t count = 0;
    for (const auto& event : events) count += event["event"] == kind ? 1 : 0;
    return count;
}

}  // namespace

TEST_SUITE_BEGIN("lifecycle");

TEST_CASE("a worker's events come in the order of its life") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(cluster.wait_ready(2));
    pid_t victim = cluster.pid_of(0);
    int id = cluster.worker(0)["id"].get<int>();
    REQUIRE(::kill(victim, SIGKILL) == 0);
    REQUIRE(eventually([&] {
        Json worker = cluster.worker(0);
        return worker["id"] != id && worker["state"] == "ready";
    }));
    auto events = cluster.events();
    CHECK(story_of(events, id) == "fork online listening ready disconnect exit ");
    uint64_t last = 0;
    for (const auto& event : events) {
        CHECK(event["seq"].get<uint64_t>() > last);
        last = event["seq"].get<uint64_t>();
    }
    CHECK(cluster.stop() == 0);
}

TEST_CASE("events -f goes on with what happens next") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    Child follower =
        sandbox.start({.command = {build_folder() + "/drover", "events", "web", "-f", "--json"},
                       .extra_environment = {},
                       .identity = {},
                       .cwd = {}});
    REQUIRE(eventually([&] { return contains(follower.out(), "\"ready\""); }));
    CHECK(cluster.drover({"scale", "web", "2"}).status == 0);
    CHECK(eventually([&] { return contains(follower.out(), "\"scaled\""); }));
    CHECK(cluster.stop() == 0);
    CHECK(follower.wait() >= 0);  // it ends with the cluster
}

TEST_CASE("a worker that listens late is ready late") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"},
                    hello({"--delay-listen-ms", std::to_string(600 * slowness())}));
    Json status;
    REQUIRE(eventually([&] {
        status = cluster.status();
        return status.is_object() && status["workers"][0]["state"] == "online";
    }));
    CHECK(status["ready"] == 0);
    CHECK(cluster.wait_ready(1));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("restart gives every instance a new worker") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "3", "--policy", "round-robin"}, hello());
    REQUIRE(cluster.wait_ready(3));
    auto before = ids_of(cluster);
    CHECK(cluster.drover({"restart", "web"}).status == 0);
    REQUIRE(cluster.wait_ready(3));
    for (int id : ids_of(cluster)) CHECK(before.count(id) == 0);
    CHECK(spread("127.0.0.1", 8080, 9) == Shares{{0, 3}, {1, 3}, {2, 3}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("restart of one worker leaves the others alone") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(cluster.wait_ready(2));
    pid_t other = cluster.pid_of(1), former = cluster.pid_of(0);
    CHECK(cluster.drover({"restart", cluster.target(0)}).status == 0);
    REQUIRE(cluster.wait_ready(2));
    CHECK(cluster.pid_of(1) == other);
    CHECK(cluster.pid_of(0) != former);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("scale goes from 2 to 6 to 3 and the spread follows") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin"}, hello());
    REQUIRE(cluster.wait_ready(2));
    Load load("127.0.0.1", 8080, 200);
    CHECK(cluster.drover({"scale", "web", "6"}).status == 0);
    REQUIRE(cluster.wait_ready(6));
    CHECK(cluster.drover({"scale", "web", "3"}, milliseconds(25'000)).status == 0);
    REQUIRE(cluster.wait_ready(3));
    auto result = load.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
    CHECK(spread("127.0.0.1", 8080, 30) == Shares{{0, 10}, {1, 10}, {2, 10}});
    CHECK(count_events(cluster.events(), "scaled") == 2);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a drained worker gets no new connections until it is resumed") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "3", "--policy", "round-robin"}, hello());
    REQUIRE(cluster.wait_ready(3));
    std::string target = cluster.target(1);
    CHECK(cluster.drover({"drain", target}).status == 0);
    CHECK(cluster.worker(1)["flags"] == Json::array({"held"}));
    CHECK(spread("127.0.0.1", 8080, 20) == Shares{{0, 10}, {2, 10}});
    CHECK(cluster.drover({"resume", target}).status == 0);
    CHECK(cluster.worker(1)["flags"] == Json::array());
    CHECK(spread("127.0.0.1", 8080, 30) == Shares{{0, 10}, {1, 10}, {2, 10}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("drain is done when the worker's last connection has ended") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1", "--port", "8080"}, hello());
    REQUIRE(cluster.wait_ready(1));
    auto held = std::make_unique<Connection>("127.0.0.1", 8080);
    REQUIRE(held->get("/hold").ok());
    Child drain = sandbox.start({.command = {build_folder() + "/drover", "drain", "web/1"},
                                 .extra_environment = {},
                                 .identity = {},
                                 .cwd = {}});
    REQUIRE(eventually([&] { return cluster.worker(0)["flags"] == Json::array({"held"}); }));
    CHECK(held->get("/").ok());
    CHECK(drain.runs());
    held.reset();
    CHECK(drain.wait() == 0);
    // With nobody left to take it, a new connection waits until the worker is resumed.
    Connection parked("127.0.0.1", 8080);
    REQUIRE(parked.send_request("/", false));
    CHECK(eventually([&] { return cluster.status()["groups"][0]["parked"] == 1; }));
    CHECK(cluster.drover({"resume", "web/1"}).status == 0);
    CHECK(parked.receive().error == "");
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a signal reaches the worker it is meant for, or all of them") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(cluster.wait_ready(2));
    CHECK(cluster.drover({"signal", cluster.target(1), "USR1"}).status == 0);
    CHECK(eventually([&] { return contains(cluster.master().out(), "[web/1] got signal USR1"); }));
    CHECK_FALSE(contains(cluster.master().out(), "[web/0] got signal USR1"));
    CHECK(cluster.drover({"signal", "web", "USR1"}).status == 0);
    CHECK(eventually([&] { return contains(cluster.master().out(), "[web/0] got signal USR1"); }));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a request in flight when stop is called is answered") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(cluster.wait_ready(2));
    Connection connection("127.0.0.1", 8080);
    REQUIRE(connection.send_request("/wait?900", false));
    REQUIRE(eventually(
        [&] { return cluster.worker(0)["live"] == 1 || cluster.worker(1)["live"] == 1; }));
    auto stop = std::async(std::launch::async, [&] { return cluster.stop(); });
    CHECK(connection.receive().error == "");
    CHECK(stop.get() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a connection that is held open delays stop no longer than --drain-timeout") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1", "--drain-timeout", "300ms"}, hello());
    REQUIRE(cluster.wait_ready(1));
    Connection connection("127.0.0.1", 8080);
    REQUIRE(connection.get("/hold").ok());
    auto begin = Clock::now();
    CHECK(cluster.stop() == 0);
    auto took = Clock::now() - begin;
    CHECK(took >= milliseconds(300));
    CHECK(took < kDefaultTimeout);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that ignores its stop signal is killed after --stop-timeout") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--stop-timeout", "300ms"},
                    hello({"--ignore-term"}));
    REQUIRE(cluster.wait_ready(2));
    auto begin = Clock::now();
    CHECK(cluster.stop() == 0);
    CHECK(Clock::now() - begin >= milliseconds(300));
    CHECK(Clock::now() - begin < kDefaultTimeout);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("SIGTERM and SIGINT to the master end the cluster cleanly") {
    for (int number : {SIGTERM, SIGINT}) {
        Sandbox sandbox;
        Cluster cluster(sandbox, "web", {"-n", "2", "--port", "8080"}, hello());
        REQUIRE(cluster.wait_ready(2));
        cluster.master().send(number);
        CHECK(cluster.master().wait() == 0);
        CHECK(sandbox.leftovers() == "");
    }
}

TEST_CASE("a second SIGINT does not wait for open connections") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    Connection connection("127.0.0.1", 8080);
    REQUIRE(connection.get("/hold").ok());
    cluster.master().send(SIGINT);
    REQUIRE(eventually([&] { return cluster.status()["state"] == "stopping"; }));
    auto begin = Clock::now();
    cluster.master().send(SIGINT);
    CHECK(cluster.master().wait() >= 0);
    CHECK(Clock::now() - begin < kDefaultTimeout);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a command that ends at once is tried up to the limit, then the run fails") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1", "--max-restarts", "2/60s"}, hello({"--exit", "3"}));
    CHECK(cluster.master().wait() == 1);
    INFO(cluster.master().err());
    CHECK(contains(cluster.master().err(), "3"));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("an instance that keeps failing backs off, then fails alone, loudly") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--max-restarts", "3/60s"},
                    hello({"--fail-instance", "1"}));
    REQUIRE(eventually([&] {
        Json worker = cluster.worker(1);
        if (!worker.is_object()) return false;
        if (worker["state"] == "backoff") CHECK(worker["retry_at"].is_string());
        return worker["state"] == "failed";
    }));
    int backed_off = 0;  // by the events: a state that is short may be missed
    for (const Json& event : cluster.events())
        backed_off += event["event"] == "state" && event["data"]["to"] == "backoff" ? 1 : 0;
    CHECK(backed_off > 0);
    CHECK(cluster.status()["state"] == "degraded");
    CHECK(cluster.worker(0)["state"] == "ready");
    CHECK(cluster.worker(1)["last_exit"]["code"] == 3);
    CHECK(count_events(cluster.events(), "restart-limit") == 1);
    CHECK(get("127.0.0.1", 8080).ok());
    cluster.stop();
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("with --restart never an exited worker stays away") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--restart", "never", "--policy", "round-robin"},
                    hello());
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(get("127.0.0.1", 8080, "/exit?0").ok());
    REQUIRE(eventually([&] { return count_events(cluster.events(), "exit") == 1; }));
    REQUIRE(eventually([&] { return cluster.status()["ready"] == 1; }));
    CHECK(spread("127.0.0.1", 8080, 4).size() == 1);
    CHECK(count_events(cluster.events(), "fork") == 2);
    cluster.stop();
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("with --ready exec a command that never listens is ready when it runs") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "job", {"-n", "2", "--ready", "exec"},
                    hello({"--delay-listen-ms", "600000"}));
    REQUIRE(cluster.wait_ready(2));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that is not ready within --ready-timeout counts as a failed start") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "1", "--ready-timeout", "300ms", "--max-restarts", "1/60s"},
                    hello({"--delay-listen-ms", "600000"}));
    CHECK(cluster.master().wait() == 1);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
