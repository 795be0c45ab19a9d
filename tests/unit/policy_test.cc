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
#include <random>
#include <vector>

#include "policy_bench.h"

using drover::test::Bench;

namespace {

// The edges, and a few in between.
const std::vector<__u32> kValues = {0,          1,          0x7FFFFFFF, 0x80000000,
                                    0xDEADBEEF, 0xFFFFFFFE, 0xFFFFFFFF};

}  // namespace

TEST_CASE("policies: always one of the active slots, for each possible number of workers") {
    for (__u32 count = 1; count < DROVER_MAX_SLOTS; count++) {
        Bench bench(count);
        for (__u32 i = 0; i < count; i++) bench.live(i) = static_cast<__s64>(bench.any() % 50);
        int wrong = 0;
        auto look = [&](__u32 value) {
            bench.view.hash = bench.view.random = value;
            bench.view.turn = (static_cast<__u64>(value) << 32) + value;
            for (auto* policy :
                 {policy_hash, policy_round_robin, policy_least_conn, policy_least_busy})
                if (bench.index_of(policy(&bench.view)) == count) wrong++;
        };
        for (__u32 value : kValues) look(value);
        for (int i = 0; i < 100; i++) look(bench.any());
        CHECK_MESSAGE(wrong == 0, "count ", count);
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
            __u32 index = bench.index_of(policy_round_robin(&bench.view));
            CHECK(index == bench.view.turn % count);
            hits[index]++;
            bench.view.turn++;
        }
        for (int hit : hits) CHECK(hit == kRounds);
    }
}

TEST_CASE("round-robin: weights 1 : 2 : 4 are exact over k times the turns, from any turn on") {
    Bench bench(3, {100, 200, 400});
    REQUIRE(bench.view.turns == 7);
    for (__u64 first : {0ull, 3ull, 12'345ull}) {
        std::array<int, 3> hits{};
        bench.view.turn = first;
        for (int i = 0; i < 9 * 7; i++) {
            hits.at(bench.index_of(policy_round_robin(&bench.view)))++;
            bench.view.turn++;
        }
        CHECK(hits == std::array{9, 18, 36});
    }
}

TEST_CASE("round-robin: weights in hundredths are as exact, and so is the longest schedule") {
    Bench warming(4, {25, 100, 100, 50});
    std::array<int, 4> hits{};
    for (int i = 0; i < 11; i++, warming.view.turn++)
        hits.at(warming.index_of(policy_round_robin(&warming.view)))++;
    CHECK(hits == std::array{1, 4, 4, 2});

    Bench longest(2, {1, 1022});
    REQUIRE(longest.view.turns == DROVER_MAX_TURNS - 1);
    int light = 0;
    for (int i = 0; i < 1023 * 3; i++, longest.view.turn++)
        if (longest.index_of(policy_round_robin(&longest.view)) == 0) light++;
    CHECK(light == 3);
}

TEST_CASE("hash: equal parts of the hashes are the turns of the schedule, so weights are exact") {
    Bench bench(3, {100, 200, 400});
    std::array<int, 3> hits{};
    constexpr __u64 kHashes = 7 * 1000;
    for (__u64 i = 0; i < kHashes; i++) {
        bench.view.hash = static_cast<__u32>(((i << 32) + kHashes - 1) / kHashes);
        hits.at(bench.index_of(policy_hash(&bench.view)))++;
    }
    CHECK(hits == std::array{1000, 2000, 4000});
}

TEST_CASE("hash: the same connection goes to the same worker, whatever the load") {
    Bench bench(8);
    bench.view.hash = 0x12345678;
    __u32 first = policy_hash(&bench.view);
    bench.view.random = 99;
    bench.view.turn = 5;
    bench.slots[first].live = 1'000'000;
    CHECK(policy_hash(&bench.view) == first);
}

TEST_CASE("hash: many connections are spread evenly") {
    Bench bench(8);
    std::mt19937 hashes(7);
    std::vector<int> hits(8);
    constexpr int kConnections = 80'000;
    for (int i = 0; i < kConnections; i++) {
        bench.view.hash = static_cast<__u32>(hashes());
        hits[bench.index_of(policy_hash(&bench.view))]++;
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
            __u32 index = bench.index_of(policy_least_conn(&bench.view));
            REQUIRE(index < count);
            // Below 0 is as good as 0.
            auto live = [&bench](__u32 i) { return std::max<__s64>(bench.live(i), 0); };
            __s64 fewest = live(0);
            for (__u32 i = 1; i < count; i++) fewest = std::min(fewest, live(i));
            REQUIRE(live(index) == fewest);
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
                REQUIRE(bench.index_of(policy_least_conn(&bench.view)) == place);
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
            hits[bench.index_of(policy_least_conn(&bench.view))]++;
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
        bench.slots[policy_least_conn(&bench.view)].live++;
    }
    for (__u32 i = 0; i < 8; i++) CHECK(bench.live(i) == 128);
}

TEST_CASE("least-conn: above 32 workers 100,000 connections over 100 workers are nearly even") {
    Bench bench(100);
    std::mt19937 random(5);
    for (int i = 0; i < 100'000; i++) {
        bench.view.random = static_cast<__u32>(random());
        bench.slots[policy_least_conn(&bench.view)].live++;
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
        if (bench.index_of(policy_least_conn(&bench.view)) == 17) taken++;
    }
    CHECK(taken < 20);  // 100,000 / 100^4 is none; one sample alone would be 1,000
}

TEST_CASE("least-conn: 33 workers are sampled, and each is chosen now and then") {
    Bench bench(LEAST_CONN_EXACT + 1);
    std::mt19937 random(13);
    std::map<__u32, int> hits;
    for (int i = 0; i < 33'000; i++) {
        bench.view.random = static_cast<__u32>(random());
        hits[bench.index_of(policy_least_conn(&bench.view))]++;
    }
    CHECK(hits.size() == 33);
    for (const auto& [index, hit] : hits) CHECK_MESSAGE(hit > 800, "index ", index);
}

TEST_CASE("least-conn: a count below 0 is as good as none, not better") {
    Bench bench(2);
    bench.live(0) = -7;
    std::array<int, 2> hits{};
    for (int i = 0; i < 1000; i++) {
        bench.view.random = bench.any();
        hits.at(bench.index_of(policy_least_conn(&bench.view)))++;
    }
    CHECK(hits[0] > 400);
    CHECK(hits[1] > 400);
    // And it is no unsigned number that would be the largest of all.
    bench.live(1) = 1;
    CHECK(bench.index_of(policy_least_conn(&bench.view)) == 0);
}

TEST_CASE("least-conn: connections that stay are shared by weight, exactly") {
    for (const auto& weights : {std::vector<__u32>{100, 200, 400}, {25, 50, 100}}) {
        Bench bench(3, weights);
        for (int i = 0; i < 700; i++) {
            bench.view.random = bench.any();
            bench.slots[policy_least_conn(&bench.view)].live++;
        }
        CHECK(bench.live(0) == 100);
        CHECK(bench.live(1) == 200);
        CHECK(bench.live(2) == 400);
    }
}

TEST_CASE("least-conn: of idle workers the heaviest is taken") {
    Bench bench(5, {100, 100, 101, 1, 100});
    for (int i = 0; i < 100; i++) {
        bench.view.random = bench.any();
        REQUIRE(bench.index_of(policy_least_conn(&bench.view)) == 2);
    }
}

TEST_CASE("least-conn: above 32 workers weights count as well") {
    std::vector<__u32> weights;
    for (int i = 0; i < 80; i++) weights.push_back(i % 2 == 0 ? 100 : 300);
    Bench bench(80, weights);
    std::mt19937 random(19);
    for (int i = 0; i < 16'000; i++) {
        bench.view.random = static_cast<__u32>(random());
        bench.slots[policy_least_conn(&bench.view)].live++;
    }
    for (__u32 i = 0; i < 80; i++) {
        __s64 due = i % 2 == 0 ? 100 : 300;
        CHECK_MESSAGE(std::abs(bench.live(i) - due) <= due / 10, "index ", i);
    }
}

TEST_CASE("least-conn: the largest counts and weights do not overflow") {
    Bench bench(2, {DROVER_MAX_WEIGHT, DROVER_MAX_WEIGHT});
    bench.live(0) = 1'000'000'001;
    bench.live(1) = 1'000'000'000;
    for (int i = 0; i < 20; i++) {
        bench.view.random = bench.any();
        REQUIRE(bench.index_of(policy_least_conn(&bench.view)) == 1);
    }
}
