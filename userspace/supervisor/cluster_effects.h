// SPDX-License-Identifier: MIT
//
// The supervisor's effects on a real cluster: processes, their cgroups, their output, and their
// place in steering. The only file that knows both the worker side and the steering side; each
// worker's numbers and resources stand side by side here.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/cgroup.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "base/paths.h"
#include "base/result.h"
#include "steer/pinned.h"
#include "steer/steering.h"
#include "steer/usage.h"
#include "supervisor/channels.h"
#include "supervisor/config.h"
#include "supervisor/effects.h"
#include "supervisor/shared_sockets.h"
#include "worker/notify.h"
#include "worker/output.h"
#include "worker/probe.h"
#include "worker/spawn.h"

namespace drover::supervisor {

class ClusterEffects : public Effects, private steer::Observer, private worker::NotifyObserver {
  public:
    // Loads steering, starts the logger. `config` is complete; the cluster's cgroup is made by the
    // caller. Errors as Steering::open and find_identity.
    // With a saved state: goes on with the workers in it that live (`saved` is left with these
    // alone).
    static Result<std::unique_ptr<ClusterEffects>> open(const Config& config, const Paths& paths,
                                                        EventLoop& loop,
                                                        SavedState* saved = nullptr,
                                                        std::vector<Fd> keepers = {});
    ~ClusterEffects() override;

    // Who is told what happens; set before the first spawn.
    void set_observer(WorkerObserver& observer) {
        observer_ = &observer;
        channels_->set_observer(observer);
    }

    // What is in the way of becoming another program now: a sentence; empty where nothing is.
    [[nodiscard]] std::string in_the_way() const;
    // Keeps the keepers open through an execve(), and gives back the limit that is the workers'.
    // Returns the keepers' numbers.
    std::vector<int> prepare_exec();
    void undo_prepare_exec();  // it has failed

    // Tells the observer where the workers that were taken over listen.
    void find_living() { steering_->find_living(); }

    // What another program of the user's is started with: environment, folder, identity, and how to
    // enter a cgroup.
    [[nodiscard]] worker::SpawnRequest helper_request() const;

    // For log::set_keeper: the master's own lines are kept with those of the workers.
    bool keep_log(log::Level level, std::string_view text);

    // Takes everything down: the logger has read all, then steering, pins and cgroups are removed.
    // `done` is called at the end.
    void close(std::function<void()> done);

    Result<Spawned> spawn(const SpawnOrder& order) override;
    void activate(WorkerId id) override;
    void deactivate(WorkerId id) override;
    bool is_drained(WorkerId id) override;
    Result<void> signal(WorkerId id, int number) override;
    Result<void> send(WorkerId id, const std::string& data, WorkerId from) override;
    void ask_to_finish(WorkerId id, std::chrono::milliseconds deadline) override;
    void probe(WorkerId id, const std::string& path, std::chrono::milliseconds timeout) override;
    void ask(WorkerId id, const std::string& path, Asked tell) override;
    void rescue(WorkerId id) override;
    void set_weight(WorkerId id, int weight) override;
    void kill(WorkerId id) override;
    void last_lines(WorkerId id, LastLines tell) override;
    void release(WorkerId id) override;
    [[nodiscard]] bool all_released() const override { return leaving_ == 0; }
    void refuse_connections() override;
    Result<void> set_policy(const PolicyChoice& policy) override;
    Numbers numbers() override;
    void save(SavedState state) override;

  private:
    // A look at whether a worker answers, and its connection.
    struct Look {
        std::optional<steer::PinnedConnection> connection;
        std::optional<worker::Probe> probe;
        EventLoop::Source on_failed;  // there was no connection to begin with
        uint64_t moved_before = 0;    // connections from its queue to other workers
        Asked tell;
    };
    struct Process {
        int instance = 0;
        int pid = 0;
        uint64_t started = 0;  // see start_of_process()
        int slot = 0;
        int channel_fd = -1;  // the number of the first of its channel's descriptors
        Fd pidfd;
        Fd exec_status;
        std::shared_ptr<const Config> config;
        worker::SpawnRequest request;
        Cgroup cgroup;
        std::optional<steer::Usage> usage;  // as of the last look
        bool leaving = false;
        bool is_node = false;  // it speaks Node's channel
        std::optional<std::chrono::steady_clock::time_point> idle_since;  // drained, see there
        int empty_looks = 0;                              // at whether its cgroup is empty
        std::map<uint64_t, std::unique_ptr<Look>> looks;  // that are under way
        EventLoop::Source on_end, on_exec_status, on_empty;
    };

    ClusterEffects(const Config& config, const Paths& paths, EventLoop& loop);

    // What the logger is told; fills in log_.
    std::string logger_settings();
    // The sockets of --listen: `kept` has them until the worker has its own copies.
    Result<void> add_listen_sockets(WorkerId id, worker::SpawnRequest& request,
                                    std::vector<Fd>& kept);
    // Where there is none yet; at that address, or a new one.
    Result<void> open_parts(SavedState* saved, std::vector<Fd> keepers);
    void undo_open();
    Result<void> open_notify_socket(const std::string& at = {});
    void drop_dead(SavedState& saved);
    void reap_later(int pid);
    Result<void> adopt(const SavedWorker& saved, std::shared_ptr<const Config> config);
    void adopt_channel(const SavedWorker& saved, const Process& process);
    void remove_cgroups(int looks, const std::function<void()>& done);
    Result<worker::SpawnRequest> request_for(const SpawnOrder& order);
    // The policy `shared`: one socket for all workers.
    [[nodiscard]] bool is_common() const { return config_.policy == Policy::shared; }
    void look(WorkerId id, const std::string& path, worker::Wants wants,
              std::chrono::milliseconds timeout, Asked tell);
    void end_look(WorkerId id, uint64_t number, Result<worker::ProbeAnswer> result);
    // Ends those that are under way: their askers are told why.
    void drop_looks(Process& process, const Error& why);
    void on_exec_status(WorkerId id);
    void on_end(WorkerId id);
    void look_whether_empty(WorkerId id);
    void look_at_usage();

    // worker::NotifyObserver
    void on_notify_ready(uint64_t worker) override;
    void on_notify_stopping(uint64_t worker) override;
    void on_notify_status(uint64_t worker, const std::string& text) override;
    void on_notify_watchdog(uint64_t worker) override;
    void on_notify_watchdog_interval(uint64_t worker, std::chrono::microseconds interval) override;

    // steer::Observer
    void on_listening(uint32_t worker, const steer::Endpoint& at, bool extra) override;
    void on_listener_closed(uint32_t worker, const steer::Endpoint& at) override;
    void on_conflict(uint32_t worker, const steer::Conflict& conflict) override;
    void on_denied(uint32_t worker, int option) override;
    void on_stalled(uint32_t worker, uint64_t queued) override;
    void on_recovered(uint32_t worker) override;
    void on_trouble(const std::string& text) override;

    Config config_;  // of the cluster as a whole; a worker has its own, which a reload may change
    Paths paths_;
    EventLoop& loop_;
    WorkerObserver* observer_ = nullptr;
    std::optional<worker::Identity> identity_;
    std::string log_;                      // where the lines go, as in Status
    bool enter_late_ = false;              // see sys::CgroupEntry
    std::optional<uint64_t> soft_nofile_;  // the master's own soft limit before it raised it
    Cgroup cluster_;
    Cgroup logger_cgroup_;
    std::unique_ptr<steer::Steering> steering_;
    std::unique_ptr<steer::UsageReader> usage_reader_;  // none: see there
    std::unique_ptr<worker::Output> output_;
    std::unique_ptr<worker::NotifySocket> notify_;  // with --ready notify
    std::unique_ptr<SharedSockets> sockets_;
    std::unique_ptr<Channels> channels_;
    std::map<WorkerId, Process> processes_;
    std::map<int, FormerWorkers> former_;  // by instance
    std::chrono::steady_clock::time_point usage_looked_at_{};
    uint64_t last_look_ = 0;
    int leaving_ = 0;
    SavedState saved_;          // the state as it was last written down
    bool save_failed_ = false;  // the last one was not
    EventLoop::Source on_save_again_;
    // Helpers of the master before this one (its logger, its controller): where they are children
    // of this process, too, somebody has to reap them.
    struct Heirloom {
        Fd pidfd;
        EventLoop::Source on_end;
    };
    std::list<Heirloom> heirlooms_;
    EventLoop::Source on_cluster_empty_;
};

}  // namespace drover::supervisor
