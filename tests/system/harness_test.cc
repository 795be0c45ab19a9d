// SPDX-License-Identifier: MIT
//
// Tests of the test tools, without drover: what looks for losses and leftovers must find them.
#include "harness.h"

#include <signal.h>

#include "http.h"

namespace drover::test {

namespace {

Child start_alone(Sandbox& sandbox, const Words& options = {}) {
    Child server = sandbox.start(
        {.command = hello(options), .extra_environment = {}, .identity = {}, .cwd = {}});
    REQUIRE(eventually([] { return get("127.0.0.1", 8080).ok(); }));
    return server;
}

}  // namespace

TEST_SUITE_BEGIN("harness");

TEST_CASE("the load counts every refusal") {
    Sandbox sandbox;
    Load load("127.0.0.1", 8080, 500);
    REQUIRE(load.wait_started(50));
    auto result = load.stop();
    INFO(result.text());
    CHECK(result.started > 0);
    CHECK(result.failures["refused"] == result.started);
}

TEST_CASE("the load counts what a plain server loses when it is killed") {
    Sandbox sandbox;
    Load::Result result;
    {
        Child server = start_alone(sandbox);
        Load load("127.0.0.1", 8080, 500);
        REQUIRE(load.wait_answered(100));
        server.send(SIGSTOP);
        REQUIRE(load.wait_started(25));
        server.send(SIGKILL);
        server.wait();
        result = load.stop();
    }
    INFO(result.text());
    CHECK(result.answered >= 100);
    CHECK(result.failures["reset"] + result.failures["reset in the queue"] > 5);
}

TEST_CASE("the server's counters agree with the load where nothing is lost") {
    Sandbox sandbox;
    Child server = start_alone(
        sandbox, {"--accept-log", sandbox.path("counters"), "--log", sandbox.path("requests")});
    size_t before = count_lines(read_file(sandbox.path("requests")));
    Load load("127.0.0.1", 8080, 1000);
    REQUIRE(load.wait_answered(500));
    auto result = load.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
    CHECK(count_lines(read_file(sandbox.path("requests"))) - before ==
          static_cast<size_t>(result.answered));
}

TEST_CASE("a listening socket and a cgroup are found as leftovers") {
    Sandbox sandbox;
    CHECK(sandbox.leftovers() == "");
    Child server = start_alone(sandbox);
    CHECK(contains(sandbox.leftovers(), "listening socket 00000000:1F90"));
    server.send(SIGTERM);
    CHECK(server.wait() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
