// SPDX-License-Identifier: MIT
//
// A port belongs to one cluster: whoever comes second is told who was first.
#include <signal.h>

#include "harness.h"
#include "http.h"

namespace drover::test {

namespace {

// True when the text names one of the processes: "pid N".
bool names_one_of(const std::string& text, const std::vector<int>& pids) {
    for (int pid : pids)
        if (contains(text, std::to_string(pid))) return true;
    return false;
}

std::vector<int> pids_of(Cluster& cluster) {
    std::vector<int> pids = {cluster.master().pid()};
    Json status = cluster.status();
    if (status.is_object())
        for (const auto& worker : status["workers"]) pids.push_back(worker["pid"].get<int>());
    return pids;
}

// A plain server outside of any cluster, that holds port 8080.
Child start_foreign(Sandbox& sandbox) {
    Child foreign =
        sandbox.start({.command = hello(), .extra_environment = {}, .identity = {}, .cwd = {}});
    REQUIRE(eventually([] { return get("127.0.0.1", 8080).ok(); }));
    return foreign;
}

void check_second_is_refused(const Words& options) {
    Sandbox sandbox;
    Cluster first(sandbox, "first", {"-n", "2", "--policy", "round-robin"}, hello());
    REQUIRE(first.wait_ready(2));
    Load load("127.0.0.1", 8080, 300);
    REQUIRE(load.wait_answered(30));
    {
        Cluster second(sandbox, "second", options, hello());
        CHECK(second.master().wait() == 1);
        auto text = second.master().err();
        INFO(text);
        CHECK(contains(text, "8080"));
        CHECK(names_one_of(text, pids_of(first)));
        CHECK((contains(text, "drover") || contains(text, "hello")));
        CHECK_FALSE(contains(text, "terminate called"));
    }
    REQUIRE(load.wait_answered(30));
    auto result = load.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
    using Shares = std::map<int, int>;
    CHECK(spread("127.0.0.1", 8080, 10) == Shares{{0, 5}, {1, 5}});
    CHECK(first.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

void check_foreign_is_respected(const Words& options) {
    Sandbox sandbox;
    Child foreign = start_foreign(sandbox);
    Cluster cluster(sandbox, "web", options, hello());
    CHECK(cluster.master().wait() == 1);
    auto text = cluster.master().err();
    INFO(text);
    CHECK(contains(text, "8080"));
    CHECK(contains(text, std::to_string(foreign.pid())));
    CHECK(contains(text, "hello"));
    CHECK(get("127.0.0.1", 8080).ok());
    foreign.send(SIGTERM);
    foreign.wait();
    CHECK(sandbox.leftovers() == "");
}

}  // namespace

TEST_SUITE_BEGIN("conflict");

TEST_CASE("a second cluster that names the port is refused and the first loses nothing") {
    check_second_is_refused({"-n", "2", "--port", "8080"});
}

TEST_CASE("a second cluster whose workers bind the port is refused and the first loses nothing") {
    check_second_is_refused({"-n", "2"});
}

TEST_CASE("a cluster that names the port of a foreign listener is refused") {
    check_foreign_is_respected({"-n", "2", "--port", "8080"});
}

TEST_CASE("a cluster whose workers bind the port of a foreign listener is refused") {
    check_foreign_is_respected({"-n", "2"});
}

TEST_CASE("a cluster whose name is in use is refused") {
    Sandbox sandbox;
    Cluster first(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(first.wait_ready(1));
    Cluster second(sandbox, "web", {"-n", "1"}, hello({"--port", "8081"}));
    CHECK(second.master().wait() == 1);
    INFO(second.master().err());
    CHECK(contains(second.master().err(), "web"));
    CHECK(contains(second.master().err(), std::to_string(first.master().pid())));
    CHECK(get("127.0.0.1", 8080).ok());
    CHECK(first.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("the port is free for the next cluster when the first has ended") {
    Sandbox sandbox;
    for (const char* name : {"first", "second"}) {
        Cluster cluster(sandbox, name, {"-n", "2", "--port", "8080"}, hello());
        REQUIRE(cluster.wait_ready(2));
        CHECK(get("127.0.0.1", 8080).ok());
        CHECK(cluster.stop() == 0);
    }
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
