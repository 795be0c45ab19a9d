// SPDX-License-Identifier: MIT
//
// One queue for all, as far as it can be had: a connection that waits behind a long request goes to
// a worker that has become idle meanwhile.
//
// least-busy sees what is there at the moment of the SYN; that the request before it is a long one
// shows only later. So whenever it had to choose a worker that has connections already, the queues
// are looked at every other millisecond, until there are none. A queue that has not moved for a
// while is moved when another worker has nothing to do; one that has stood still for very long,
// when another is busy, too, but its queue has not stood for as long. The way is that of a stalled
// worker (rescue.cc), but nobody is called stalled.
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
// Where a move takes 3 to 8 ms, as after half a minute of such load (50,000 in TIME_WAIT):
//
//     none at all                                 p99 146 ms, median 4.6 ms
//     after 12 paces, for a twelfth               p99 139 ms, median 9.2 ms; all connections began
//                                                 2.3 ms late
//     the rest grows with the price's square      p99 150 ms, median 6.4 ms (one shared queue: 6.4)
//
// With Node workers and requests of 0.4 and 20 ms, moves after 5 ms cost more than they saved
// (p99 12 instead of 8 ms at 600/s): hence kLeastLong.
//
// A worker with idle keep-alive connections looks like a busy one at the SYN. Where a hurry turns
// out to be for nothing, the next one may come a little later, up to kLongestPause, and is over
// after one look.
#include <algorithm>
#include <ctime>
#include <limits>
#include <utility>

#include "steer/hurry.h"
#include "steer/steering.h"

namespace drover::steer {

namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
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
// After a move none follows for so many times as long as it took; if it had the port locked for
// longer than kCheap, for more.
constexpr int kRest = 50;
constexpr int kRestBeforeLong = 12;
constexpr nanoseconds kCheap{1'000'000};
constexpr nanoseconds kLongestRest = std::chrono::minutes(1);
constexpr milliseconds kLongestPause{256};

int64_t monotonic_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

nanoseconds rest_after(const MovePrice& price, int times) {
    double took = times * static_cast<double>(price.took.count());
    double dear = static_cast<double>(price.locked.count()) / kCheap.count();
    double rest = took * std::max(1.0, dear * dear);
    return nanoseconds(static_cast<int64_t>(std::min<double>(rest, kLongestRest.count())));
}

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
    if (hurried_looks_ < (hurry_pause_.count() == 0 ? kCalmLooks : 1)) {
        // Before the next move may be, there is nothing to be looked for.
        auto rested = relieved_at_ + rest_after(last_move_, kRestBeforeLong);
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

// What a look at all queues has shown.
struct Steering::Glance {
    bool waits = false;    // anything in any of them
    bool is_idle = false;  // a worker has nothing to do
    // The worker with a queue that has finished nothing for longest, and longer than usual; or 0.
    uint32_t slowest = 0;
    bool is_long = false;  // it has stood still for very long
    // For how long there has been something in the queue while its worker finished nothing, in ns:
    // the slowest one's, and the least of all.
    int64_t waited = 0;
    int64_t least_waited = std::numeric_limits<int64_t>::max();
};

// The kernel may refuse to let anybody look: then nothing waits.
Steering::Glance Steering::glance_at_queues() {
    Glance seen;
    if (!measure_queues()) return seen;
    int64_t now_ns = monotonic_ns(), longest = 0;
    for (auto& [worker, member] : members_) {
        auto queued_since = std::exchange(member.queued_since, 0);
        if (!member.active || member.rescue) continue;
        drover_slot slot = slots_->read(member.slot);
        seen.is_idle = seen.is_idle || slot.live <= 0;
        if (slot.queued == 0) {
            seen.least_waited = 0;
            continue;
        }
        seen.waits = true;
        member.queued_since = queued_since == 0 ? now_ns : queued_since;
        int64_t still = now_ns - static_cast<int64_t>(slot.progress_at);
        int64_t waited = std::min(still, now_ns - member.queued_since);
        seen.least_waited = std::min(seen.least_waited, waited);
        int64_t pace = 1024 * static_cast<int64_t>(slot.pace);
        if (still < std::max(kLeastStill, kPaces * pace) || still <= longest) continue;
        if (slot.progress_at == member.relieved_in) continue;  // it was tried
        longest = still;
        seen.slowest = worker;
        seen.is_long = still > std::max(kLeastLong, kLongPaces * pace);
        seen.waited = waited;
    }
    return seen;
}

// Moves the queue of the worker that has stood still for longest, if that is worth it. Returns
// whether anything waits.
bool Steering::relieve_one() {
    Glance seen = glance_at_queues();
    bool is_worth_it = seen.is_idle || (seen.is_long && seen.least_waited < seen.waited);
    int rest = seen.is_long ? kRestBeforeLong : kRest;
    bool has_rested = steady_clock::now() >= relieved_at_ + rest_after(last_move_, rest);
    if (seen.slowest == 0 || !is_worth_it || !has_rested) return seen.waits;
    Member& member = members_.at(seen.slowest);
    member.relieved_in = slots_->read(member.slot).progress_at;
    hurry_helped_ = true;
    last_move_ = {};
    rescue(seen.slowest, [this](const Result<uint64_t>&) { relieved_at_ = steady_clock::now(); });
    return true;
}

}  // namespace drover::steer
