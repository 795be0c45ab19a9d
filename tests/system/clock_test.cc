// SPDX-License-Identifier: MIT
//
// Steps of the clock. It is the whole machine's, so this is run only in the virtual machine, by
// scripts/vm-test, which says so (DROVER_TEST_VM).
#include <signal.h>
#include <time.h>

#include <cstdlib>

#include "harness.h"
#include "http.h"

namespace drover::test {

namespace {

bool is_real_machine() {
    return std::getenv("DROVER_TEST_VM") == nullptr;
}

void step_clock(long seconds) {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    now.tv_sec += seconds;
    REQUIRE(::clock_settime(CLOCK_REALTIME, &now) == 0);
}

std::string year_now(Cluster& cluster) {
    auto events = cluster.events();
    return events.empty() ? "" : events.back()["time"].get<std::string>().substr(0, 4);
}

}  // namespace

TEST_SUITE_BEGIN("clock");

TEST_CASE("steps of the clock change what time it is, and nothing else" *
          doctest::skip(is_real_machine())) {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin", "--max-lifetime", "10m"},
                    hello());
    REQUIRE(cluster.wait_ready(2));
    const std::string year = year_now(cluster);
    constexpr long kStep = 400L * 24 * 3600;
    long off = 0;
    for (long step : {kStep, -2 * kStep, kStep}) {
        INFO(step);
        step_clock(step);
        off += step;
        // Nobody is found to be too old, and who dies is replaced without a wait.
        pid_t killed = cluster.pid_of(0), other = cluster.pid_of(1);
        ::kill(killed, SIGKILL);
        CHECK(eventually([&] {
            pid_t now = cluster.pid_of(0);
            return now > 0 && now != killed && cluster.status()["ready"] == 2;
        }));
        CHECK(cluster.pid_of(1) == other);
        CHECK(cluster.drover({"reload", "web"}).status == 0);
        CHECK(spread("127.0.0.1", 8080, 8) == std::map<int, int>{{0, 4}, {1, 4}});
        CHECK((year_now(cluster) == year) == (off == 0));
    }
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
