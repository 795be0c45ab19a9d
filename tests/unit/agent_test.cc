// SPDX-License-Identifier: MIT
//
// What a load balancer is told: the line, how busy the host is, and the listener itself.
#include "admin/agent.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>

using namespace drover;
using namespace drover::admin;
using namespace drover::supervisor;
using namespace std::chrono_literals;

namespace {

Status status_of(int wanted, int ready) {
    Status status;
    status.state = ready < wanted ? "degraded" : "running";
    status.wanted = wanted;
    status.ready = ready;
    for (int i = 0; i < ready; i++) {
        status.workers.emplace_back();
        status.workers.back().state = State::ready;
    }
    return status;
}

Busyness::Time at(std::chrono::milliseconds time) {
    return Busyness::Time(time);
}

}  // namespace

TEST_CASE("agent: the weight is the share of workers that serve, less up to half when busy") {
    CHECK(agent_line(status_of(4, 4), 0) == "ready up 100%\n");
    CHECK(agent_line(status_of(4, 3), 0) == "ready up 75%\n");
    CHECK(agent_line(status_of(4, 4), 0.5) == "ready up 75%\n");
    CHECK(agent_line(status_of(4, 4), 1) == "ready up 50%\n");
    CHECK(agent_line(status_of(256, 1), 1) == "ready up 1%\n");
    CHECK(agent_line(status_of(4, 0), 0) == "down\n");
    // While it is scaled down there are more than wanted.
    CHECK(agent_line(status_of(2, 3), 0) == "ready up 100%\n");
}

TEST_CASE("agent: workers that are stalled, unhealthy or held are no capacity") {
    auto status = status_of(4, 4);
    status.workers[0].flags = {"stalled"};
    status.workers[1].flags = {"unhealthy"};
    CHECK(agent_line(status, 0) == "ready up 50%\n");
    for (auto& worker : status.workers) worker.flags = {"unhealthy"};
    CHECK(agent_line(status, 0) == "ready up 1%\n");
}

TEST_CASE("agent: a drained or stopping cluster says drain") {
    auto status = status_of(4, 4);
    status.is_drained = true;
    CHECK(agent_line(status, 0) == "drain\n");
    status = status_of(4, 4);
    status.state = "stopping";
    CHECK(agent_line(status, 0) == "drain\n");
}

TEST_CASE("agent: workers for whom connections wait are busy") {
    auto status = status_of(4, 4);
    CHECK(share_that_waits(status) == 0);
    status.workers[0].queued = 3;
    status.workers[1].queued = std::nullopt;  // the policy shared
    CHECK(share_that_waits(status) == 0.25);
    status.workers[0].flags = {"stalled"};
    CHECK(share_that_waits(status) == 0);
    CHECK(share_that_waits(status_of(4, 0)) == 0);
}

TEST_CASE("agent: CPU times are read from /proc/stat") {
    auto times = parse_cpu_times("cpu  10 1 5 100 7 2 3 4 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n");
    REQUIRE(times);
    CHECK(times->busy == 25);
    CHECK(times->all == 132);
    for (const char* bad :
         {"", "cpu", "cpu 1 2 3", "intr 1 2 3 4 5 6 7 8 9", "cpu a b c d e f g h"})
        CHECK_FALSE(parse_cpu_times(bad));
}

TEST_CASE("agent: busyness follows over some seconds, and no faster by being asked more often") {
    Busyness busyness;
    CHECK(busyness.note(at(0ms), CpuTimes{0, 0}, 0) == 0);
    double slow = 0;
    for (int i = 1; i <= 2; i++) {
        auto ticks = static_cast<uint64_t>(200 * i);
        slow = busyness.note(at(i * 1000ms), CpuTimes{ticks, ticks}, 0);
    }
    CHECK(slow > 0.3);
    CHECK(slow < 0.4);
    Busyness other;
    other.note(at(0ms), CpuTimes{0, 0}, 0);
    double fast = 0;
    for (int i = 1; i <= 2000; i++) {
        auto ticks = static_cast<uint64_t>(i) / 5;
        fast = other.note(at(i * 1ms), CpuTimes{ticks, ticks}, 0);
    }
    CHECK(fast > slow - 0.05);
    CHECK(fast < slow + 0.05);
    // Waiting connections count as much; an unknown CPU is none.
    Busyness waits;
    CHECK(waits.note(at(0ms), std::nullopt, 0.5) == 0.5);
}

TEST_CASE("agent: each connection gets one line and its end") {
    auto loop = *EventLoop::open();
    auto status = status_of(2, 0);
    auto agent = Agent::open(loop, Port{0, "127.0.0.1"}, [&] { return status; });
    REQUIRE(agent);
    auto ask = [&] {
        Fd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(static_cast<uint16_t>((*agent)->port()));
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        REQUIRE(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) ==
                0);
        loop.run_once(100ms);
        std::string answer;
        char piece[64];
        ssize_t size = 0;
        while ((size = ::recv(client.get(), piece, sizeof(piece), MSG_DONTWAIT)) > 0)
            answer.append(piece, static_cast<size_t>(size));
        CHECK(size == 0);
        return answer;
    };
    CHECK(ask() == "down\n");
    status = status_of(2, 2);
    CHECK(ask().starts_with("ready up "));
    auto taken = Agent::open(loop, Port{(*agent)->port(), "127.0.0.1"}, [&] { return status; });
    REQUIRE_FALSE(taken);
    CHECK(taken.error().text.starts_with("listen for agent checks at 127.0.0.1 port "));
}
