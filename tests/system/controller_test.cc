// SPDX-License-Identifier: MIT
//
// --controller: a program of the user's that gets events and gives requests. The cluster never
// depends on it. tests/controllers/autoscale.py is a real one; the others are a line of shell each.
#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "harness.h"
#include "http.h"
#include "messages.h"

namespace drover::test {

namespace {

std::vector<pid_t> pids_of(Cluster& cluster) {
    std::vector<pid_t> pids;
    Json status = cluster.status();
    for (const auto& worker : status["workers"]) pids.push_back(worker["pid"].get<pid_t>());
    return pids;
}

// The whole lines of a file that is being written.
std::vector<Json> json_lines(const std::string& path) {
    std::vector<Json> lines;
    std::string text = read_file(path);
    std::istringstream whole(text.substr(0, text.rfind('\n') + 1));
    for (std::string line; std::getline(whole, line);)
        lines.push_back(Json::parse(line, nullptr, false));
    return lines;
}

// The reply to request `id` among what the controller was given; null where there is none.
Json reply_in(const std::string& path, const Json& id) {
    for (const auto& line : json_lines(path))
        if (line.contains("ok") && line["id"] == id) return line;
    return {};
}

// The texts of the errors about the controller.
std::vector<std::string> troubles_of(Cluster& cluster) {
    std::vector<std::string> texts;
    for (const auto& event : events_of(cluster, "error"))
        if (event["data"]["code"] == "controller")
            texts.push_back(event["data"]["text"].get<std::string>());
    return texts;
}

// Waits until the file has so many numbers and gives the last one.
pid_t wait_pid(const std::string& path, size_t count) {
    REQUIRE(eventually([&] { return count_lines(read_file(path)) == count; }));
    std::istringstream pids(read_file(path));
    pid_t last = 0;
    for (pid_t pid; pids >> pid;) last = pid;
    REQUIRE(last > 0);
    return last;
}

}  // namespace

TEST_SUITE_BEGIN("controller");

TEST_CASE("autoscale.py adds workers under load and takes them away after it") {
    auto python = find_program("python3");
    if (!python) return;
    Sandbox sandbox;
    // 5 connections are right for a worker; 2 to 4 workers; it looks every 50 ms.
    Cluster cluster(
        sandbox, "web",
        {"-n", "2", "--controller",
         fmt::format("{} {} 5 2 4 0.05", *python,
                     std::filesystem::absolute("tests/controllers/autoscale.py").string())},
        hello());
    REQUIRE(cluster.wait_ready(2));
    std::vector<Connection> held;
    for (int i = 0; i < 14; i++) {
        held.emplace_back("127.0.0.1", 8080);
        REQUIRE(held.back().get("/hold").ok());
    }
    REQUIRE(cluster.wait_ready(3));
    for (int i = 0; i < 20; i++) {
        held.emplace_back("127.0.0.1", 8080);
        REQUIRE(held.back().get("/hold").ok());
    }
    REQUIRE(cluster.wait_ready(4));  // and no more than that, for 34 connections
    held.clear();
    REQUIRE(cluster.wait_ready(2));
    auto scaled = events_of(cluster, "scaled");
    REQUIRE(scaled.size() == 4);
    int expected[] = {3, 4, 3, 2};  // up as it is needed, down one by one
    for (size_t i = 0; i < 4; i++) CHECK(scaled[i]["data"]["to"] == expected[i]);
    CHECK(events_of(cluster, "error").empty());
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a controller that dies is started again, later each time, and the workers serve on") {
    Sandbox sandbox;
    std::string pids = sandbox.path("pids");
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--controller",
                     fmt::format("echo $$ >> {}; while read line; do :; done", pids)},
                    hello());
    REQUIRE(cluster.wait_ready(2));
    auto workers = pids_of(cluster);
    pid_t first = wait_pid(pids, 1);
    REQUIRE(::kill(first, SIGKILL) == 0);
    REQUIRE(eventually([&] { return troubles_of(cluster).size() == 1; }));
    CHECK(get("127.0.0.1", 8080).ok());
    pid_t second = wait_pid(pids, 2);
    CHECK(second != first);
    REQUIRE(::kill(second, SIGKILL) == 0);
    REQUIRE(eventually([&] { return troubles_of(cluster).size() == 2; }));
    CHECK(troubles_of(cluster) ==
          Words{"the controller was ended by signal 9; it is started again in 1 s",
                "the controller was ended by signal 9; it is started again in 2 s"});
    CHECK(get("127.0.0.1", 8080).ok());
    CHECK(pids_of(cluster) == workers);
    CHECK(cluster.status()["state"] == "running");
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("garbage from a controller is answered with an error, and that is all") {
    Sandbox sandbox;
    std::string given = sandbox.path("given");
    std::string right = R"({"v":1,"id":7,"verb":"status"})";
    std::string unknown = R"({"v":1,"id":8,"verb":"no such verb"})";
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--controller",
                     fmt::format("printf '%s\\n' 'this is no JSON' '{}' '{}'; printf '\\377\\n'; "
                                 "exec cat > {}",
                                 right, unknown, given)},
                    hello());
    REQUIRE(cluster.wait_ready(2));
    auto workers = pids_of(cluster);
    auto count_refusals = [&] {
        auto lines = json_lines(given);
        return std::count_if(lines.begin(), lines.end(), [](Json& line) {
            return line.contains("ok") && line["id"].is_null() &&
                   line["error"]["code"] == "bad-request";
        });
    };
    CHECK(eventually([&] { return count_refusals() == 2; }));
    REQUIRE(reply_in(given, 7).is_object());
    CHECK(reply_in(given, 7)["data"]["cluster"] == "web");
    REQUIRE(reply_in(given, 8).is_object());
    CHECK(reply_in(given, 8)["ok"] == false);
    CHECK(events_of(cluster, "error").empty());
    CHECK(pids_of(cluster) == workers);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a controller is given every event, in order, each as a JSON line") {
    Sandbox sandbox;
    std::string given = sandbox.path("given");
    Cluster cluster(sandbox, "web", {"-n", "2", "--controller", "exec cat > " + given}, hello());
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(cluster.drover({"scale", "web", "3"}).status == 0);
    REQUIRE(cluster.wait_ready(3));
    auto events = cluster.events();
    CHECK(eventually([&] { return json_lines(given).size() == events.size(); }));
    CHECK(json_lines(given) == events);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
    // It has read to the end: the last it hears is that the last worker has ended.
    auto last = json_lines(given).back();
    CHECK(last["seq"].get<size_t>() == json_lines(given).size());
    CHECK(last["event"] == "state");
    CHECK(last["data"]["to"] == "stopped");
}

TEST_CASE("what a controller asks for is done") {
    Sandbox sandbox;
    std::string given = sandbox.path("given");
    Cluster cluster(
        sandbox, "web",
        {"-n", "1", "--controller",
         R"(echo '{"v":1,"id":-5,"verb":"scale","args":{"n":3}}'; exec cat > )" + given},
        hello());
    REQUIRE(cluster.wait_ready(3));
    CHECK(eventually([&] { return reply_in(given, -5).is_object(); }));
    CHECK(reply_in(given, -5)["ok"] == true);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a controller runs as --user in a cgroup of its own") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "1", "--user", "nobody", "--controller",
                     "echo uid $(id -u), groups $(id -G) >&2; cat /proc/self/cgroup >&2; "
                     "exec cat > /dev/null"},
                    hello());
    REQUIRE(cluster.wait_ready(1));
    CHECK(eventually([&] { return contains(cluster.master().err(), "/web/controller\n"); }));
    INFO(cluster.master().err());
    CHECK(contains(cluster.master().err(), "uid 65534, groups 65534\n"));
    // The shell has become the last cat; the first one may not have ended yet.
    CHECK(eventually([&] {
        return count_lines(read_file(sandbox.cgroup() + "/web/controller/cgroup.procs")) == 1;
    }));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("at the cluster's end a controller that will not go is killed with what it started") {
    Sandbox sandbox;
    std::string pids = sandbox.path("pids");
    Cluster cluster(
        sandbox, "web",
        {"-n", "1", "--controller",
         fmt::format("trap '' TERM HUP; for i in $(seq 40); do sleep 600 & done; echo $$ >> {0}; "
                     "sleep 600",
                     pids)},
        hello());
    REQUIRE(cluster.wait_ready(1));
    pid_t shell = wait_pid(pids, 1);
    CHECK(::kill(shell, 0) == 0);
    CHECK(cluster.stop() == 0);
    INFO(cluster.master().err());
    CHECK(::kill(shell, 0) == -1);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
