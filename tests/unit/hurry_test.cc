// SPDX-License-Identifier: MIT
//
// How long no queue is moved after a move.
#include "steer/hurry.h"

#include <doctest/doctest.h>

using namespace drover::steer;
using namespace std::chrono_literals;

TEST_CASE("a cheap move is followed by a rest of some times as long") {
    CHECK(rest_after({}, 12) == 0ms);
    CHECK(rest_after({400us, 10us}, 12) == 4800us);
    CHECK(rest_after({400us, 10us}, 50) == 20ms);
    CHECK(rest_after({1ms, 1ms}, 12) == 12ms);
    // What a move takes beside listen() holds nobody up.
    CHECK(rest_after({20ms, 10us}, 12) == 240ms);
}

TEST_CASE("a move that had the port locked for long is followed by a much longer one") {
    CHECK(rest_after({2ms, 2ms}, 12) == 96ms);
    CHECK(rest_after({4ms, 4ms}, 12) == 768ms);
    CHECK(rest_after({5ms, 4ms}, 12) == 960ms);
    // So the dearer a move, the smaller the part of the time in which the port is locked.
    CHECK(rest_after({10ms, 10ms}, 12) == 12s);
    CHECK(rest_after({100ms, 100ms}, 12) == 60s);
    CHECK(rest_after({1h, 1h}, 50) == 60s);
}
