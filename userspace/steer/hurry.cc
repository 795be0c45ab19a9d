// SPDX-License-Identifier: MIT
//
// One queue for all, as far as it can be had: a connection that waits behind a long request goes to
// a worker that has become idle meanwhile.
//
// least-busy sees what is there at the moment of the SYN; that the request before it is a long one
// shows only later. So whenever it had to choose a worker that has connections already, the queues
// are looked at every other millisecond, until there are none. A queue that has not moved for a
// while is moved when another worker has nothing to do; one that has stood still for very long,
// whatever the others do. The way is that of a stalled worker (rescue.cc), but nobody is called
// stalled.
//
// Once for each request that is waited for, and for a part of the time at most. For a move has a
// price: in listen() the kernel looks through all sockets of the port, those in TIME_WAIT too, and
// lets no connection begin meanwhile (1 ms with some ten thousand of them). Where nobody is idle
// that is capacity which nobody has, so it must be worth it. Measured at 90 % load, with 8 workers
// and requests of 2 and 120 ms, p99 of the short ones:
//
//     only to an idle worker                                             137–147 ms
//     after  4 paces, for a twentieth of the time                        112–167
//     after 12 paces, for a twelfth                                      90–160
//     the same, who comes later is moved as well                         97–188
//     after 24 paces, for a twentieth                                    108–210
//     as soon as another worker comes to it sooner than it stood still   as the first; the median
//                                                                        grew from 4 to 30 ms
//
// With Node workers and requests of 0.4 and 20 ms, moves after 5 ms cost more than they saved
// (p99 12 instead of 8 ms at 600/s): hence kLeastLong.
//
// A worker with idle keep-alive connections looks like a busy one at the SYN. Where a hurry turns
// out to be for nothing, the next one may come a little later, up to kLongestPause.
#include <algorithm>
#include <ctime>

#include "steer/steering.h"

namespace drover::steer {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kLook{2};
// A queue stands still when its worker has finished nothing for that many times its usual pace, and
// for so many ns.
constexpr int64_t kPaces = 2;
constexpr int64_t kLeastStill = 2'000'000;
// For very long.
constexpr int64_t kLongPaces = 12;
constexpr int64_t kLeastLong = 20'000'000;
constexpr int kCalmLooks = 3;
// After a move none follows for so many times as long as it took.
constexpr int kRest = 50;
constexpr int kRestBeforeLong = 12;
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
        // Before the next move may be, there is nothing to be looked for.
        auto rested = relieved_at_ + kRestBeforeLong * move_took_;
        auto until = std::chrono::ceil<milliseconds>(rested - steady_clock::now());
        on_hurry_ = loop_.after(std::max(kLook, until), [this] { look_hurriedly(); });
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

// Moves the queue of the worker that has stood still for longest, if that is worth it. Returns
// whether anything waits.
bool Steering::relieve_one() {
    uint32_t groups = 0, slots = 0;
    for (const auto& [index, group] : groups_) groups |= 1u << index;
    for (const auto& [worker, member] : members_)
        slots = std::max(slots, static_cast<uint32_t>(member.slot) + 1);
    if (!programs_->measure(groups, slots)) return false;
    int64_t now_ns = monotonic_ns();
    bool waits = false, idle = false, is_long = false;
    uint32_t slowest = 0;
    int64_t longest = 0;
    for (const auto& [worker, member] : members_) {
        if (!member.active || member.rescue) continue;
        drover_slot slot = slots_->read(member.slot);
        int64_t still = now_ns - static_cast<int64_t>(slot.progress_at);
        int64_t usual = kPaces * 1024 * static_cast<int64_t>(slot.pace);
        idle = idle || slot.live <= 0;
        if (slot.queued == 0) continue;
        waits = true;
        if (still < std::max(kLeastStill, usual) || still <= longest) continue;
        if (slot.progress_at == member.relieved_in) continue;  // it was tried
        longest = still;
        slowest = worker;
        is_long = still > std::max(kLeastLong, kLongPaces * 1024 * static_cast<int64_t>(slot.pace));
    }
    bool has_rested =
        steady_clock::now() >= relieved_at_ + (is_long ? kRestBeforeLong : kRest) * move_took_;
    if (slowest == 0 || !(idle || is_long) || !has_rested) return waits;
    Member& member = members_.at(slowest);
    member.relieved_in = slots_->read(member.slot).progress_at;
    hurry_helped_ = true;
    move_took_ = {};
    rescue(slowest, [this](const Result<uint64_t>&) { relieved_at_ = steady_clock::now(); });
    return true;
}

}  // namespace drover::steer
