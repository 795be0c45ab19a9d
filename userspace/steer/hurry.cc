// SPDX-License-Identifier: MIT
//
// One queue for all, as far as it can be had: connections that wait behind a long request go to
// workers that come to them sooner.
//
// least-busy sees what is there at the moment of the SYN; that the request before it is a long one
// shows only later. So whenever it had to choose a worker that has connections already, the queues
// are looked at every other millisecond, until there are none. A queue that stands still is moved;
// the way is that of a stalled worker (rescue.cc), but nobody is called stalled.
//
// When is that worth it? How long the request will still take nobody knows. The longer it has
// taken, the longer it probably will: so a queue is moved as soon as another worker would be
// through with all that it has in less time than this one has stood still. At low load that is at
// once, near the limit of capacity, where all queues are long, later, and in overload hardly ever.
// What comes there nevertheless, behind the same request, is moved when it has stood for twice as
// long.
//
// A worker with idle keep-alive connections looks like a busy one at the SYN. Where a hurry turns
// out to be for nothing, the next one may come a little later, up to kLongestPause.
#include <algorithm>
#include <cstdint>
#include <ctime>

#include "steer/steering.h"

namespace drover::steer {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLook{2};
// A queue stands still when its worker has finished nothing for that many times its usual pace, and
// for so many ns.
constexpr int64_t kPaces = 2;
constexpr int64_t kLeastStill = 2'000'000;
constexpr int kCalmLooks = 3;
constexpr milliseconds kLongestPause{256};

int64_t monotonic_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

void Steering::hurry() {
    if (on_hurry_.is_active()) return;
    hurried_looks_ = 0;
    hurry_helped_ = false;
    on_hurry_ = loop_.after(kLook, [this] { look_hurriedly(); });
}

void Steering::look_hurriedly() {
    bool waits = relieve_one();
    hurried_looks_ = waits ? 0 : hurried_looks_ + 1;
    on_hurry_.reset();
    if (hurried_looks_ < kCalmLooks) {
        on_hurry_ = loop_.after(kLook, [this] { look_hurriedly(); });
        return;
    }
    hurry_pause_ = hurry_helped_ ? milliseconds(0)
                                 : std::clamp(hurry_pause_ * 2, milliseconds(1), kLongestPause);
    if (hurry_pause_.count() == 0) return programs_->stop_hurrying();
    on_hurry_ = loop_.after(hurry_pause_, [this] {
        on_hurry_.reset();
        programs_->stop_hurrying();
    });
}

// Moves the queue of the worker that has stood still for longest, if another one comes to it
// sooner. Returns whether anything waits.
bool Steering::relieve_one() {
    uint32_t groups = 0, slots = 0;
    for (const auto& [index, group] : groups_) groups |= 1u << index;
    for (const auto& [worker, member] : members_)
        slots = std::max(slots, static_cast<uint32_t>(member.slot) + 1);
    if (!programs_->measure(groups, slots)) return false;
    int64_t now_ns = monotonic_ns();
    bool waits = false;
    uint32_t slowest = 0;
    int64_t longest = 0, soonest = INT64_MAX;
    for (const auto& [worker, member] : members_) {
        if (!member.active || member.rescue) continue;
        drover_slot slot = slots_->read(member.slot);
        int64_t live = std::max<int64_t>(slot.live, 0);
        int64_t pace = 1024 * static_cast<int64_t>(slot.pace);
        int64_t still = now_ns - static_cast<int64_t>(slot.progress_at);
        bool stands = live > 0 && still >= std::max(kLeastStill, kPaces * pace);
        if (!stands && (live == 0 || pace > 0)) soonest = std::min(soonest, live * pace);
        if (slot.queued == 0) continue;
        waits = true;
        bool is_tried = slot.progress_at == member.relieved_in && still < 2 * member.relieved_after;
        if (!stands || is_tried || still <= longest) continue;
        longest = still;
        slowest = worker;
    }
    if (slowest == 0 || soonest > longest) return waits;
    Member& member = members_.at(slowest);
    member.relieved_in = slots_->read(member.slot).progress_at;
    member.relieved_after = longest;
    hurry_helped_ = true;
    rescue(slowest, [](const Result<uint64_t>&) {});
    return true;
}

}  // namespace drover::steer
