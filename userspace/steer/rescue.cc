// SPDX-License-Identifier: MIT
//
// Workers that hang: seen by their queues, and relieved of them.
//
// A worker is stalled when connections wait for it and it has taken none for a while. How many it
// has taken so far is known without its help: those that were established for it less those that
// still wait. Nobody looks while nothing comes: the steering program tells of the first
// connection, and then the queues are looked at until they have been empty for a while.
//
// Its queue is moved to the others as a dying worker's is, by a shutdown() of its listener; but it
// lives, and must not call accept() just then (it would fail). So it is frozen for that moment.
//
// Whether it is well again? It has nothing to accept any more. So it is given one connection of the
// master's own, and is well when it has taken that.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <unordered_map>

#include "steer/queue.h"
#include "steer/steering.h"

namespace drover::steer {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kFreezeDeadline{50};
constexpr milliseconds kShortestLook{10};
constexpr milliseconds kLongestLook{250};
constexpr int kCalmLooks = 2;  // without any queue, until nobody looks any more

}  // namespace

// --- Taking a queue away -------------------------------------------------------------------------

void Steering::rescue(uint32_t worker, Rescued done) {
    auto found = members_.find(worker);
    if (found == members_.end())
        return done(fail("no-such-worker", fmt::format("no worker {}", worker)));
    Member& member = found->second;
    if (member.rescue)
        return done(fail("bad-state", fmt::format("worker {} is being relieved already", worker)));
    if (!has_others(worker))
        return done(fail("bad-state", fmt::format("no other worker can take the connections that "
                                                  "wait for worker {}",
                                                  worker)));
    member.rescue = std::make_unique<Rescue>();
    Rescue& rescue = *member.rescue;
    rescue.done = std::move(done);
    update_active_sets();  // or what is moved could come back
    if (auto frozen = member.cgroup.freeze(true); !frozen)
        return finish_rescue(worker, tl::unexpected(frozen.error()));
    rescue.events = member.cgroup.open_events();
    rescue.on_event = loop_.on_io(rescue.events.get(), EPOLLPRI, [this, worker](uint32_t) {
        auto it = members_.find(worker);
        if (it == members_.end()) return;
        std::array<char, 256> seen{};  // to be told of the next change
        [[maybe_unused]] auto size =
            ::pread(it->second.rescue->events.get(), seen.data(), seen.size(), 0);
        if (it->second.cgroup.is_frozen()) move_worker_queue(worker);
    });
    rescue.on_late = loop_.after(kFreezeDeadline, [this, worker] {
        finish_rescue(worker, fail("not-frozen", fmt::format("worker {} could not be stopped "
                                                             "within {} ms: its queue stays",
                                                             worker, kFreezeDeadline.count())));
    });
}

// Whether in each of its groups somebody else is active.
bool Steering::has_others(uint32_t worker) const {
    const Member& member = members_.at(worker);
    return std::ranges::all_of(groups_, [&](const auto& entry) {
        const auto& [index, group] = entry;
        bool listens = std::ranges::any_of(member.listeners, [index = index](const auto& listener) {
            return listener.second.group == index;
        });
        return !listens || std::ranges::any_of(group.active,
                                               [&](uint16_t slot) { return slot != member.slot; });
    });
}

// A duplicate of one of its listeners. Where it is, is looked up once: the kernel's list of sockets
// takes half a millisecond.
Result<Fd> Steering::borrow_listener(Member& member, uint64_t cookie) {
    SocketPlace& place = member.listeners.at(cookie).place;
    if (Fd known = borrow_again(place, cookie); known.is_open()) return known;
    auto sockets = list_sockets(kListening);
    if (!sockets) return tl::unexpected(sockets.error());
    for (const Socket& socket : *sockets)
        if (socket.cookie == cookie) return borrow_socket(member.cgroup, socket.inode, place);
    return fail("closed", "the listener has just been closed");
}

// Everything of the worker stands still.
void Steering::move_worker_queue(uint32_t worker) {
    auto begin = steady_clock::now();
    MovePrice price;
    Member& member = members_.at(worker);
    uint64_t before = slots_->read(member.slot).moved_out_total;
    Result<void> moved;
    for (auto& [cookie, listener] : member.listeners) {
        auto socket = borrow_listener(member, cookie);
        if (!socket) {
            if (socket.error().code != "closed") moved = tl::unexpected(socket.error());
            continue;
        }
        auto queue = queue_length(socket->get());
        if (queue.waiting == 0) continue;
        relistened_.insert(cookie);
        if (auto locked = move_queue(socket->get(), queue.backlog); locked)
            price.locked += *locked;
        else
            moved = tl::unexpected(locked.error());
    }
    // That the listeners closed and listened again is nobody's business.
    serve_events();
    relistened_.clear();
    price.took = steady_clock::now() - begin;
    last_move_ = price;
    if (!moved) return finish_rescue(worker, tl::unexpected(moved.error()));
    finish_rescue(worker, slots_->read(member.slot).moved_out_total - before);
}

void Steering::finish_rescue(uint32_t worker, Result<uint64_t> moved) {
    auto found = members_.find(worker);
    if (found == members_.end() || !found->second.rescue) return;
    (void)found->second.cgroup.freeze(false);
    auto over = std::move(found->second.rescue);
    update_active_sets();
    over->done(std::move(moved));
}

// --- Seeing that somebody hangs ------------------------------------------------------------------

void Steering::watch_queues() {
    if (options_.stall_after.count() == 0) return;
    // Also where the last look is still to come: it would be the last one for ever.
    calm_looks_ = 0;
    if (on_watch_.is_active()) return;
    // What was seen when somebody last looked says nothing about now.
    for (auto& [worker, member] : members_) member.watch.moved_at = steady_clock::now();
    look_at_queues();
}

void Steering::look_at_queues() {
    std::vector<std::pair<uint32_t, uint64_t>> stalled;
    std::vector<uint32_t> recovered;
    bool calm = true;
    auto now = steady_clock::now();
    for (const auto& [worker, count] : quick_counts()) {
        Member& member = members_.at(worker);
        Watch& watch = member.watch;
        if (count.queued == 0 || count.accepted_total != watch.accepted) watch.moved_at = now;
        bool accepts = count.accepted_total != watch.accepted;
        watch.accepted = count.accepted_total;
        if (count.queued > 0 || watch.stalled) calm = false;
        if (watch.stalled && accepts) {
            recovered.push_back(worker);
        } else if (watch.stalled && !member.rescue) {
            uint64_t own = watch.canary ? 1 : 0;
            if (count.queued > own) stalled.emplace_back(worker, count.queued - own);
            if (count.queued == 0) send_canary(worker);
        } else if (!watch.stalled && now - watch.moved_at >= options_.stall_after) {
            stalled.emplace_back(worker, count.queued);
        }
    }
    for (const auto& [worker, queued] : stalled) {
        members_.at(worker).watch.stalled = true;
        observer_.on_stalled(worker, queued);
    }
    for (uint32_t worker : recovered) {
        members_.at(worker).watch.stalled = false;
        members_.at(worker).watch.canary.reset();
        observer_.on_recovered(worker);
    }
    calm_looks_ = calm ? calm_looks_ + 1 : 0;
    on_watch_.reset();
    // From here on the program tells of the next one; what came before is seen by one more look.
    if (calm_looks_ == kCalmLooks) programs_->stop_watching();
    if (calm_looks_ > kCalmLooks) return;
    auto pause = std::clamp(options_.stall_after / 4, kShortestLook, kLongestLook);
    on_watch_ = loop_.after(pause, [this] {
        on_watch_.reset();
        look_at_queues();
    });
}

// A connection that goes to this worker, whether it is active or not.
void Steering::send_canary(uint32_t worker) {
    Watch& watch = members_.at(worker).watch;
    watch.canary.reset();
    auto connection = connect_to(worker, std::nullopt);
    if (connection) watch.canary.emplace(std::move(*connection));
}

}  // namespace drover::steer
