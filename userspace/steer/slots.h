// SPDX-License-Identifier: MIT
//
// Slots and active sets: which slot belongs to which worker, and which slots of a group may get new
// connections. All of it is memory that the BPF programs read while we write; the order of the
// stores is what keeps every decision whole (see drover_active_set in steer_abi.h).
#pragma once

#include <drover/steer_abi.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <set>
#include <span>
#include <vector>

#include "base/result.h"

namespace drover::steer {

// Replaces the active set of a group at once: a decision sees the old set or the new one. The
// schedule has each of the slots at least once. `also` is called with the half of the set that is
// being written, for what belongs to it elsewhere (the table of the policy `source`).
void write_active_set(
    drover_group& group, std::span<const uint16_t> slots, std::span<const uint16_t> schedule,
    const std::function<void(uint32_t half)>& also = [](uint32_t) {});

// The set that is in force.
std::vector<uint16_t> read_active_set(const drover_group& group);

class SlotTable {
  public:
    // `memory` is the `slots` variable of the programs; it stays the caller's.
    explicit SlotTable(std::span<drover_slot, DROVER_MAX_SLOTS> memory);

    // Gives the worker the slot that has been free for longest, with counts at zero. Error
    // "no-slot" where all are taken.
    Result<int> take(uint32_t worker);
    // Frees it. Connections that still close later are no longer counted.
    void give_back(int slot);
    // Frees the slots of all other workers: they ended while no master lived.
    void keep_only(const std::set<uint32_t>& workers);
    // The keeper's slot counts under the worker id that no worker has.
    void take_keeper_slot();

    [[nodiscard]] uint32_t owner(int slot) const;
    [[nodiscard]] drover_slot read(int slot) const;  // a copy, each field whole
    // In hundredths, from 1 on; 100 to begin with.
    void set_weight(int slot, uint32_t weight);
    // Adds `delta` to the live count.
    void correct(int slot, int64_t delta);

  private:
    std::span<drover_slot, DROVER_MAX_SLOTS> memory_;
    std::deque<int> free_;
};

constexpr uint32_t kKeeperWorker = UINT32_MAX;

}  // namespace drover::steer
