// SPDX-License-Identifier: MIT
//
// Who owns a port. A port belongs to one cluster per network namespace.
//
// Two things protect it, because a second server of the same user would join the reuseport group
// silently: a lock file per port (against other clusters that are starting) and a look at the
// kernel's listeners (against everything else, clusters whose master has died included).
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "steer/endpoint.h"

namespace drover::steer {

struct Conflict {
    int port = 0;
    int pid = 0;            // 0 where unknown
    std::string command;    // of that pid
    std::string text;       // the sentence: port, pid, command, what to do
    bool may_pass = false;  // nobody else's: it could not be made ours just now
};

// Whose listener takes connections meant for one at `at`: the first whose cgroup is not ours. An
// unspecified address overlaps all. Nothing where there is none, or where the kernel does not tell.
std::optional<Conflict> find_conflict(const Endpoint& at,
                                      const std::function<bool(uint64_t cgroup_id)>& is_ours);

class PortOwnership {
  public:
    // Locks are files in `folder`, which is made when needed; they name `cluster`.
    PortOwnership(std::string folder, std::string cluster);
    ~PortOwnership();

    // Makes the port ours. Listeners whose cgroup `is_ours` do not count against it; others do
    // where their address overlaps `at` (an unspecified address overlaps all).
    tl::expected<void, Conflict> claim(const Endpoint& at,
                                       const std::function<bool(uint64_t cgroup_id)>& is_ours);
    // Gives all ports up and removes the locks, and the folder if no other cluster has one.
    void release();
    [[nodiscard]] bool owns(int port) const { return locks_.contains(port); }

  private:
    tl::expected<void, Conflict> lock(int port);

    std::string folder_;
    std::string cluster_;
    std::map<int, Fd> locks_;
};

// Removes the locks that a master which was killed left behind: those that nobody holds.
void remove_stale_locks(const std::string& folder);

// True where a listener at `b` would get connections meant for one at `a`. Pure.
bool overlaps(const Endpoint& a, const Endpoint& b);

}  // namespace drover::steer
