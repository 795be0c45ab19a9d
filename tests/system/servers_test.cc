// SPDX-License-Identifier: MIT
//
// Real servers, as Debian packages them and as users start them.
#include <fmt/format.h>

#include <set>
#include <sstream>

#include "harness.h"
#include "http.h"
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
    auto nginx = find_program("nginx");
    if (!nginx) return;
    Sandbox sandbox;
    std::string folder = sandbox.path("");
    write_file(sandbox.path("nginx.conf"), fmt::format(R"(
daemon off;
user root;
worker_processes 1;
error_log stderr;
pid {0}nginx.pid;
events {{ worker_connections 128; }}
http {{
    access_log off;
    client_body_temp_path {0}body; proxy_temp_path {0}proxy; fastcgi_temp_path {0}fastcgi;
    uwsgi_temp_path {0}uwsgi; scgi_temp_path {0}scgi;
    server {{ listen 8080; location / {{ return 200 "pid $pid\n"; }} }}
}}
)",
                                                       folder));
    Cluster cluster(sandbox, "web", {"-n", "3", "--policy", "round-robin", "--stop-signal", "QUIT"},
                    {*nginx, "-e", "stderr", "-c", sandbox.path("nginx.conf")});
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
