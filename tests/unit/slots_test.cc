// SPDX-License-Identifier: MIT
//
// Slots and active sets in ordinary memory: who gets which slot, and that a reader that does what
// the BPF program does never sees half an update, while a writer writes as fast as it can.
#include "steer/slots.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <numeric>
#include <optional>
#include <set>
#include <thread>

using namespace drover;
using namespace drover::steer;
using namespace std::chrono_literals;

namespace {

constexpr int kUsable = static_cast<int>(DROVER_KEEPER_SLOT);

struct Memory {
    std::array<drover_slot, DROVER_MAX_SLOTS> slots{};
};

std::vector<uint16_t> numbers(size_t count, uint16_t first = 0) {
    std::vector<uint16_t> all(count);
    std::iota(all.begin(), all.end(), first);
    return all;
}

// As select_place() in steer.bpf.c reads it: the version is compared after the reading. Nothing
// where the set was rewritten meanwhile.
std::optional<std::vector<uint16_t>> read_as_the_program_does(const drover_group& group) {
    uint32_t version = __atomic_load_n(&group.current, __ATOMIC_ACQUIRE);
    const drover_active_set& set = group.sets[version & 1];
    uint32_t count = __atomic_load_n(&set.count, __ATOMIC_ACQUIRE) & (DROVER_MAX_SLOTS - 1);
    std::vector<uint16_t> slots(count);
    for (uint32_t i = 0; i < count; i++)
        slots[i] = __atomic_load_n(&set.slots[i], __ATOMIC_ACQUIRE);
    if (__atomic_load_n(&set.version, __ATOMIC_ACQUIRE) != version) return std::nullopt;
    return slots;
}

}  // namespace

TEST_CASE("slots: taken in order, each once, until there is none") {
    auto memory = std::make_unique<Memory>();
    SlotTable table(memory->slots);
    for (int i = 0; i < kUsable; i++) {
        auto slot = table.take(static_cast<uint32_t>(i + 1));
        REQUIRE(slot);
        CHECK(*slot == i);
        CHECK(table.owner(i) == static_cast<uint32_t>(i + 1));
    }
    auto one_too_many = table.take(9999);
    REQUIRE_FALSE(one_too_many);
    CHECK(one_too_many.error().code == "no-slot");
    CHECK(table.owner(kUsable) == 0);  // the keeper's slot is nobody else's
}

TEST_CASE("slots: a slot that is given back is taken again last") {
    auto memory = std::make_unique<Memory>();
    SlotTable table(memory->slots);
    REQUIRE(table.take(1) == 0);
    REQUIRE(table.take(2) == 1);
    table.give_back(0);
    CHECK(table.owner(0) == 0);
    CHECK(table.owner(1) == 2);
    // All the others come first: a late close of the former owner must find the slot unused.
    for (int i = 2; i < kUsable; i++) CHECK(table.take(100) == i);
    CHECK(table.take(101) == 0);
    CHECK_FALSE(table.take(102));
}

TEST_CASE("slots: several that are given back come again in that order") {
    auto memory = std::make_unique<Memory>();
    SlotTable table(memory->slots);
    for (int i = 0; i < kUsable; i++) REQUIRE(table.take(1));
    for (int slot : {7, 3, 200}) table.give_back(slot);
    CHECK(table.take(2) == 7);
    CHECK(table.take(2) == 3);
    CHECK(table.take(2) == 200);
    CHECK_FALSE(table.take(2));
}

TEST_CASE("slots: a slot begins with its counts at zero") {
    auto memory = std::make_unique<Memory>();
    SlotTable table(memory->slots);
    REQUIRE(table.take(1) == 0);
    memory->slots[0] = drover_slot{5, 6, 7, 8, 9, 1, 3, {0, 0}};
    table.give_back(0);
    for (int i = 1; i < kUsable; i++) REQUIRE(table.take(2));
    REQUIRE(table.take(42) == 0);
    drover_slot slot = table.read(0);
    CHECK(slot.live == 0);
    CHECK(slot.established_total == 0);
    CHECK(slot.moved_in_total == 0);
    CHECK(slot.moved_out_total == 0);
    CHECK(slot.closed_total == 0);
    CHECK(slot.worker == 42);
    CHECK(slot.weight == 1);
}

TEST_CASE("slots: read() has every count of the slot") {
    auto memory = std::make_unique<Memory>();
    SlotTable table(memory->slots);
    memory->slots[3] = drover_slot{5, 6, 7, 8, 9, 11, 3, {0, 0}};
    drover_slot slot = table.read(3);
    CHECK(slot.live == 5);
    CHECK(slot.established_total == 6);
    CHECK(slot.moved_in_total == 7);
    CHECK(slot.moved_out_total == 8);
    CHECK(slot.closed_total == 9);
    CHECK(slot.worker == 11);
    CHECK(slot.weight == 3);
}

TEST_CASE("slots: a correction is added to the live count, up or down") {
    auto memory = std::make_unique<Memory>();
    SlotTable table(memory->slots);
    REQUIRE(table.take(1) == 0);
    table.correct(0, 5);
    CHECK(table.read(0).live == 5);
    table.correct(0, -7);
    CHECK(table.read(0).live == -2);
    CHECK(table.read(1).live == 0);
}

TEST_CASE("slots: those that have an owner already are not free (memory of a former master)") {
    auto memory = std::make_unique<Memory>();
    memory->slots[0].worker = 7;
    memory->slots[2].worker = 9;
    SlotTable table(memory->slots);
    CHECK(table.take(10) == 1);
    CHECK(table.take(11) == 3);
    CHECK(table.owner(0) == 7);
}

TEST_CASE("slots: the keeper's slot counts under an id that no worker has") {
    auto memory = std::make_unique<Memory>();
    SlotTable table(memory->slots);
    table.take_keeper_slot();
    CHECK(table.owner(kUsable) == kKeeperWorker);
    for (int i = 0; i < kUsable; i++) CHECK(table.take(1) != kUsable);
    CHECK_FALSE(table.take(1));
}

TEST_CASE("active set: a fresh group has none") {
    auto group = std::make_unique<drover_group>();
    CHECK(read_active_set(*group).empty());
}

TEST_CASE("active set: what was written is in force") {
    auto group = std::make_unique<drover_group>();
    for (const auto& slots :
         {std::vector<uint16_t>{3}, {1, 2, 3}, {}, {510, 0, 7}, numbers(DROVER_KEEPER_SLOT)}) {
        write_active_set(*group, slots);
        CHECK(read_active_set(*group) == slots);
        CHECK(read_as_the_program_does(*group) == slots);
    }
}

TEST_CASE("active set: each write takes the other half and leaves the one in force alone") {
    auto group = std::make_unique<drover_group>();
    write_active_set(*group, numbers(4));
    CHECK(group->current == 1);
    CHECK(group->sets[1].version == 1);
    write_active_set(*group, numbers(2, 10));
    CHECK(group->current == 2);
    CHECK(group->sets[0].version == 2);
    CHECK(group->sets[0].count == 2);
    CHECK(group->sets[0].slots[0] == 10);
    // A program that still reads the old half finds it whole, with its version.
    CHECK(group->sets[1].version == 1);
    CHECK(group->sets[1].count == 4);
    CHECK(group->sets[1].slots[3] == 3);
}

TEST_CASE("active set: more than fit are cut off, and the round-robin counter is not touched") {
    auto group = std::make_unique<drover_group>();
    group->turn = 77;
    write_active_set(*group, numbers(DROVER_MAX_SLOTS + 88));
    CHECK(read_active_set(*group) == numbers(DROVER_KEEPER_SLOT));
    CHECK(group->turn == 77);
}

TEST_CASE("active set: the version goes round without ever being 0, which means being written") {
    auto group = std::make_unique<drover_group>();
    group->current = UINT32_MAX - 2;
    std::vector<uint32_t> versions;
    for (uint16_t i = 0; i < 6; i++) {
        uint32_t half_before = group->current & 1;
        write_active_set(*group, numbers(i + 1u, i));
        CHECK(group->current != 0);
        CHECK((group->current & 1) != half_before);
        CHECK(read_as_the_program_does(*group) == numbers(i + 1u, i));
    }
}

TEST_CASE("active set: a reader never sees half an update while sets are being written") {
    auto group = std::make_unique<drover_group>();
    // Each set is recognized by its first slot: its length and all its slots follow from it.
    auto make = [](uint32_t round) {
        auto first = static_cast<uint16_t>(round % 97);
        return numbers(first * 3u + 1, first);
    };
    write_active_set(*group, make(0));
    std::atomic<bool> stop = false;
    std::atomic<uint64_t> torn = 0, whole = 0, rewritten = 0;
    std::thread reader([&] {
        while (!stop) {
            auto slots = read_as_the_program_does(*group);
            if (!slots) {
                rewritten++;
                continue;
            }
            whole++;
            if (slots->empty() || *slots != make((*slots)[0])) torn++;
        }
    });
    // On a busy machine the two seldom run side by side: give them longer to meet.
    auto start = std::chrono::steady_clock::now();
    uint32_t round = 0;
    auto is_enough = [&] {
        auto time = std::chrono::steady_clock::now() - start;
        return time > 3s || (time > 200ms && rewritten > 2000);
    };
    while (!is_enough()) write_active_set(*group, make(++round));
    stop = true;
    reader.join();
    MESSAGE("sets written: ", round, ", read whole: ", whole.load(),
            ", found rewritten: ", rewritten.load());
    CHECK(torn == 0);
    CHECK(whole > 0);
}
