// SPDX-License-Identifier: MIT
//
// What the supervisor may do (Effects), and what happens to workers (WorkerObserver). The real ones
// are in cluster_effects.cc; unit tests inject their own.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "supervisor/config.h"
#include "supervisor/saved_state.h"
#include "supervisor/types.h"
#include "worker/probe.h"

namespace drover::supervisor {

struct Spawned {
    int pid = 0;
    int slot = 0;
};

struct SpawnOrder {
    WorkerId id = 0;
    int instance = 0;
    int generation = 1;
    int workers = 1;  // how many the cluster has
    std::shared_ptr<const Config> config;
};

struct WorkerNumbers {
    std::optional<uint64_t> live;
    std::optional<uint64_t> queued;
    std::optional<uint64_t> accepted_total;
    uint64_t cpu_ms_total = 0;
    uint64_t memory_bytes = 0;
    uint64_t log_dropped_total = 0;
};

struct GroupNumbers {
    std::string addr;
    int port = 0;
    bool v6only = false;
    std::vector<WorkerId> active;
    uint64_t parked = 0;
    Decisions decisions = {};
};

struct Numbers {
    std::map<WorkerId, WorkerNumbers> workers;
    std::vector<GroupNumbers> groups;
    std::map<int, FormerWorkers> former;  // by instance
    Decisions decisions;
    uint64_t corrections_total = 0;
    uint64_t moved_total = 0;
    std::string log;  // as in Status
};

// None of these calls the WorkerObserver back before it returns.
class Effects {
  public:
    virtual ~Effects() = default;

    // Starts a worker's process. What happens to it arrives at the WorkerObserver.
    virtual Result<Spawned> spawn(const SpawnOrder& order) = 0;
    // New connections may go to it / go to it no longer.
    virtual void activate(WorkerId id) = 0;
    virtual void deactivate(WorkerId id) = 0;
    // After deactivate: nothing of it is being served or about to be.
    virtual bool is_drained(WorkerId id) = 0;
    virtual Result<void> signal(WorkerId id, int number) = 0;  // to its main process
    // Over the worker's channel. Errors: "queue-full", "closed", "no-channel".
    virtual Result<void> send(WorkerId id, const std::string& data, WorkerId from) = 0;
    // Asks it, where it has a channel, to finish its work; it has until the deadline.
    virtual void ask_to_finish(WorkerId id, std::chrono::milliseconds deadline) = 0;
    // Looks whether it answers: on_probed tells. `path` empty: that it takes a connection; else
    // that it answers an HTTP request for it. One at a time. Error "moved": another worker may have
    // answered.
    virtual void probe(WorkerId id, const std::string& path, std::chrono::milliseconds timeout) = 0;
    // Asks it for the path: told once. Whatever HTTP status it answers with is an answer.
    using Asked = std::function<void(Result<worker::ProbeAnswer>)>;
    virtual void ask(WorkerId id, const std::string& path, Asked tell) = 0;
    // Moves the connections that wait for it to the other workers: on_rescued tells.
    virtual void rescue(WorkerId id) = 0;
    virtual void set_weight(WorkerId id, int weight) = 0;  // its share: 1 to 100
    virtual void kill(WorkerId id) = 0;                    // all its processes
    // The last lines that it printed, at most 20; also of one that has ended a moment ago. Called
    // once, at once or a little later; with none where they cannot be had.
    using LastLines = std::function<void(const std::vector<std::string>& lines)>;
    virtual void last_lines(WorkerId id, LastLines tell) = 0;
    // Its main process has ended: ends what is left of its tree, frees its slot, cgroup and pipes.
    virtual void release(WorkerId id) = 0;
    // True when every release is complete.
    virtual bool all_released() const = 0;
    // The cluster ends: new connections are refused from now on, not parked.
    virtual void refuse_connections() = 0;
    // Where it cannot be used the former one stays. Errors: "usage", "bad-policy".
    virtual Result<void> set_policy(const PolicyChoice& policy) = 0;
    virtual Numbers numbers() = 0;
    // Writes down where the cluster is, for a later master; what is of the processes is filled in.
    virtual void save(SavedState state) = 0;
};

class WorkerObserver {
  public:
    virtual ~WorkerObserver() = default;
    virtual void on_exec(WorkerId id) = 0;
    virtual void on_exec_failed(WorkerId id, const Error& error) = 0;  // an exit follows
    virtual void on_listening(WorkerId id, const ListeningData& at, bool extra) = 0;
    virtual void on_listener_closed(WorkerId id, const ListeningData& at) = 0;
    virtual void on_exit(WorkerId id, const Exit& how) = 0;  // `how.reason` is not filled in
    virtual void on_conflict(WorkerId id, const ConflictData& conflict) = 0;
    // Over its channel or by sd_notify: it is ready.
    virtual void on_ready_message(WorkerId id) = 0;
    virtual void on_status_text(WorkerId id, const std::string& text) = 0;  // by sd_notify
    // Over its channel: a message / it takes no more of them.
    virtual void on_message(WorkerId id, const std::string& data, worker::Address to) = 0;
    virtual void on_disconnect(WorkerId id) = 0;
    virtual void on_probed(WorkerId id, const Result<void>& result) = 0;
    // By sd_notify: it is alive / asks for a watchdog of that interval / ends by itself.
    virtual void on_alive(WorkerId id) = 0;
    virtual void on_watchdog_interval(WorkerId id, std::chrono::milliseconds interval) = 0;
    virtual void on_stopping(WorkerId id) = 0;
    virtual void on_load(WorkerId id, double value) = 0;  // over its channel
    // Connections wait for it and it takes none, told again while it is so / it takes them again.
    virtual void on_stalled(WorkerId id, uint64_t queued) = 0;
    virtual void on_recovered(WorkerId id) = 0;
    virtual void on_rescued(WorkerId id, const Result<uint64_t>& moved) = 0;
    virtual void on_released() = 0;  // a release is complete
    // Something went wrong that no worker's state shows; `id` 0: of no worker.
    virtual void on_trouble(WorkerId id, const ErrorData& error) = 0;
};

}  // namespace drover::supervisor
