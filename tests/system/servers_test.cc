// SPDX-License-Identifier: MIT
//
// Real servers, as Debian packages them and as users start them.
#include <fmt/format.h>

#include <set>
#include <sstream>

#include "harness.h"
#include "http.h"
#include "nginx.h"
#include "node_programs.h"

namespace drover::test {

TEST_SUITE_BEGIN("servers");

NODE_TEST_CASE("all workers of a Node http server answer in turn") {
    Sandbox sandbox;
    auto command =
        program<Node>(sandbox,
                      "require('http').createServer((q, r) => r.end(`pid ${process.pid} instance "
                      "${process.env.DROVER_INSTANCE} worker ${process.env.DROVER_WORKER_ID}\\n`))"
                      ".listen(8080);\n");
    if (!command) return;
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", "round-robin"}, *command);
    REQUIRE(cluster.wait_ready(4));
    CHECK(spread("127.0.0.1", 8080, 20) == Shares{{0, 5}, {1, 5}, {2, 5}, {3, 5}});
    CHECK(spread("::1", 8080, 20) == Shares{{0, 5}, {1, 5}, {2, 5}, {3, 5}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("all workers of python3 -m http.server answer in turn") {
    auto python = find_program("python3");
    if (!python) return;
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "3", "--policy", "round-robin"},
                    {*python, "-u", "-m", "http.server", "8080"});
    REQUIRE(cluster.wait_ready(3));
    for (int i = 0; i < 12; i++) CHECK(get("127.0.0.1", 8080).error == "");
    // It says nothing of itself in its answers, but prints each request; the logger says whose.
    std::map<std::string, int> lines;
    CHECK(eventually([&] {
        lines.clear();
        std::istringstream text(cluster.master().out() + cluster.master().err());
        for (std::string line; std::getline(text, line);)
            if (contains(line, "GET /")) lines[line.substr(0, line.find(' '))]++;
        return lines.size() == 3 && lines["[web/0]"] + lines["[web/1]"] + lines["[web/2]"] == 12;
    }));
    CHECK(lines == std::map<std::string, int>{{"[web/0]", 4}, {"[web/1]", 4}, {"[web/2]", 4}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("all workers of nginx answer in turn and end by its own stop signal") {
    Sandbox sandbox;
    auto command = nginx(sandbox);
    if (!command) return;
    Cluster cluster(sandbox, "web", {"-n", "3", "--policy", "round-robin", "--stop-signal", "QUIT"},
                    *command);
    REQUIRE(cluster.wait_ready(3));
    std::map<int, int> by_pid;
    for (int i = 0; i < 12; i++) {
        auto reply = get("127.0.0.1", 8080);
        CHECK(reply.error == "");
        by_pid[pid_in(reply.body)]++;
    }
    CHECK(by_pid.size() == 3);
    for (const auto& [pid, count] : by_pid) CHECK(count == 4);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
