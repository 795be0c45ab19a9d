// SPDX-License-Identifier: MIT
//
// The table of the policy `source`: whole, even, and with few entries that move.
#include "steer/maglev.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <random>

#include "policy_source.bpf.h"

using namespace drover::steer;

namespace {

constexpr uint16_t kSize = DROVER_SOURCE_TABLE_SIZE;

using Table = std::vector<uint16_t>;

// Slots in an order that is not the keys'.
uint16_t slot_of(uint32_t key) {
    return static_cast<uint16_t>((key * 9 + 100) % DROVER_KEEPER_SLOT);
}

// Keys 0 … count − 1, of equal weight.
std::vector<MaglevMember> members(uint32_t count) {
    std::vector<MaglevMember> all;
    for (uint32_t key = 0; key < count; key++) all.push_back({key, slot_of(key), 1});
    return all;
}

std::vector<MaglevMember> without(std::vector<MaglevMember> all, uint32_t key) {
    std::erase_if(all, [&](const MaglevMember& member) { return member.key == key; });
    return all;
}

// slot → its entries
std::map<uint16_t, int> shares(const Table& table) {
    std::map<uint16_t, int> counts;
    for (uint16_t slot : table) counts[slot]++;
    return counts;
}

// Per cent of the entries that have changed from one slot to another, neither of which is `slot`.
double moved_needlessly(const Table& before, const Table& after, uint16_t slot) {
    REQUIRE(before.size() == after.size());
    int moved = 0;
    for (size_t i = 0; i < before.size(); i++)
        if (before[i] != after[i] && before[i] != slot && after[i] != slot) moved++;
    return 100.0 * moved / static_cast<double>(before.size());
}

// What may move for n members: twice the figures of maglev.h, or nearly.
double allowance(uint32_t count) {
    return count <= 2 ? 0 : count <= 8 ? 0.8 : count <= 32 ? 1.3 : 2.0;
}

}  // namespace

TEST_CASE("maglev: no members, no table") {
    CHECK(build_maglev({}, kSize).empty());
    CHECK(build_maglev(members(3), 0).empty());
}

TEST_CASE("maglev: one member has all entries") {
    for (uint32_t weight : {0u, 1u, 1000u, UINT32_MAX})
        CHECK(build_maglev({{7, 42, weight}}, kSize) == Table(kSize, 42));
}

TEST_CASE("maglev: each entry is filled with a member's slot, in a table of whatever size") {
    for (uint16_t size : {1, 2, 3, 16, 100, 251, 4096, 65521, 65535}) {
        for (uint32_t count : {1u, 2u, 3u, 10u, 256u}) {
            Table table = build_maglev(members(count), size);
            REQUIRE(table.size() == size);
            auto counts = shares(table);
            CHECK(counts.size() == std::min<size_t>(count, size));
            for (uint32_t key = 0; key < count; key++) counts.erase(slot_of(key));
            CHECK_MESSAGE(counts.empty(), "size ", size, ", members ", count);
        }
    }
}

TEST_CASE("maglev: the table's size is a prime, and just below a power of two") {
    for (uint32_t divisor = 2; divisor * divisor <= kSize; divisor++) REQUIRE(kSize % divisor != 0);
    CHECK(kSize > 16384 - 8);
    CHECK(kSize < 16384);
}

TEST_CASE("maglev: equal members have equal shares, to one entry") {
    for (uint32_t count : {2u, 3u, 4u, 7u, 32u, 100u, 255u, 256u}) {
        auto counts = shares(build_maglev(members(count), kSize));
        CHECK(counts.size() == count);
        auto [least, most] = std::ranges::minmax_element(
            counts, {}, [](const auto& slot_and_count) { return slot_and_count.second; });
        CHECK_MESSAGE(most->second - least->second <= 1, "members ", count);
    }
}

TEST_CASE("maglev: weights 1 : 2 : 4 are shares 1 : 2 : 4") {
    auto counts = shares(build_maglev({{0, 10, 1}, {1, 11, 2}, {2, 12, 4}}, kSize));
    CHECK(counts[10] == doctest::Approx(kSize / 7.0).epsilon(0.001));
    CHECK(counts[11] == doctest::Approx(kSize * 2 / 7.0).epsilon(0.001));
    CHECK(counts[12] == doctest::Approx(kSize * 4 / 7.0).epsilon(0.001));
}

TEST_CASE("maglev: any weights are shares within two entries") {
    std::mt19937 random(3);
    for (uint32_t count : {2u, 5u, 30u, 256u}) {
        auto all = members(count);
        double total = 0;
        for (auto& member : all) total += member.weight = 1 + random() % 20;
        auto counts = shares(build_maglev(all, kSize));
        for (const auto& member : all) {
            double share = kSize * member.weight / total;
            CHECK(counts[member.slot] > share - 2);
            CHECK(counts[member.slot] < share + 2);
        }
    }
}

TEST_CASE("maglev: one that weighs as much as all others together has half") {
    auto all = members(256);
    all[77].weight = 255;
    auto counts = shares(build_maglev(all, kSize));
    CHECK(counts[slot_of(77)] == doctest::Approx(kSize / 2.0).epsilon(0.005));
}

TEST_CASE("maglev: shares are rounded to the nearest whole entry") {
    auto counts = shares(build_maglev({{0, 10, 1}, {1, 11, 8}}, 100));
    CHECK(counts[10] == 11);  // 11.1
    CHECK(counts[11] == 89);  // 88.9
}

TEST_CASE("maglev: weights count against each other only, however large") {
    auto counts = shares(build_maglev({{0, 10, 1'000'000'000}, {1, 11, 3'000'000'000}}, kSize));
    CHECK(counts[11] == doctest::Approx(3.0 * counts[10]).epsilon(0.001));
}

TEST_CASE("maglev: the smallest share is one entry") {
    auto all = members(256);
    all[200].weight = UINT32_MAX;
    auto counts = shares(build_maglev(all, kSize));
    CHECK(counts.size() == 256);
    CHECK(counts[slot_of(200)] == kSize - 255);
}

TEST_CASE("maglev: when a member goes, hardly more than its own entries move") {
    for (uint32_t count : {2u, 4u, 8u, 16u, 32u, 64u, 128u, 256u}) {
        Table before = build_maglev(members(count), kSize);
        for (uint32_t key = 0; key < count; key += std::max(1u, count / 8)) {
            Table after = build_maglev(without(members(count), key), kSize);
            CHECK(shares(after).count(slot_of(key)) == 0);
            CHECK_MESSAGE(moved_needlessly(before, after, slot_of(key)) <= allowance(count),
                          "members ", count, ", without ", key);
        }
    }
}

TEST_CASE("maglev: when a member comes, hardly more than its own entries move") {
    for (uint32_t count : {1u, 3u, 4u, 7u, 15u, 31u, 63u, 127u, 255u}) {
        Table before = build_maglev(members(count), kSize);
        Table after = build_maglev(members(count + 1), kSize);
        int own = shares(after)[slot_of(count)];
        CHECK(own == doctest::Approx(kSize / (count + 1.0)).epsilon(0.02));
        CHECK_MESSAGE(moved_needlessly(before, after, slot_of(count)) <= allowance(count + 1),
                      "members ", count);
    }
}

TEST_CASE("maglev: when a weight changes, hardly more moves than the share that it gains") {
    auto all = members(8);
    Table before = build_maglev(all, kSize);
    all[3].weight = 2;
    Table after = build_maglev(all, kSize);
    CHECK(shares(after)[slot_of(3)] == doctest::Approx(kSize * 2 / 9.0).epsilon(0.001));
    CHECK(moved_needlessly(before, after, slot_of(3)) < 2);
    for (size_t i = 0; i < kSize; i++) {  // who has gained loses nearly nothing
        if (before[i] == slot_of(3) && after[i] != slot_of(3)) before[i] = UINT16_MAX;
    }
    CHECK(shares(before)[UINT16_MAX] < kSize / 200);
}

TEST_CASE("maglev: the order of the members does not matter") {
    auto all = members(20);
    for (auto& member : all) member.weight = 1 + member.key % 3;
    Table table = build_maglev(all, kSize);
    std::ranges::reverse(all);
    CHECK(build_maglev(all, kSize) == table);
    std::ranges::shuffle(all, std::minstd_rand(5));
    CHECK(build_maglev(all, kSize) == table);
}

TEST_CASE("maglev: a replacement in another slot has the clients of its instance, all of them") {
    auto all = members(6);
    Table before = build_maglev(all, kSize);
    all[2].slot = 400;  // one; its number is now above the others'
    Table after = build_maglev(all, kSize);
    std::ranges::replace(before, slot_of(2), uint16_t{400});
    CHECK(after == before);
    for (auto& member : all) member.slot = static_cast<uint16_t>(300 - member.key);  // all
    Table reloaded = build_maglev(all, kSize);
    for (size_t i = 0; i < kSize; i++) {
        uint32_t key = 300u - reloaded[i];
        REQUIRE(after[i] == (key == 2 ? 400 : slot_of(key)));
    }
}

TEST_CASE("maglev: two of one instance divide its clients, and nobody else's move") {
    auto all = members(6);
    Table before = build_maglev(all, kSize);
    all.push_back({2, 400, 1});
    Table after = build_maglev(all, kSize);
    auto counts = shares(after);
    CHECK(std::abs(counts[400] - counts[slot_of(2)]) <= 1);
    std::ranges::replace(after, uint16_t{400}, slot_of(2));
    CHECK(after == before);
    std::ranges::reverse(all);
    CHECK(shares(build_maglev(all, kSize)) == counts);
}

// Where this fails, clients would move when drover is upgraded, or between machines.
TEST_CASE("maglev: today's table is tomorrow's") {
    Table table = build_maglev({{0, 0, 1}, {1, 1, 2}, {2, 2, 3}, {3, 3, 4}, {100, 4, 5}}, kSize);
    uint64_t sum = 0xCBF29CE484222325;  // FNV-1a
    for (uint16_t slot : table) sum = (sum ^ slot) * 0x100000001B3;
    CHECK(sum == 10606675012438872861u);
}
