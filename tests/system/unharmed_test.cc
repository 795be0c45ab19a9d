// SPDX-License-Identifier: MIT
//
// Whatever is done to a cluster while it serves, its clients do not notice: each change, again and
// again, under a crowd (crowd.h), in front of each kind of server. With DROVER_TEST_FULL for a
// minute each, and 60,000 requests at least.
#include <fmt/format.h>
#include <signal.h>

#include <cstdio>
#include <functional>
#include <memory>
#include <random>

#include "counters.h"
#include "crowd.h"
#include "harness.h"
#include "http.h"
#include "messages.h"
#include "nginx.h"
#include "node_programs.h"

namespace drover::test {

namespace {

constexpr milliseconds kChangeDeadline{60'000};
constexpr int kEnoughRequests = 60'000;
constexpr seconds kFullRun{60};

// A server and how to run it; no command where it is not there.
struct Served {
    Words command;
    Words options;
    Words environment;
    std::string long_path;  // takes about 300 ms, its answer begins before or after
};

struct Hello {
    static constexpr const char* name = "hello";
    static Served in(Sandbox&) {
        return {.command = hello(),
                .options = {"--drain-timeout", "1s"},
                .environment = {},
                .long_path = "/wait?300"};
    }
};

struct Nginx {
    static constexpr const char* name = "nginx";
    static Served in(Sandbox& sandbox) {
        // Slow by its rate: most of the answer is still to come when a drain begins.
        write_file(sandbox.path("slow"), std::string(120'000, 'x'));
        auto command = nginx(
            sandbox, {.user = "root",
                      .listen = "8080 backlog=4096",
                      .access_log = "off",
                      .error_log = "stderr",
                      .locations = fmt::format("location /slow {{ root {}; limit_rate 100000; }}",
                                               sandbox.path(""))});
        if (!command) return Served();
        return {.command = *command,
                .options = {"--stop-signal", "QUIT", "--drain-timeout", "2s"},
                .environment = {},
                .long_path = "/slow"};
    }
};

template <class Node>
struct Express {
    static Served in(Sandbox& sandbox) {
        auto command = express_program<Node>("hello.js");
        if (!command) return Served();
        command->at(1) = sandbox.path("app.js");
        write_file(sandbox.path("app.js"), R"(
const app = require('express')();
app.get('/', (request, response) => response.send(`pid ${process.pid}\n`));
app.get('/slow', (request, response) => {  // chunked: begun at once, whole 300 ms later
  response.write('a');
  setTimeout(() => response.end('b'), 300);
});
app.listen(8080);
)");
        return {.command = *command,
                .options = {"--drain-timeout", "2s"},
                .environment = {"NODE_PATH=" + modules()},
                .long_path = "/slow"};
    }
};

// The older Node only where it differs: in how it is disconnected.
#define SERVER_TEST_CASE(name) TEST_CASE_TEMPLATE(name, Server, Hello, Nginx, Express<Node24>)

// A cluster of such servers, and its crowd.
template <class Server>
class Scene {
  public:
    Scene(int workers, const Words& options) : served_(Server::in(sandbox_)), workers_(workers) {
        options_ = {"-n", std::to_string(workers), "--policy", "least-conn"};
        for (const Words& more : {served_.options, options})
            options_.insert(options_.end(), more.begin(), more.end());
    }

    // Whether that server is on this machine.
    [[nodiscard]] bool is_possible() const { return !served_.command.empty(); }

    // `drover run`, also after the master was killed.
    void run() {
        cluster_ = std::make_unique<Cluster>(sandbox_, "web", options_, served_.command,
                                             served_.environment);
        REQUIRE(cluster_->wait_ready(workers_));
    }

    Cluster& cluster() { return *cluster_; }

    void must(const Words& arguments) {
        auto outcome = cluster_->drover(arguments, kChangeDeadline);
        INFO(arguments[0], ": ", outcome.err);
        REQUIRE(outcome.status == 0);
    }

    // Makes the change so many times; in a full run for a minute and until enough was asked for.
    // None of the requests may fail.
    void change(int times, const std::function<void()>& once) {
        CrowdOptions options = crowd_options();
        options.long_path = served_.long_path;
        Crowd crowd(options);
        REQUIRE(crowd.wait_answered(100));
        constexpr seconds kEvery{2};
        auto begin = Clock::now();
        auto is_enough = [&](int rounds) {
            if (rounds < times) return false;
            return !is_full_run() ||
                   (Clock::now() > begin + kFullRun && crowd.started() >= kEnoughRequests);
        };
        int rounds = 0;
        for (; !is_enough(rounds); rounds++) {
            if (is_full_run()) eventually([&] { return Clock::now() >= begin + rounds * kEvery; });
            once();
            CHECK(crowd.wait_answered(100));
        }
        auto result = crowd.stop();
        INFO(result.text());
        CHECK(result.failed() == 0);
        CHECK(cluster_->status()["corrections_total"] == 0);
        if (!is_full_run()) return;
        CHECK(result.started >= kEnoughRequests);
        std::printf("%d times: %s\n", rounds, result.text().c_str());
        std::fflush(stdout);
    }

    void end() {
        CHECK(cluster_->stop(kChangeDeadline) == 0);
        CHECK(sandbox_.leftovers() == "");
    }

  private:
    Sandbox sandbox_;
    Served served_;
    int workers_;
    Words options_;
    std::unique_ptr<Cluster> cluster_;
};

std::map<int, Json> pids_by_instance(Cluster& cluster) {
    std::map<int, Json> pids;
    Json status = cluster.status();
    for (const auto& worker : status["workers"]) pids[worker["instance"]] = worker["pid"];
    return pids;
}

int count_recycled(Cluster& cluster) {
    int count = 0;
    for (const auto& event : events_of(cluster, "exit"))
        count += event["data"]["reason"] == "recycle";
    return count;
}

}  // namespace

TEST_SUITE_BEGIN("unharmed");

TEST_CASE_TEMPLATE("reload after reload loses nothing", Server, Hello, Nginx, Express<Node18>,
                   Express<Node24>) {
    Scene<Server> scene(2, {});
    if (!scene.is_possible()) return;
    scene.run();
    int generation = 1;
    scene.change(2, [&] {
        scene.must({"reload", "web"});
        CHECK(scene.cluster().status()["generation"] == ++generation);
    });
    scene.end();
}

TEST_CASE("reload after reload of a single worker loses nothing") {
    Scene<Hello> scene(1, {});
    scene.run();
    scene.change(2, [&] { scene.must({"reload", "web"}); });
    scene.end();
}

SERVER_TEST_CASE("scale up and down and up again loses nothing") {
    Scene<Server> scene(2, {});
    if (!scene.is_possible()) return;
    scene.run();
    scene.change(1, [&] {
        scene.must({"scale", "web", "8"});
        CHECK(scene.cluster().status()["ready"] == 8);
        scene.must({"scale", "web", "2"});
        CHECK(scene.cluster().wait_ready(2));
    });
    scene.end();
}

SERVER_TEST_CASE("workers that are replaced by their age lose nothing") {
    Scene<Server> scene(2, {"--max-lifetime", "2s"});
    if (!scene.is_possible()) return;
    scene.run();
    int recycled = 0;
    scene.change(2, [&] {
        CHECK(eventually([&] { return count_recycled(scene.cluster()) > recycled; },
                         kChangeDeadline));
        recycled = count_recycled(scene.cluster());
    });
    scene.end();
}

SERVER_TEST_CASE("a canary that is taken back, and one that goes on, lose nothing") {
    Scene<Server> scene(2, {});
    if (!scene.is_possible()) return;
    scene.run();
    bool promote = false;
    scene.change(2, [&] {
        scene.must({"reload", "web", "--canary", "50%"});
        scene.must({promote ? "promote" : "rollback", "web"});
        promote = !promote;
    });
    scene.end();
}

SERVER_TEST_CASE("upgrade after upgrade loses nothing, neither workers nor the master's pid") {
    Scene<Server> scene(2, {});
    if (!scene.is_possible()) return;
    scene.run();
    pid_t master = scene.cluster().master().pid();
    auto pids = pids_by_instance(scene.cluster());
    scene.change(is_full_run() ? 10 : 3, [&] {
        scene.must({"upgrade", "web"});
        CHECK(scene.cluster().status()["pid"] == master);
        CHECK(pids_by_instance(scene.cluster()) == pids);
    });
    // The workers are its children still: how they end is known.
    scene.must({"signal", scene.cluster().target(0), "KILL"});
    REQUIRE(eventually([&] { return scene.cluster().worker(0)["last_exit"].is_object(); }));
    CHECK(scene.cluster().worker(0)["last_exit"]["signal"] == "KILL");
    scene.end();
}

SERVER_TEST_CASE(
    "a master that is killed and followed by another, again and again, loses nothing") {
    Scene<Server> scene(2, {});
    if (!scene.is_possible()) return;
    scene.run();
    auto pids = pids_by_instance(scene.cluster());
    scene.change(is_full_run() ? 10 : 3, [&] {
        scene.cluster().master().send(SIGKILL);
        REQUIRE(scene.cluster().master().wait() == 128 + SIGKILL);
        scene.run();
        CHECK(pids_by_instance(scene.cluster()) == pids);
    });
    scene.end();
}

// Not nothing, here: what it had accepted and not answered dies with a worker.
TEST_CASE("kill -9 of a random worker each second loses what they had accepted, and no more") {
    Sandbox sandbox;
    std::string file = sandbox.path("counters");
    Cluster cluster(sandbox, "web", {"-n", "4", "--max-restarts", "100/60s"},
                    hello({"--accept-log", file}));
    REQUIRE(cluster.wait_ready(4));
    CrowdOptions options = crowd_options();
    options.keep_alive = 0;  // the counters know of one request a connection
    Crowd crowd(options);
    REQUIRE(crowd.wait_answered(100));
    std::mt19937 random(7);
    std::uniform_int_distribution<int> any(0, 3);
    const int kills = is_full_run() ? 60 : 5;
    auto begin = Clock::now();
    for (int i = 0; i < kills; i++) {
        eventually([&] { return Clock::now() >= begin + i * seconds(1); });
        int instance = any(random);
        pid_t victim = 0;
        REQUIRE(eventually([&] { return (victim = cluster.pid_of(instance)) > 0; }));
        REQUIRE(::kill(victim, SIGKILL) == 0);
        REQUIRE(eventually([&] {
            Json worker = cluster.worker(instance);
            return worker.is_object() && worker["state"] == "ready" && worker["pid"] != victim;
        }));
    }
    REQUIRE(crowd.wait_answered(100));
    auto result = crowd.stop();
    auto counters = read_counters(file);
    INFO(result.text(), "; accepted ", counters.accepted, ", answered ", counters.answered);
    CHECK(static_cast<uint64_t>(result.failed()) <= counters.accepted - counters.answered);
    CHECK(result.failed() > 0);  // or nothing was killed that did anything
    CHECK(counters.accepted - counters.answered <=
          static_cast<uint64_t>(kills) * static_cast<uint64_t>(options.long_lived));
    CHECK(cluster.status()["corrections_total"] == 0);
    if (is_full_run())
        std::printf("%d kills: %s; accepted and not answered: %zu\n", kills, result.text().c_str(),
                    size_t(counters.accepted - counters.answered));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test

TYPE_TO_STRING_AS(drover::test::Hello::name, drover::test::Hello);
TYPE_TO_STRING_AS(drover::test::Nginx::name, drover::test::Nginx);
TYPE_TO_STRING_AS("Express, Node 18", drover::test::Express<drover::test::Node18>);
TYPE_TO_STRING_AS("Express, Node 24", drover::test::Express<drover::test::Node24>);
