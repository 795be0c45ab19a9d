// SPDX-License-Identifier: MIT
//
// Steering's numbers: what they are now, and whether they still agree with the kernel.
//
// The programs' counts are exact by construction; reconciliation is the proof, and the repair
// should the proof ever fail. Corrections are counted; zero is expected.
#include <algorithm>
#include <chrono>
#include <unordered_map>
#include <utility>

#include "steer/steering.h"

namespace drover::steer {

using std::chrono::steady_clock;

namespace {

// What a slot's counts say of a worker while that many wait for it.
WorkerCounts worker_counts(const drover_slot& slot, uint64_t queued) {
    WorkerCounts count;
    count.queued = queued;
    count.live = std::max<int64_t>(slot.live, 0);
    uint64_t came = slot.established_total + slot.moved_in_total;
    uint64_t left = slot.moved_out_total + queued;
    count.accepted_total = came > left ? came - left : 0;
    return count;
}

}  // namespace

int64_t Steering::live(uint32_t worker) const {
    auto found = members_.find(worker);
    return found == members_.end() ? 0 : slots_->read(found->second.slot).live;
}

uint64_t Steering::accepted_total(uint32_t worker) const {
    auto found = members_.find(worker);
    if (found == members_.end()) return 0;
    drover_slot slot = slots_->read(found->second.slot);
    uint64_t came = slot.established_total + slot.moved_in_total - slot.moved_out_total;
    return std::max(found->second.most_accepted, came);
}

uint64_t Steering::moved_from(uint32_t worker) const {
    auto found = members_.find(worker);
    return found == members_.end() ? 0 : slots_->read(found->second.slot).moved_out_total;
}

Steering::Queues Steering::read_queues() {
    Queues queued;
    if (auto sockets = list_sockets(kListening))
        for (const Socket& socket : *sockets) queued[socket.cookie] = socket.queued;
    return queued;
}

Steering::Slots Steering::read_slots() const {
    Slots slots;
    for (const auto& [worker, member] : members_) slots[worker] = slots_->read(member.slot);
    return slots;
}

std::map<uint32_t, WorkerCounts> Steering::counts() const {
    Slots slots = read_slots();
    return counts(slots, read_queues());
}

std::map<uint32_t, WorkerCounts> Steering::counts(const Slots& slots, const Queues& queued) const {
    std::map<uint32_t, WorkerCounts> counts;
    for (const auto& [worker, member] : members_) {
        uint64_t waiting = 0;
        for (const auto& [cookie, listener] : member.listeners)
            if (auto found = queued.find(cookie); found != queued.end()) waiting += found->second;
        WorkerCounts& count = counts[worker] = worker_counts(slots.at(worker), waiting);
        // Who comes or is moved between the two looks is seen by one of them alone. A total that
        // fell for a moment would be taken for one that began anew, and all of it for new.
        member.most_accepted = std::max(member.most_accepted, count.accepted_total);
        count.accepted_total = member.most_accepted;
    }
    return counts;
}

bool Steering::measure_queues() {
    uint32_t groups = 0, slots = 0;
    for (const auto& [index, group] : groups_) groups |= 1u << index;
    for (const auto& [worker, member] : members_)
        slots = std::max(slots, static_cast<uint32_t>(member.slot) + 1);
    return programs_->measure(groups, slots);
}

// Not one that took the place of another of its worker's: the programs know it by its cookie alone.
bool Steering::can_measure_all() const {
    std::map<uint32_t, drover_listener_row> rows;
    for (const auto& [index, group] : groups_) rows[index] = programs_->listener_row(index);
    return std::ranges::all_of(members_, [&](const auto& entry) {
        const Member& member = entry.second;
        return std::ranges::all_of(member.listeners, [&](const auto& cookie_and_listener) {
            const Listener& listener = cookie_and_listener.second;
            auto row = rows.find(listener.group);
            if (!listener.steered || row == rows.end()) return false;
            uint64_t seen = row->second.socks[member.slot];
            return seen != 0 && (seen & DROVER_LISTENER_CLOSED) == 0;
        });
    });
}

std::map<uint32_t, WorkerCounts> Steering::quick_counts() {
    if (!can_measure_all() || !measure_queues()) return counts();
    std::map<uint32_t, WorkerCounts> counts;
    for (const auto& [worker, member] : members_) {
        drover_slot slot = slots_->read(member.slot);
        counts[worker] = worker_counts(slot, slot.queued);
    }
    return counts;
}

Snapshot Steering::snapshot() const {
    Slots slots = read_slots();
    Queues queued = read_queues();
    Snapshot snapshot;
    snapshot.workers = counts(slots, queued);
    uint32_t indices = used_groups_.empty() ? 0 : *used_groups_.rbegin() + 1;
    auto reasons = programs_->decisions(indices);
    for (const auto& [index, group] : groups_) {
        GroupState state{group.endpoint, group.v6only, {}, 0, reasons[index]};
        for (uint16_t slot : group.active) state.active.push_back(slots_->owner(slot));
        if (auto found = queued.find(group.keeper_cookie); found != queued.end())
            state.parked = found->second;
        snapshot.groups.push_back(std::move(state));
    }
    Totals& totals = snapshot.totals;
    for (uint32_t index : used_groups_)
        for (size_t reason = 0; reason < totals.reasons.size(); reason++)
            totals.reasons[reason] += reasons[index][reason];
    totals.corrections = corrections_;
    totals.moved = programs_->totals().moves_total;
    totals.events_lost = programs_->totals().events_lost_total;
    return snapshot;
}

void Steering::reconcile() {
    // Their queues were moved long ago.
    for (uint64_t cookie : std::exchange(closed_, {})) programs_->forget_listener(cookie);
    if (auto listening = list_sockets(kListening)) rescan(*listening);
    ensure_groups();
    move_parked();  // in case the event that asked for it was lost
    if (claim_ports()) correct_counts_when_due();
    retire_idle_groups();
    // A worker of the same user could have detached the program before the guard saw it, through a
    // socket that it got from elsewhere. To attach again costs nothing and changes nothing else.
    for (auto& [index, group] : groups_)
        if (group.keeper.is_open()) (void)programs_->attach_steering(group.keeper.get());
}

// Finds what an event that was lost would have told.
void Steering::rescan(const std::vector<Socket>& listening) {
    auto worker_of = workers_by_cgroup();
    std::set<uint64_t> present;
    for (const Socket& socket : listening) {
        present.insert(socket.cookie);
        auto worker = worker_of.find(socket.cgroup_id);
        auto index = programs_->group_index(socket.local);
        if (worker == worker_of.end() || !index) continue;
        auto slot = static_cast<uint32_t>(members_.at(worker->second).slot);
        bool steered = programs_->listener_cookie(*index, slot) == socket.cookie;
        adopt(worker->second, socket.cookie, Listener{socket.local, *index, steered, {}});
    }
    std::vector<std::pair<uint32_t, uint64_t>> gone;
    for (const auto& [worker, member] : members_)
        for (const auto& [cookie, listener] : member.listeners)
            if (!present.contains(cookie)) gone.emplace_back(worker, cookie);
    for (const auto& [worker, cookie] : gone) on_close(worker, cookie);
}

uint64_t Steering::live_changes(int slot) const {
    drover_slot counts = slots_->read(slot);
    return counts.established_total + counts.closed_total + counts.moved_in_total +
           counts.moved_out_total;
}

// For the list of connections the kernel goes through all sockets of the machine, those in
// TIME_WAIT too: with 200,000 of them it takes 75 ms. So it is asked for the more seldom the longer
// that takes.
void Steering::correct_counts_when_due() {
    constexpr int kRest = 500;  // times as long: 0.2 % of the master's time
    constexpr std::chrono::minutes kLongestRest{5};
    auto began = steady_clock::now();
    if (began < counts_due_) return;
    correct_counts();
    auto ended = steady_clock::now();
    counts_due_ = ended + std::min<steady_clock::duration>(kRest * (ended - began), kLongestRest);
}

// A difference seen while connections come and go may be the time between the two looks. So it is
// believed only when nothing changed between them, and only when the next round shows the same.
void Steering::correct_counts() {
    std::map<int, uint64_t> before;
    for (const auto& [worker, member] : members_) before[member.slot] = live_changes(member.slot);
    auto sockets = list_sockets(kLive);
    if (!sockets) return;

    std::unordered_map<uint64_t, drover_tag> moved;
    if (programs_->totals().moves_total > 0)
        for (const auto& entry : programs_->moved()) moved[entry.cookie] = entry.tag;
    auto worker_of = workers_by_cgroup();
    std::map<int, int64_t> truth;
    for (const Socket& socket : *sockets) {
        if (!ownership_.owns(socket.local.port())) continue;  // the worker's own client side
        if (auto elsewhere = moved.find(socket.cookie); elsewhere != moved.end())
            truth[static_cast<int>(elsewhere->second.slot)]++;
        else if (auto home = worker_of.find(socket.cgroup_id); home != worker_of.end())
            truth[members_.at(home->second).slot]++;
    }
    for (const auto& [slot, changes] : before) {
        int64_t difference = truth[slot] - slots_->read(slot).live;
        Drift& drift = drift_[slot];
        bool quiet = live_changes(slot) == changes;
        if (!quiet) continue;
        drift.rounds = difference != 0 && difference == drift.last ? drift.rounds + 1 : 0;
        drift.last = difference;
        if (difference == 0 || drift.rounds == 0) continue;
        slots_->correct(slot, difference);
        corrections_ += static_cast<uint64_t>(std::abs(difference));
        drift = {};
    }
}

// A group whose workers have all closed their listener by their own choice, while they listen
// elsewhere, is over: its keeper would let clients wait for ever. A group whose workers are being
// replaced is not: then nobody is active anywhere.
void Steering::retire_idle_groups() {
    constexpr int kRounds = 2;
    bool somebody_serves = std::ranges::any_of(
        groups_, [](const auto& entry) { return !entry.second.active.empty(); });
    for (auto entry = groups_.begin(); entry != groups_.end();) {
        Group& group = entry->second;
        uint32_t index = entry->first;
        bool listened = std::ranges::any_of(members_, [index](const auto& member) {
            return std::ranges::any_of(member.second.listeners, [index](const auto& listener) {
                return listener.second.group == index;
            });
        });
        group.idle_rounds = listened || !somebody_serves ? 0 : group.idle_rounds + 1;
        if (group.idle_rounds < kRounds) {
            ++entry;
            continue;
        }
        programs_->drop_group(group.endpoint, index);
        entry = groups_.erase(entry);
    }
}

}  // namespace drover::steer
