// SPDX-License-Identifier: MIT
//
// The policies, compiled natively: the very functions that the steering program calls.
#include "policy_hash.bpf.h"
#include "policy_least_conn.bpf.h"
#include "policy_round_robin.bpf.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <random>
#include <vector>

namespace {

// A view over slots of its own. Slot numbers are not 0 … count − 1 and in no order, so that a
// policy that mistook an index for a slot would be found out.
struct Bench {
    std::vector<__u16> active;
    std::array<drover_slot, DROVER_MAX_SLOTS> slots{};
    policy_view view{};
    std::minstd_rand random{42};

    explicit Bench(__u32 count) : active(DROVER_MAX_SLOTS) {
        for (__u32 i = 0; i < count; i++)
            active[i] = static_cast<__u16>((i * 9 + 100) % DROVER_KEEPER_SLOT);
        for (auto& slot : slots) slot.live = -1'000'000;  // of slots that are not active: tempting
        for (__u32 i = 0; i < count; i++) slots[active[i]].live = 0;
        view = {active.data(), count, slots.data(), 0, 0, 0};
    }

    __s64& live(__u32 index) { return slots[active[index]].live; }
    __u32 any() { return static_cast<__u32>(random()) << 16 ^ static_cast<__u32>(random()); }
};

// The edges, and a few in between.
const std::vector<__u32> kValues = {0,          1,          0x7FFFFFFF, 0x80000000,
                                    0xDEADBEEF, 0xFFFFFFFE, 0xFFFFFFFF};

}  // namespace

TEST_CASE("policies: never out of range, for each possible number of workers") {
    for (__u32 count = 1; count < DROVER_MAX_SLOTS; count++) {
        Bench bench(count);
        for (__u32 i = 0; i < count; i++) bench.live(i) = static_cast<__s64>(bench.any() % 50);
        __u32 highest = 0;
        auto look = [&](__u32 value) {
            bench.view.hash = bench.view.random = value;
            bench.view.turn = (static_cast<__u64>(value) << 32) + value;
            highest = std::max({highest, policy_hash(&bench.view), policy_round_robin(&bench.view),
                                policy_least_conn(&bench.view)});
        };
        for (__u32 value : kValues) look(value);
        for (int i = 0; i < 100; i++) look(bench.any());
        CHECK_MESSAGE(highest < count, "count ", count);
    }
}

TEST_CASE("policies: scale_to spreads the whole range evenly") {
    for (__u32 count : {1u, 2u, 3u, 7u, 100u, 511u}) {
        CHECK(scale_to(0, count) == 0);
        CHECK(scale_to(0xFFFFFFFF, count) == count - 1);
        std::vector<int> hits(count);
        constexpr __u32 kSteps = 1 << 16;
        for (__u32 i = 0; i < kSteps; i++) hits[scale_to(i << 16, count)]++;
        auto [least, most] = std::ranges::minmax(hits);
        CHECK(most - least <= 1);
    }
}

TEST_CASE("round-robin: k times count connections are k for each") {
    for (__u32 count : {1u, 2u, 3u, 8u, 33u, 511u}) {
        Bench bench(count);
        std::vector<int> hits(count);
        constexpr int kRounds = 9;
        bench.view.turn = 12'345;  // wherever the counter stands
        for (__u32 i = 0; i < kRounds * count; i++) {
            __u32 index = policy_round_robin(&bench.view);
            CHECK(index == bench.view.turn % count);
            hits[index]++;
            bench.view.turn++;
        }
        for (int hit : hits) CHECK(hit == kRounds);
    }
}

TEST_CASE("hash: the same connection goes to the same worker, whatever the load") {
    Bench bench(8);
    bench.view.hash = 0x12345678;
    __u32 first = policy_hash(&bench.view);
    bench.view.random = 99;
    bench.view.turn = 5;
    bench.live(first) = 1'000'000;
    CHECK(policy_hash(&bench.view) == first);
}

TEST_CASE("hash: many connections are spread evenly") {
    Bench bench(8);
    std::mt19937 hashes(7);
    std::vector<int> hits(8);
    constexpr int kConnections = 80'000;
    for (int i = 0; i < kConnections; i++) {
        bench.view.hash = static_cast<__u32>(hashes());
        hits[policy_hash(&bench.view)]++;
    }
    for (int hit : hits) {
        CHECK(hit > 9'500);
        CHECK(hit < 10'500);
    }
}

TEST_CASE("least-conn: up to 32 workers it is the one with the fewest, always") {
    std::minstd_rand counts(3);
    for (__u32 count = 1; count <= LEAST_CONN_EXACT; count++) {
        Bench bench(count);
        for (int round = 0; round < 200; round++) {
            // Negative ones too: a count may be off by a little until it is reconciled.
            for (__u32 i = 0; i < count; i++) bench.live(i) = static_cast<__s64>(counts() % 9) - 2;
            bench.view.random = bench.any();
            __u32 index = policy_least_conn(&bench.view);
            REQUIRE(index < count);
            __s64 fewest = bench.live(0);
            for (__u32 i = 1; i < count; i++) fewest = std::min(fewest, bench.live(i));
            REQUIRE(bench.live(index) == fewest);
        }
    }
}

TEST_CASE("least-conn: the only one with the fewest is found at each place, from each start") {
    for (__u32 count : {1u, 2u, 31u, 32u}) {
        Bench bench(count);
        for (__u32 place = 0; place < count; place++) {
            for (__u32 i = 0; i < count; i++) bench.live(i) = i == place ? 3 : 4;
            for (__u32 start = 0; start < count; start++) {
                bench.view.random =
                    static_cast<__u32>(((static_cast<__u64>(start) << 32) / count) + 1);
                REQUIRE(policy_least_conn(&bench.view) == place);
            }
        }
    }
}

TEST_CASE("least-conn: equals share, so a burst before the first count does not hit one worker") {
    for (__u32 count : {4u, 32u}) {
        Bench bench(count);
        std::mt19937 random(11);
        std::vector<int> hits(count);
        constexpr int kEach = 1000;
        for (__u32 i = 0; i < kEach * count; i++) {
            bench.view.random = static_cast<__u32>(random());
            hits[policy_least_conn(&bench.view)]++;
        }
        for (int hit : hits) {
            CHECK(hit > kEach * 8 / 10);
            CHECK(hit < kEach * 12 / 10);
        }
    }
}

TEST_CASE("least-conn: 1,024 long-lived connections over 8 workers are 128 each") {
    Bench bench(8);
    for (int i = 0; i < 1024; i++) {
        bench.view.random = bench.any();
        bench.live(policy_least_conn(&bench.view))++;
    }
    for (__u32 i = 0; i < 8; i++) CHECK(bench.live(i) == 128);
}

TEST_CASE("least-conn: above 32 workers 100,000 connections over 100 workers are nearly even") {
    Bench bench(100);
    std::mt19937 random(5);
    for (int i = 0; i < 100'000; i++) {
        bench.view.random = static_cast<__u32>(random());
        bench.live(policy_least_conn(&bench.view))++;
    }
    __s64 total = 0;
    for (__u32 i = 0; i < 100; i++) {
        // One random choice alone would be off by about 100 (three standard deviations).
        CHECK(bench.live(i) > 990);
        CHECK(bench.live(i) < 1010);
        total += bench.live(i);
    }
    CHECK(total == 100'000);
}

TEST_CASE("least-conn: above 32 workers the busiest is taken only where all samples are it") {
    Bench bench(100);
    for (__u32 i = 0; i < 100; i++) bench.live(i) = i == 17 ? 1000 : 0;
    std::mt19937 random(9);
    int taken = 0;
    for (int i = 0; i < 100'000; i++) {
        bench.view.random = static_cast<__u32>(random());
        if (policy_least_conn(&bench.view) == 17) taken++;
    }
    CHECK(taken < 20);  // 100,000 / 100^4 is none; one sample alone would be 1,000
}

TEST_CASE("least-conn: 33 workers are sampled, and each is chosen now and then") {
    Bench bench(LEAST_CONN_EXACT + 1);
    std::mt19937 random(13);
    std::map<__u32, int> hits;
    for (int i = 0; i < 33'000; i++) {
        bench.view.random = static_cast<__u32>(random());
        hits[policy_least_conn(&bench.view)]++;
    }
    CHECK(hits.size() == 33);
    for (const auto& [index, hit] : hits) CHECK_MESSAGE(hit > 800, "index ", index);
}
