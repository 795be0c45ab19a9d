// SPDX-License-Identifier: MIT
//
// Going on with what another master left in the kernel: it was killed, or it became this one. The
// maps are taken as they are (programs.cc) and say who has which slot and what is counted; what
// they do not say is here.
#include <algorithm>

#include "steer/steering.h"

namespace drover::steer {

// What the maps do not say of the workers that live on. Their listeners are found by reconcile(),
// when there is somebody to be told.
Result<void> Steering::take_living() {
    std::set<uint32_t> ids;
    for (const LivingWorker& living : options_.living) {
        auto cgroup = Cgroup::open(living.cgroup);
        if (!cgroup) return tl::unexpected(cgroup.error());
        ids.insert(living.worker);
        (void)cgroup->freeze(false);  // the dead master may have been moving its queue
        our_cgroups_.insert(cgroup->id());
        Member member;
        member.slot = living.slot;
        member.instance = living.instance;
        member.cgroup = std::move(*cgroup);
        member.active = living.active;
        member.weight = living.weight;
        member.watch.stalled = living.stalled;
        members_.emplace(living.worker, std::move(member));
    }
    if (!options_.take_over) return {};
    slots_->keep_only(ids);
    programs_->untag_all_but(ids);
    programs_->unpin_all();  // nobody makes those connections any more
    return {};
}

void Steering::find_living() {
    reconcile();
    // A set in which nobody is left is written, too.
    for (const auto& [index, group] : groups_) write_set(index, group.active, group.weights);
    // Where the former master was looking, the program tells of nobody who waits. Who hung then is
    // well when it accepts something from now on.
    for (const auto& [worker, count] : counts())
        members_.at(worker).watch.accepted = count.accepted_total;
    watch_queues();
    programs_->stop_hurrying();
    options_.take_over = false;
    options_.keepers.clear();  // of groups that are gone
}

std::vector<int> Steering::keepers() const {
    std::vector<int> all;
    for (const auto& [index, group] : groups_)
        if (group.keeper.is_open()) all.push_back(group.keeper.get());
    return all;
}

bool Steering::is_calm() const {
    return std::ranges::none_of(members_,
                                [](const auto& entry) { return entry.second.rescue != nullptr; });
}

// Not open where none was inherited for that endpoint.
Fd Steering::inherited_keeper(const Endpoint& endpoint, bool v6only) {
    if (options_.keepers.empty()) return {};
    auto listening = list_sockets(kListening);
    if (!listening) return {};
    for (const Socket& socket : *listening) {
        if (!(socket.local == endpoint) || socket.v6only != v6only) continue;
        for (Fd& keeper : options_.keepers)
            if (keeper.is_open() && socket_cookie(keeper.get()) == socket.cookie)
                return std::move(keeper);
    }
    return {};
}

}  // namespace drover::steer
