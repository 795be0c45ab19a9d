// SPDX-License-Identifier: MIT
//
// What a master writes down of itself with each change, so that a later one can go on where it was
// killed: state.json in the cluster's run folder, root's alone. The maps in the kernel have the
// rest (slots, counts, groups), and the cgroups the processes.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/paths.h"
#include "base/result.h"
#include "supervisor/config.h"
#include "supervisor/types.h"

namespace drover::supervisor {

struct SavedWorker {
    WorkerId id = 0;
    int instance = 0;
    int generation = 1;
    bool is_ready = false;  // it had connections, or may have them
    bool is_held = false;
    bool is_leaving = false;    // it was being drained, or only tried
    int64_t started_at_ms = 0;  // since 1970
    // Of its process.
    int pid = 0;
    uint64_t pid_started = 0;  // as in /proc/PID/stat: another process with that pid is not it
    int slot = 0;
    bool is_node = false;  // the kind of its channel
    int channel_fd = -1;  // number of the first of its channel's descriptors; -1: it has no channel
    bool is_unhealthy = false;
    bool is_out = false;  // of the active set, for that
    bool is_stalled = false;
    bool operator==(const SavedWorker&) const = default;
};

struct SavedInstance {
    int instance = 0;
    int generation = 1;
    int weight = 1;
    uint64_t restarts_total = 0;
    FormerWorkers former = {};
    bool operator==(const SavedInstance&) const = default;
};

struct SavedState {
    std::map<int, Config> releases;  // by generation
    int stable = 1;
    std::optional<int> trial;
    bool is_canary = false;
    std::optional<int> former;
    int last_generation = 1;
    WorkerId last_id = 0;
    bool is_drained = false;  // load balancers are told to send no more
    std::string policy;
    std::string notify_address;  // "" where there is none
    std::vector<SavedInstance> instances;
    std::vector<SavedWorker> workers;
    bool operator==(const SavedState&) const = default;
};

// To text and back; pure. Errors: "unusable", also for a state of another version of drover's maps.
std::string to_text(const SavedState& state);
Result<SavedState> parse_saved_state(const std::string& text);

// Replaces the file as a whole.
Result<void> save_state(const Paths& paths, const std::string& cluster, const SavedState& state);
// Error "unusable" where there is none, or none that can be used; the text says why.
Result<SavedState> load_state(const Paths& paths, const std::string& cluster);

// The configuration that the cluster has, with what was changed by hand: the number of workers and
// the policy. Pure.
Config config_of(const SavedState& saved);

// What somebody who runs the cluster anew wants otherwise than it was.
struct Changes {
    Config before;  // what it was, and still is
    std::optional<PolicyChoice> policy;
    std::optional<int> workers;
    std::optional<Config> release;  // for a reload
};
// Pure. Error "usage": it cannot be had otherwise while its workers live; the option is named.
Result<Changes> changes_since(const SavedState& saved, const Config& wanted);

// When the process was started, in the kernel's ticks since its boot; 0 where there is none.
uint64_t start_of_process(int pid);

}  // namespace drover::supervisor
