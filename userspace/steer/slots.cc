// SPDX-License-Identifier: MIT
#include "steer/slots.h"

#include <algorithm>
#include <atomic>

namespace drover::steer {

namespace {

template <class T>
void store(T& place, T value) {
    std::atomic_ref<T>(place).store(value, std::memory_order_release);
}

template <class T>
T load(const T& place) {
    return std::atomic_ref<T>(const_cast<T&>(place)).load(std::memory_order_acquire);
}

}  // namespace

void write_active_set(drover_group& group, std::span<const uint16_t> slots,
                      std::span<const uint16_t> schedule,
                      const std::function<void(uint32_t half)>& also) {
    uint32_t version = load(group.current) + 1;
    if (version == 0) version = 2;  // 0 means "being written"; the other half's parity stays
    drover_active_set& set = group.sets[version & 1];
    store<uint32_t>(set.version, 0);
    std::atomic_thread_fence(std::memory_order_seq_cst);  // nothing below may show before it
    auto count = static_cast<uint32_t>(std::min<size_t>(slots.size(), DROVER_KEEPER_SLOT));
    for (uint32_t i = 0; i < count; i++) set.slots[i] = slots[i];
    auto turns = static_cast<uint32_t>(std::min<size_t>(schedule.size(), DROVER_MAX_TURNS - 1));
    for (uint32_t i = 0; i < turns; i++) set.schedule[i] = schedule[i];
    also(version & 1);
    store(set.turns, turns);
    store(set.count, count);
    store(set.version, version);
    store(group.current, version);
}

std::vector<uint16_t> read_active_set(const drover_group& group) {
    const drover_active_set& set = group.sets[load(group.current) & 1];
    return {set.slots, set.slots + load(set.count)};
}

SlotTable::SlotTable(std::span<drover_slot, DROVER_MAX_SLOTS> memory) : memory_(memory) {
    for (int slot = 0; slot < static_cast<int>(DROVER_KEEPER_SLOT); slot++)
        if (owner(slot) == 0) free_.push_back(slot);
}

Result<int> SlotTable::take(uint32_t worker) {
    if (free_.empty()) return fail("no-slot", "all slots are taken: too many workers at once");
    int slot = free_.front();
    free_.pop_front();
    memory_[slot] = drover_slot{};
    memory_[slot].weight = DROVER_WEIGHT_ONE;
    store(memory_[slot].worker, worker);
    return slot;
}

void SlotTable::give_back(int slot) {
    store<uint32_t>(memory_[slot].worker, 0);
    free_.push_back(slot);
}

void SlotTable::keep_only(const std::set<uint32_t>& workers) {
    for (int slot = 0; slot < static_cast<int>(DROVER_KEEPER_SLOT); slot++)
        if (owner(slot) != 0 && !workers.contains(owner(slot))) give_back(slot);
}

void SlotTable::take_keeper_slot() {
    store<uint32_t>(memory_[DROVER_KEEPER_SLOT].worker, kKeeperWorker);
}

uint32_t SlotTable::owner(int slot) const {
    return load(memory_[slot].worker);
}

drover_slot SlotTable::read(int slot) const {
    const drover_slot& from = memory_[slot];
    drover_slot copy{};
    copy.live = load(from.live);
    copy.established_total = load(from.established_total);
    copy.moved_in_total = load(from.moved_in_total);
    copy.moved_out_total = load(from.moved_out_total);
    copy.closed_total = load(from.closed_total);
    copy.worker = load(from.worker);
    copy.weight = load(from.weight);
    copy.progress_at = load(from.progress_at);
    copy.queued = load(from.queued);
    copy.pace = load(from.pace);
    return copy;
}

void SlotTable::set_weight(int slot, uint32_t weight) {
    store(memory_[slot].weight, static_cast<uint16_t>(weight));
}

void SlotTable::correct(int slot, int64_t delta) {
    std::atomic_ref<long long>(memory_[slot].live).fetch_add(delta);
}

}  // namespace drover::steer
