// SPDX-License-Identifier: MIT
//
// Who may get new connections, and how many: the active sets, with what the policies read beside
// them (the schedule by weight, the table of the policy `source`).
#include <algorithm>

#include "steer/maglev.h"
#include "steer/schedule.h"
#include "steer/steering.h"

namespace drover::steer {

namespace {

constexpr std::chrono::milliseconds kWarmUpStep{100};     // of slow start
constexpr uint32_t kColdWeight = DROVER_WEIGHT_ONE / 10;  // at its begin

}  // namespace

void Steering::update_active_sets() {
    for (const auto& [index, group] : groups_) update_active_set(index);
}

// Wanted: the slots of active workers that have a steered listener in the group. There may be no
// such group: it could not be made when its listener was adopted.
void Steering::update_active_set(uint32_t index) {
    auto found = groups_.find(index);
    if (found == groups_.end()) return;
    Group& group = found->second;
    std::vector<uint16_t> wanted;
    std::vector<uint32_t> weights;
    for (auto& [worker, member] : members_) {
        if (!member.active || member.rescue) continue;
        bool listens = std::ranges::any_of(member.listeners, [index](const auto& entry) {
            return entry.second.steered && entry.second.group == index;
        });
        if (!listens) continue;
        wanted.push_back(static_cast<uint16_t>(member.slot));
        weights.push_back(weight_now(member));
    }
    if (wanted == group.active && weights == group.weights) return;
    bool was_empty = group.active.empty();
    group.active = wanted;
    group.weights = weights;
    write_set(index, wanted, weights);
    // Whoever waited for a worker gets one now.
    if (was_empty) move_keeper_queue(group);
}

// What the policies take from: the slots, the schedule, and for `source` the table.
void Steering::write_set(uint32_t index, const std::vector<uint16_t>& active,
                         const std::vector<uint32_t>& weights) {
    std::vector<Share> shares;
    for (size_t i = 0; i < active.size(); i++) {
        slots_->set_weight(active[i], weights[i]);
        shares.push_back({active[i], weights[i]});
    }
    auto schedule = make_schedule(shares, DROVER_MAX_TURNS - 1);
    write_active_set(programs_->groups()[index], active, schedule, [&](uint32_t half) {
        if (options_.policy != DROVER_POLICY_SOURCE) return;
        std::vector<MaglevMember> places;
        for (const auto& [worker, member] : members_)
            for (const Share& share : shares)
                if (share.slot == member.slot)
                    places.push_back(
                        {static_cast<uint32_t>(member.instance), share.slot, share.weight});
        programs_->write_source_table(index, half,
                                      build_maglev(std::move(places), DROVER_SOURCE_TABLE_SIZE));
    });
}

// A worker that was just activated begins with a tenth of its weight.
uint32_t Steering::weight_now(Member& member) const {
    uint32_t full = member.weight * DROVER_WEIGHT_ONE;
    if (!member.warm_since) return full;
    auto since = std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::steady_clock::now() - *member.warm_since);
    if (since >= options_.slow_start) {
        member.warm_since.reset();
        return full;
    }
    auto share = static_cast<uint64_t>(since.count()) * full /
                 static_cast<uint64_t>(options_.slow_start.count());
    return std::max(static_cast<uint32_t>(share), member.weight * kColdWeight);
}

void Steering::warm_up() {
    update_active_sets();
    bool more = std::ranges::any_of(
        members_, [](const auto& entry) { return entry.second.warm_since.has_value(); });
    on_warm_up_.reset();
    if (more) on_warm_up_ = loop_.after(kWarmUpStep, [this] { warm_up(); });
}

void Steering::set_weight(uint32_t worker, uint32_t weight) {
    auto found = members_.find(worker);
    if (found == members_.end()) return;
    found->second.weight = weight;
    update_active_sets();
}

Result<void> Steering::set_policy(drover_policy policy, const std::string& file) {
    if (policy == DROVER_POLICY_CUSTOM) {
        if (auto set = programs_->set_custom_policy(file); !set) return set;
        options_.policy = policy;
        return {};
    }
    options_.policy = policy;
    // The tables first, then who reads them.
    if (policy == DROVER_POLICY_SOURCE)
        for (const auto& [index, group] : groups_) write_set(index, group.active, group.weights);
    programs_->set_policy(policy);
    return {};
}

}  // namespace drover::steer
