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

// With a schedule in which each slot has one turn.
void write_both(drover_group& group, const std::vector<uint16_t>& slots) {
    write_active_set(group, slots, slots);
}

// What belongs to a half of a group elsewhere, as the table of the policy `source`.
struct Elsewhere {
    uint16_t halves[2] = {};
};

// One decision's view of a group.
struct Seen {
    std::vector<uint16_t> slots, schedule;
    uint16_t elsewhere = 0;
};

// As choose() in steer.bpf.c reads it: the version is compared after the reading. Nothing where the
// set was rewritten meanwhile.
std::optional<Seen> look_as_the_program_does(const drover_group& group,
                                             const Elsewhere& elsewhere = {}) {
    auto load = [](const auto& place) { return __atomic_load_n(&place, __ATOMIC_ACQUIRE); };
    uint32_t version = load(group.current);
    const drover_active_set& set = group.sets[version & 1];
    Seen seen;
    seen.slots.resize(load(set.count) & (DROVER_MAX_SLOTS - 1));
    seen.schedule.resize(load(set.turns) & (DROVER_MAX_TURNS - 1));
    for (size_t i = 0; i < seen.slots.size(); i++) seen.slots[i] = load(set.slots[i]);
    for (size_t i = 0; i < seen.schedule.size(); i++) seen.schedule[i] = load(set.schedule[i]);
    seen.elsewhere = load(elsewhere.halves[version & 1]);
    if (load(set.version) != version) return std::nullopt;
    return seen;
}

std::optional<std::vector<uint16_t>> read_as_the_program_does(const drover_group& group) {
    auto seen = look_as_the_program_does(group);
    if (!seen) return std::nullopt;
    return seen->slots;
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
    memory->slots[0] = drover_slot{5, 6, 7, 8, 9, 1, 3, 1, 2, 4, 10, 12};
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
    CHECK(slot.weight == DROVER_WEIGHT_ONE);
    CHECK(memory->slots[0].progress_at == 0);
    CHECK(memory->slots[0].serial == 0);
    CHECK(memory->slots[0].doubts == 0);
    CHECK(slot.queued == 0);
    CHECK(slot.pace == 0);
}

TEST_CASE("slots: read() has every count of the slot") {
    auto memory = std::make_unique<Memory>();
    SlotTable table(memory->slots);
    memory->slots[3] = drover_slot{5, 6, 7, 8, 9, 11, 300, 0, 0, 4, 10, 12};
    drover_slot slot = table.read(3);
    CHECK(slot.live == 5);
    CHECK(slot.established_total == 6);
    CHECK(slot.moved_in_total == 7);
    CHECK(slot.moved_out_total == 8);
    CHECK(slot.closed_total == 9);
    CHECK(slot.worker == 11);
    CHECK(slot.weight == 300);
    CHECK(slot.progress_at == 4);
    CHECK(slot.queued == 10);
    CHECK(slot.pace == 12);
}

TEST_CASE("slots: a weight is set for the slot alone, and the next owner begins with 1") {
    auto memory = std::make_unique<Memory>();
    SlotTable table(memory->slots);
    for (int i = 0; i < kUsable; i++) REQUIRE(table.take(1) == i);
    table.set_weight(5, 3 * DROVER_WEIGHT_ONE);
    CHECK(memory->slots[5].weight == 300);
    CHECK(table.read(5).weight == 300);
    CHECK(table.read(4).weight == DROVER_WEIGHT_ONE);
    CHECK(table.read(6).weight == DROVER_WEIGHT_ONE);
    table.give_back(5);
    REQUIRE(table.take(2) == 5);
    CHECK(table.read(5).weight == DROVER_WEIGHT_ONE);
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
        write_both(*group, slots);
        CHECK(read_active_set(*group) == slots);
        CHECK(read_as_the_program_does(*group) == slots);
    }
}

TEST_CASE("active set: the schedule is in force with it") {
    auto group = std::make_unique<drover_group>();
    write_active_set(*group, numbers(2, 10), std::vector<uint16_t>{11, 10, 11});
    auto seen = look_as_the_program_does(*group);
    REQUIRE(seen);
    CHECK(seen->slots == std::vector<uint16_t>{10, 11});
    CHECK(seen->schedule == std::vector<uint16_t>{11, 10, 11});
    write_active_set(*group, {}, {});
    seen = look_as_the_program_does(*group);
    REQUIRE(seen);
    CHECK(seen->slots.empty());
    CHECK(seen->schedule.empty());
}

TEST_CASE("active set: the hook is told the half that is being written, before it is in force") {
    auto group = std::make_unique<drover_group>();
    std::vector<uint32_t> halves;
    for (uint16_t round = 1; round <= 5; round++) {
        uint32_t before = group->current;
        std::vector<uint16_t> in_force = read_active_set(*group);
        auto also = [&](uint32_t half) {
            halves.push_back(half);
            CHECK(group->current == before);
            CHECK(half != (before & 1));
            CHECK(group->sets[half].version == 0);
            CHECK(read_active_set(*group) == in_force);
        };
        write_active_set(*group, numbers(round, 7), numbers(round, 7), also);
        CHECK(halves.size() == round);
        CHECK((group->current & 1) == halves.back());
    }
    CHECK(halves == std::vector<uint32_t>{1, 0, 1, 0, 1});
}

TEST_CASE("active set: each write takes the other half and leaves the one in force alone") {
    auto group = std::make_unique<drover_group>();
    write_both(*group, numbers(4));
    CHECK(group->current == 1);
    CHECK(group->sets[1].version == 1);
    write_both(*group, numbers(2, 10));
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
    write_both(*group, numbers(DROVER_MAX_SLOTS + 88));
    CHECK(read_active_set(*group) == numbers(DROVER_KEEPER_SLOT));
    CHECK(group->turn == 77);

    write_active_set(*group, numbers(1), numbers(DROVER_MAX_TURNS + 1));
    auto seen = look_as_the_program_does(*group);
    REQUIRE(seen);
    CHECK(seen->schedule == numbers(DROVER_MAX_TURNS - 1));
    CHECK(group->turn == 77);
}

TEST_CASE("active set: the version goes round without ever being 0, which means being written") {
    auto group = std::make_unique<drover_group>();
    group->current = UINT32_MAX - 2;
    std::vector<uint32_t> versions;
    for (uint16_t i = 0; i < 6; i++) {
        uint32_t half_before = group->current & 1;
        write_both(*group, numbers(i + 1u, i));
        CHECK(group->current != 0);
        CHECK((group->current & 1) != half_before);
        CHECK(read_as_the_program_does(*group) == numbers(i + 1u, i));
    }
}

TEST_CASE("active set: a reader never sees half an update while sets are being written") {
    auto group = std::make_unique<drover_group>();
    Elsewhere elsewhere;
    // Each set is recognized by its first slot: its length and all its slots follow from it, its
    // schedule, and what the hook wrote.
    auto make = [](uint32_t round) {
        auto first = static_cast<uint16_t>(1 + round % 97);
        return numbers(first * 3u + 1, first);
    };
    auto make_turns = [](const std::vector<uint16_t>& slots) {
        return numbers(slots.size() * 2 + 5, static_cast<uint16_t>(1000 + slots[0]));
    };
    auto write = [&](uint32_t round) {
        auto slots = make(round);
        write_active_set(*group, slots, make_turns(slots), [&](uint32_t half) {
            __atomic_store_n(&elsewhere.halves[half], slots[0], __ATOMIC_RELEASE);
        });
    };
    write(0);
    std::atomic<bool> stop = false;
    std::atomic<uint64_t> torn = 0, whole = 0, rewritten = 0;
    std::thread reader([&] {
        while (!stop) {
            auto seen = look_as_the_program_does(*group, elsewhere);
            if (!seen) {
                rewritten++;
                continue;
            }
            whole++;
            if (seen->slots.empty() || seen->slots != make(seen->slots[0] - 1u) ||
                seen->schedule != make_turns(seen->slots) || seen->elsewhere != seen->slots[0])
                torn++;
        }
    });
    // On a busy machine the two seldom run side by side: give them longer to meet.
    auto start = std::chrono::steady_clock::now();
    uint32_t round = 0;
    auto is_enough = [&] {
        auto time = std::chrono::steady_clock::now() - start;
        return time > 3s || (time > 200ms && rewritten > 2000);
    };
    while (!is_enough()) write(++round);
    stop = true;
    reader.join();
    MESSAGE("sets written: ", round, ", read whole: ", whole.load(),
            ", found rewritten: ", rewritten.load());
    CHECK(torn == 0);
    CHECK(whole > 0);
}
