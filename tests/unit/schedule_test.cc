// SPDX-License-Identifier: MIT
//
// Turns by weight: who has how many, and how well they are mixed.
#include "steer/schedule.h"

#include <doctest/doctest.h>
#include <drover/steer_abi.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <vector>

using drover::steer::make_schedule;
using drover::steer::Share;

namespace {

using Slots = std::vector<uint16_t>;

constexpr size_t kMost = DROVER_MAX_TURNS - 1;

// Slots 100, 101, 102, … with these weights.
std::vector<Share> shares_of(const std::vector<uint32_t>& weights) {
    std::vector<Share> shares;
    for (uint32_t weight : weights)
        shares.push_back({static_cast<uint16_t>(100 + shares.size()), weight});
    return shares;
}

Slots schedule_of(const std::vector<uint32_t>& weights, size_t most = kMost) {
    return make_schedule(shares_of(weights), most);
}

// How many turns each of `count` slots has. A slot that is none of them would be counted beyond.
std::vector<size_t> turns_of(const Slots& schedule, size_t count) {
    std::vector<size_t> turns(count);
    for (uint16_t slot : schedule) turns.at(static_cast<size_t>(slot - 100))++;
    return turns;
}

// How far at any moment any slot is from its share of the turns so far, in turns.
double farthest_off(const Slots& schedule, size_t count) {
    auto all = turns_of(schedule, count);
    std::vector<size_t> had(count);
    double farthest = 0;
    for (size_t turn = 1; turn <= schedule.size(); turn++) {
        had.at(static_cast<size_t>(schedule[turn - 1] - 100))++;
        for (size_t i = 0; i < count; i++) {
            double due = static_cast<double>(all[i] * turn) / static_cast<double>(schedule.size());
            farthest = std::max(farthest, std::abs(static_cast<double>(had[i]) - due));
        }
    }
    return farthest;
}

bool has_twice_in_a_row(const Slots& schedule) {
    return std::ranges::adjacent_find(schedule) != schedule.end();
}

}  // namespace

TEST_CASE("schedule: nobody, no turns") {
    CHECK(make_schedule({}, kMost).empty());
}

TEST_CASE("schedule: one has one turn, whatever its weight") {
    for (uint32_t weight : {1u, 7u, 100u, DROVER_MAX_WEIGHT})
        CHECK(schedule_of({weight}) == Slots{100});
}

TEST_CASE("schedule: equal weights give each slot once, in the order of the input") {
    for (uint32_t weight : {1u, 50u, DROVER_WEIGHT_ONE, DROVER_MAX_WEIGHT}) {
        std::vector<Share> shares;
        Slots order = {7, 300, 0, 12, 511, 1};
        for (uint16_t slot : order) shares.push_back({slot, weight});
        CHECK(make_schedule(shares, kMost) == order);
    }
}

TEST_CASE("schedule: weights 1 : 2 : 3 are that many turns, and none has two in a row") {
    auto schedule = schedule_of({1, 2, 3});
    CHECK(turns_of(schedule, 3) == std::vector<size_t>{1, 2, 3});
    CHECK_FALSE(has_twice_in_a_row(schedule));
}

TEST_CASE("schedule: one with half of the turns has every other one") {
    auto schedule = schedule_of({1, 1, 1, 3});
    REQUIRE(schedule.size() == 6);
    CHECK_FALSE(has_twice_in_a_row(schedule));
    CHECK(turns_of(schedule, 4) == std::vector<size_t>{1, 1, 1, 3});
}

TEST_CASE("schedule: at each moment all have had their share, to two turns") {
    std::mt19937 random(17);
    for (int round = 0; round < 300; round++) {
        std::vector<uint32_t> weights(2 + random() % 40);
        for (uint32_t& weight : weights) weight = 1 + random() % 20;
        auto schedule = schedule_of(weights);
        INFO("round ", round);
        // Each slot's turns at a stretch would be off by as many as it has, nearly.
        REQUIRE(farthest_off(schedule, weights.size()) < 2);
    }
}

TEST_CASE("schedule: weights are reduced to the smallest whole numbers") {
    auto small = schedule_of({1, 2, 4});
    CHECK(small.size() == 7);
    CHECK(schedule_of({100, 200, 400}) == small);
    CHECK(schedule_of({2500, 5000, 10'000}) == small);
    CHECK(schedule_of({50, 75}).size() == 5);
    CHECK(schedule_of({99, 100}).size() == 199);  // nothing to reduce
}

TEST_CASE("schedule: a weight of 0 counts as 1") {
    CHECK(schedule_of({0, 3}) == schedule_of({1, 3}));
}

TEST_CASE("schedule: as many turns as there is room for are not rounded") {
    auto schedule = schedule_of({1, 1022});
    CHECK(turns_of(schedule, 2) == std::vector<size_t>{1, 1022});
}

TEST_CASE("schedule: more turns than there is room for are rounded, and nobody gets none") {
    for (const auto& weights :
         {std::vector<uint32_t>{1, 1023}, {1, 10'000}, {9'999, 10'000}, {1, 1, 1, 10'000, 5'001}}) {
        auto schedule = schedule_of(weights);
        CHECK(schedule.size() <= kMost);
        CHECK(schedule.size() > kMost - weights.size() - 1);  // the room is used
        auto turns = turns_of(schedule, weights.size());
        CHECK(std::ranges::min(turns) >= 1);
        uint64_t sum = std::accumulate(weights.begin(), weights.end(), uint64_t{0});
        for (size_t i = 0; i < weights.size(); i++) {
            double due = static_cast<double>(weights[i] * kMost) / static_cast<double>(sum);
            CHECK(std::abs(static_cast<double>(turns[i]) - due) < 5);
        }
    }
}

TEST_CASE("schedule: 511 shares, as many as there are slots, all have a turn") {
    CHECK(schedule_of(std::vector<uint32_t>(511, 100)).size() == 511);

    std::vector<uint32_t> weights(511);
    std::iota(weights.begin(), weights.end(), 1);
    auto schedule = schedule_of(weights);
    CHECK(schedule.size() <= kMost);
    auto turns = turns_of(schedule, 511);
    CHECK(std::ranges::min(turns) >= 1);
    CHECK(std::ranges::is_sorted(turns));  // more weight, never fewer turns

    weights.assign(511, 1);
    weights[200] = DROVER_MAX_WEIGHT;
    turns = turns_of(schedule_of(weights), 511);
    CHECK(std::ranges::min(turns) == 1);
    CHECK(turns[200] > 400);  // all that the others' one turn each leaves
}

TEST_CASE("schedule: room for one turn each is one turn each") {
    CHECK(turns_of(schedule_of({1, 7, 90, 3}, 4), 4) == std::vector<size_t>{1, 1, 1, 1});
}
