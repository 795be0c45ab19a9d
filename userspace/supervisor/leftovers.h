// SPDX-License-Identifier: MIT
//
// One master per cluster name, and what a master that was killed leaves behind.
//
// The lock is a file that the master keeps locked (flock): a dead master holds none. Its workers,
// pins and cgroups live on; they are found by the cluster's name, and can be ended.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/paths.h"
#include "base/result.h"

namespace drover::supervisor {

// Makes the cluster's run folder (root's alone) and locks it. Error "already-running" names the
// pid.
Result<Fd> lock_cluster(const Paths& paths, const std::string& cluster);

// Notes in the lock who has it, and how its workers are asked to end.
void sign_lock(const Fd& lock, int stop_signal);

// The run folder goes, with the lock in it.
void remove_run_folder(const Paths& paths, const std::string& cluster);

// The same where there is nothing in it but the lock.
void remove_new_run_folder(const Paths& paths, const std::string& cluster);

struct Leftovers {
    int master_pid = 0;     // the dead one; 0 where unknown
    int stop_signal = 15;   // that its workers expect
    std::vector<int> pids;  // of the workers that live on
    bool pins = false;      // steering goes on
    [[nodiscard]] bool any() const { return !pids.empty() || pins; }
    // A sentence, with the reason why they cannot be taken over.
    [[nodiscard]] std::string text(const std::string& cluster, const std::string& why) const;
};
// An error where it cannot be told who lives.
Result<Leftovers> find_leftovers(const Paths& paths, const std::string& cluster);

// Ends the workers (their stop signal, then SIGKILL after `patience`), detaches the programs,
// removes pins, cgroups and the run folder. The caller holds the lock. Blocks: for the command
// line.
Result<void> clean_leftovers(const Paths& paths, const std::string& cluster,
                             std::chrono::milliseconds patience);

}  // namespace drover::supervisor
