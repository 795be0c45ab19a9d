// SPDX-License-Identifier: MIT
//
// Health checks, and `drover probe`: what reaches one given worker through the port that all share.
#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>

#include "crowd.h"
#include "harness.h"
#include "http.h"
#include "node_programs.h"

namespace drover::test {

namespace {

Words with_health(const Words& more = {}) {
    Words options = {"--port",
                     "8080",
                     "--health",
                     "http:/health",
                     "--health-interval",
                     patient(500),
                     "--health-failures",
                     "2"};
    options.insert(options.end(), more.begin(), more.end());
    return options;
}

bool is_flagged(Cluster& cluster, int instance, const std::string& flag) {
    Json worker = cluster.worker(instance);
    if (!worker.is_object()) return false;
    for (const auto& one : worker["flags"])
        if (one == flag) return true;
    return false;
}

// The reasons of the exits that were told.
std::vector<std::string> exits(Cluster& cluster) {
    std::vector<std::string> reasons;
    for (const Json& event : cluster.events())
        if (event["event"] == "exit") reasons.push_back(event["data"]["reason"]);
    return reasons;
}

std::string errors(Cluster& cluster) {
    std::string text;
    for (const Json& event : cluster.events()) {
        if (event["event"] != "error") continue;
        std::string error = event["data"]["text"];
        // Where processors are scarce or emulated, healthy workers may be late, too.
        if (!contains(error, "no answer within")) text += error + "\n";
    }
    return text;
}

// Checks that were made so far; all of them are pinned connections.
int checks(Cluster& cluster) {
    Json status = cluster.status();
    return status.is_object() ? status["decisions_total"]["pinned"].get<int>() : 0;
}

// Nothing but the health checks has an eye on the workers: on a slow machine they may be late, and
// what waits for one, a probe, too, would be moved to another.
Words health_alone() {
    return with_health({"-n", "3", "--policy", "round-robin", "--stall-after", "never"});
}

// A worker falls sick while a crowd is served.
void check_replacement(Cluster& cluster, CrowdOptions options) {
    REQUIRE(cluster.wait_ready(3));
    pid_t sick = cluster.pid_of(1);
    Crowd crowd(std::move(options));
    REQUIRE(crowd.wait_answered(100));
    auto told = cluster.drover({"probe", cluster.target(1), "/sick"});
    REQUIRE_MESSAGE(told.status == 0, told.err);
    REQUIRE(eventually([&] { return is_flagged(cluster, 1, "unhealthy"); }));
    REQUIRE(eventually([&] {
        return cluster.pid_of(1) != sick && exits(cluster) == std::vector<std::string>{"unhealthy"};
    }));
    REQUIRE(cluster.wait_ready(3));
    CHECK(crowd.wait_answered(100));
    auto result = crowd.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
    Json status = cluster.status();
    CHECK(status["groups"][0]["active"] == Json({0, 1, 2}));
    CHECK(status["corrections_total"] == 0);
    for (const auto& worker : status["workers"]) CHECK(worker["flags"].empty());
    CHECK(errors(cluster) == "");
}

}  // namespace

TEST_SUITE_BEGIN("health");

TEST_CASE("a worker that fails its health check is replaced, and no client loses anything") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", health_alone(), hello());
    check_replacement(cluster, crowd_options());
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

NODE_TEST_CASE("an Express worker that fails its health check is replaced, too") {
    auto command = express_program<Node>("sick.js");
    if (!command) return;
    Sandbox sandbox;
    Cluster cluster = run_express(sandbox, health_alone(), *command);
    auto options = crowd_options();
    options.long_path = "/wait";
    options.rate = std::min(options.rate, 100);
    check_replacement(cluster, options);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a sick worker gets no connections while its replacement is on its way") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", with_health({"-n", "2", "--policy", "round-robin"}),
                    hello({"--delay-listen-ms", std::to_string(3'000 * slowness())}));
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(cluster.drover({"probe", cluster.target(0), "/sick"}).status == 0);
    REQUIRE(eventually([&] {
        Json status = cluster.status();
        return status.is_object() && status["groups"][0]["active"] == Json({1});
    }));
    CHECK(is_flagged(cluster, 0, "unhealthy"));
    CHECK(cluster.worker(0)["reason"] == "unhealthy: GET /health: status 503");
    CHECK(spread("127.0.0.1", 8080, 10) == std::map<int, int>{{1, 10}});
    // By hand it can be asked all the same. It becomes well, and comes back.
    REQUIRE(cluster.drover({"probe", cluster.target(0), "/well"}).status == 0);
    REQUIRE(eventually([&] { return spread("127.0.0.1", 8080, 2).size() == 2; }));
    CHECK(eventually([&] { return !is_flagged(cluster, 0, "unhealthy"); }));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("when what all workers need is broken they all serve on") {
    Sandbox sandbox;
    std::string broken = sandbox.path("broken");
    Cluster cluster(sandbox, "web", with_health({"-n", "3"}), hello({"--sick-while", broken}));
    REQUIRE(cluster.wait_ready(3));
    auto pids = pids_of(cluster);
    Crowd crowd(crowd_options());
    REQUIRE(crowd.wait_answered(100));
    write_file(broken, "");
    REQUIRE(eventually([&] {
        return contains(errors(cluster),
                        "all workers fail their health check (GET /health: status 503): they are "
                        "left alone");
    }));
    int before = checks(cluster);
    REQUIRE(eventually([&] { return checks(cluster) > before + 15; }));
    CHECK(pids_of(cluster) == pids);
    CHECK(cluster.status()["groups"][0]["active"] == Json({0, 1, 2}));
    std::filesystem::remove(broken);
    CHECK(eventually([&] {
        return !is_flagged(cluster, 0, "unhealthy") && !is_flagged(cluster, 1, "unhealthy") &&
               !is_flagged(cluster, 2, "unhealthy");
    }));
    CHECK(pids_of(cluster) == pids);
    auto result = crowd.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that hangs fails its health check, though others get what waits for it") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    with_health({"-n", "2", "--stall-after", "300ms", "--drain-timeout", "500ms",
                                 "--stop-timeout", "300ms"}),
                    hello());
    REQUIRE(cluster.wait_ready(2));
    pid_t hung = cluster.pid_of(0);
    REQUIRE(cluster.drover({"signal", cluster.target(0), "STOP"}).status == 0);
    Load load("127.0.0.1", 8080, 100);
    REQUIRE(eventually([&] {
        return cluster.pid_of(0) != hung && exits(cluster) == std::vector<std::string>{"unhealthy"};
    }));
    REQUIRE(cluster.wait_ready(2));
    auto result = load.stop();
    CHECK_MESSAGE(result.failed() == 0, result.text());
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that was unhealthy is so for the next master, after a kill -9") {
    Sandbox sandbox;
    // No replacement becomes ready here.
    Words options = with_health({"-n", "2", "--ready-timeout", "60s"});
    Words command = hello({"--delay-listen-ms", "500"});
    Cluster first(sandbox, "web", options, command);
    REQUIRE(first.wait_ready(2));
    REQUIRE(first.drover({"drain", first.target(0)}).status == 0);
    REQUIRE(first.drover({"probe", first.target(0), "/sick"}).status == 0);
    REQUIRE(eventually([&] { return is_flagged(first, 0, "unhealthy"); }));
    pid_t sick = first.pid_of(0);
    first.master().send(SIGKILL);
    REQUIRE(first.master().wait() == 128 + SIGKILL);
    Cluster next(sandbox, "web", options, command);
    REQUIRE(eventually([&] { return next.status().is_object(); }));
    CHECK(is_flagged(next, 0, "unhealthy"));
    CHECK(next.pid_of(0) == sick);
    // It is held no longer, and so it is replaced.
    REQUIRE(next.drover({"resume", next.target(0)}).status == 0);
    REQUIRE(eventually([&] {
        return next.pid_of(0) != sick && next.pid_of(0) != 0 && !is_flagged(next, 0, "unhealthy") &&
               next.status()["ready"] == 2;
    }));
    CHECK(next.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("probe asks one given worker and tells what it answered") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "3", "--port", "8080"}, hello());
    REQUIRE(cluster.wait_ready(3));
    for (int instance = 0; instance < 3; instance++) {
        auto asked = cluster.drover({"probe", cluster.target(instance), "/"});
        CHECK(asked.status == 0);
        CHECK(asked.out.starts_with("HTTP/1.1 200 OK\n"));
        CHECK(contains(asked.out, " ms, "));
        CHECK(contains(asked.out,
                       fmt::format("pid {} instance {} ", cluster.pid_of(instance), instance)));
    }
    auto target = cluster.target(1);
    REQUIRE(cluster.drover({"drain", target}).status == 0);
    CHECK(cluster.drover({"probe", target, "/sick"}).status == 0);
    auto sick = cluster.drover({"probe", target, "/health"});
    CHECK(sick.status == 1);
    CHECK(sick.out.starts_with("HTTP/1.1 503 Service Unavailable\n"));
    auto json = Json::parse(cluster.drover({"probe", target, "/health", "--json"}).out);
    CHECK(json["status"] == 503);
    CHECK(json["line"] == "HTTP/1.1 503 Service Unavailable");
    CHECK(json["took_ms"].get<double>() > 0);
    CHECK(json["body"].get<std::string>().size() == json["body_bytes"].get<size_t>());
    Json status = cluster.status();
    CHECK(status["decisions_total"]["pinned"] == 6);
    CHECK(status["decisions_total"]["picked"] == 0);
    // What cannot be is said.
    CHECK(contains(cluster.drover({"probe", "web/99", "/"}).err, "web has no worker 99"));
    CHECK(cluster.drover({"probe", target, "health"}).status == 2);
    CHECK(cluster.drover({"probe", "web", "/health"}).status == 2);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("probe of a worker that does not answer says so") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, {"/bin/sleep", "1000"});
    REQUIRE(eventually([&] { return cluster.worker(0)["state"] == "online"; }));
    auto asked = cluster.drover({"probe", "web/1", "/"});
    CHECK(asked.status == 1);
    CHECK(contains(asked.err, "does not listen"));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
