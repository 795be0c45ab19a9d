// SPDX-License-Identifier: MIT
//
// What a policy's test is made on: a view over slots of its own, as the steering program makes one
// for each decision. Slot numbers are in no order and not 0 … count − 1, so that a policy that took
// an index for a slot would be found out; and slots that are not active look tempting: nothing to
// do, and heavy.
#pragma once

#include "policy_least_busy.bpf.h"
#include "policy_view.bpf.h"

#include <array>
#include <random>
#include <vector>

#include "steer/schedule.h"

namespace drover::test {

constexpr __u32 kPace = 1000;  // of all workers: 1.024 ms

struct Bench {
    std::vector<__u16> active, schedule;
    std::array<drover_slot, DROVER_MAX_SLOTS> slots{};
    std::array<policy_listener, DROVER_MAX_SLOTS> queues{};  // by slot, as `listeners`
    std::array<__u64, DROVER_MAX_SLOTS> listeners{};
    std::array<drover_look, DROVER_MAX_SLOTS> looks{};
    policy_view view{};
    std::minstd_rand random{42};

    // Weights in hundredths, those of the first candidates; the others have 100.
    explicit Bench(__u32 count, const std::vector<__u32>& weights = {}) : active(DROVER_MAX_SLOTS) {
        for (drover_slot& slot : slots) {
            slot.live = -1'000'000;
            slot.weight = DROVER_MAX_WEIGHT;
        }
        std::vector<steer::Share> shares;
        for (__u32 i = 0; i < count; i++) {
            auto slot = static_cast<__u16>((i * 9 + 100) % DROVER_KEEPER_SLOT);
            active[i] = slot;
            slots[slot].live = 0;
            slots[slot].weight =
                static_cast<__u16>(i < weights.size() ? weights[i] : DROVER_WEIGHT_ONE);
            slots[slot].serial = DROVER_NOT_SERIAL;
            slots[slot].pace = kPace;
            listeners[slot] = reinterpret_cast<__u64>(&queues[slot]);
            shares.push_back({slot, slots[slot].weight});
        }
        schedule = steer::make_schedule(shares, DROVER_MAX_TURNS - 1);
        view.active = active.data();
        view.count = count;
        view.turns = static_cast<__u32>(schedule.size());
        schedule.resize(DROVER_MAX_TURNS);
        view.schedule = schedule.data();
        view.slots = slots.data();
        view.listeners = listeners.data();
        view.looks = looks.data();
        view.now = 1ull << 60;  // long after anything that a test calls early
    }
    Bench(const Bench&) = delete;  // the view points into it
    Bench& operator=(const Bench&) = delete;

    drover_slot& slot(__u32 index) { return slots[active[index]]; }
    __s64& live(__u32 index) { return slot(index).live; }
    policy_listener& queue(__u32 index) { return queues[active[index]]; }

    // The place of a slot among the candidates; `count` where it is none of them.
    [[nodiscard]] __u32 index_of(__u32 slot) const {
        __u32 index = 0;
        while (index < view.count && active[index] != slot) index++;
        return index;
    }

    __u32 any() { return static_cast<__u32>(random()) << 16 ^ static_cast<__u32>(random()); }
};

}  // namespace drover::test
