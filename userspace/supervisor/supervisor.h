// SPDX-License-Identifier: MIT
//
// START HERE for the control path.
//
// The supervisor keeps N instances supplied with a worker each. What happens to a worker arrives as
// calls (on_exec, on_listening, on_exit, timers); the table in lifecycle.cc says what follows; the
// actions are carried out through Effects, and what happened is told to the Observer. It knows
// neither BPF nor processes, so that it is tested without either.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "supervisor/config.h"
#include "supervisor/effects.h"
#include "supervisor/health.h"
#include "supervisor/lifecycle.h"
#include "supervisor/restart.h"
#include "supervisor/rollout.h"
#include "supervisor/types.h"

namespace drover::supervisor {

// Told of everything that happens, in order.
class Observer {
  public:
    virtual ~Observer() = default;
    virtual void on_event(const Event& event) = 0;
};

// Called once when a verb is done: at once, or later.
using Done = std::function<void(Result<void>)>;

class Supervisor : public WorkerObserver {
  public:
    Supervisor(Config config, EventLoop& loop, Effects& effects, Observer& observer);
    ~Supervisor() override;

    // Starts all workers. When the cluster is over (stopped, or every instance failed), `over` is
    // called with the exit status.
    void start(std::function<void(int)> over);

    // Goes on where a master was killed, with the workers that live; then as start().
    void take_over(const SavedState& saved, std::function<void(int)> over);

    // Nouns.
    [[nodiscard]] Status status() const;
    [[nodiscard]] bool is_stopping() const { return stopping_; }
    // What is served, with the policy and the number of workers of now.
    [[nodiscard]] Config config() const;
    // The last 1,000; fewer where messages among them hold more than 2 MiB.
    [[nodiscard]] const std::deque<Event>& recent_events() const;

    // Verbs. `worker` empty: all of the cluster. Error codes: no-such-worker, bad-state, bad-value.
    void stop(std::optional<WorkerId> worker, Done done);     // drain, then end; done when gone
    void restart(std::optional<WorkerId> worker, Done done);  // done when the new ones are ready
    void scale(int workers, Done done);                       // done when all are ready or gone
    // Held: no new connections; done when none is left. Without a worker: load balancers are told
    // to send no more, but the cluster serves on.
    void drain(std::optional<WorkerId> worker, Done done);
    void resume(std::optional<WorkerId> worker, const Done& done);  // takes that away
    // Asks just that worker for the path.
    void probe(WorkerId worker, const std::string& path, Effects::Asked done);
    // Its share of new connections against the others', 1 to 100; its instance keeps it.
    void weight(WorkerId worker, int weight, const Done& done);
    // Moves what waits for the worker to the others. Errors: as Steering::rescue.
    void rescue(WorkerId worker, Done done);
    void signal(std::optional<WorkerId> worker, int number, const Done& done);
    // Replaces each instance's worker by one of the changed configuration: the new one first, and
    // when it is well the old one is drained. Done when all are replaced; with a canary, when its
    // instances are. A cluster with a configuration file reads it anew, and then gets the policy
    // and the number of workers that have changed in it, too. Errors: usage, bad-state,
    // reload-failed (then the workers that have not been replaced serve on, and the text has the
    // reason and the new one's last lines).
    void reload(const ReloadRequest& request, Done done);
    // The same to a configuration as a whole.
    void reload_as(Config config, Done done);
    // Whether it stands still enough for another program to go on with it. Error "bad-state".
    [[nodiscard]] Result<void> may_be_upgraded() const;
    void promote(Done done);    // the canary's release to the other instances too
    void roll_back(Done done);  // back to the release before the canary, or before the last reload
    void policy(const PolicyChoice& policy, const Done& done);
    // A message of the master's to one worker or to all, JSON text. All get it or an error says who
    // did not.
    void send(std::optional<WorkerId> worker, const std::string& data, const Done& done);
    // A second SIGINT or SIGTERM: no drain any more, kill.
    void stop_now();

    // WorkerObserver
    void on_exec(WorkerId id) override;
    void on_exec_failed(WorkerId id, const Error& error) override;
    void on_listening(WorkerId id, const ListeningData& at, bool extra) override;
    void on_listener_closed(WorkerId id, const ListeningData& at) override;
    void on_exit(WorkerId id, const Exit& how) override;
    void on_conflict(WorkerId id, const ConflictData& conflict) override;
    void on_ready_message(WorkerId id) override;
    void on_status_text(WorkerId id, const std::string& text) override;
    void on_message(WorkerId id, const std::string& data, worker::Address to) override;
    void on_disconnect(WorkerId id) override;
    void on_probed(WorkerId id, const Result<void>& result) override;
    void on_alive(WorkerId id) override;
    void on_watchdog_interval(WorkerId id, std::chrono::milliseconds interval) override;
    void on_stopping(WorkerId id) override;
    void on_load(WorkerId id, double value) override;
    void on_stalled(WorkerId id, uint64_t queued) override;
    void on_recovered(WorkerId id) override;
    void on_rescued(WorkerId id, const Result<uint64_t>& moved) override;
    void on_released() override;
    void on_trouble(WorkerId id, const ErrorData& error) override;

  private:
    // A configuration, and the number of the reload that brought it. Its workers are of that
    // generation.
    struct Release {
        int generation = 1;
        std::shared_ptr<const Config> config;
    };
    struct Worker {
        WorkerId id = 0;
        int instance = 0;
        Release release;
        // A replacement that gets no connections yet: its instance has another worker until this
        // one has shown that it is well (rollouts.cc).
        bool is_candidate = false;
        double jitter = 0;  // see WorkerAge
        State state = State::starting;
        std::optional<int> pid;
        std::optional<int> slot;
        std::multiset<std::pair<std::string, int>> endpoints;  // listened on: address, port
        bool held = false;
        std::optional<SteadyTime> stalled_since;
        bool is_being_relieved = false;
        std::vector<Done> rescues;  // that were asked for by hand: they wait for the same end
        bool exec_failed = false;
        bool conflict = false;
        bool fault_may_pass = false;    // another try is worth it
        std::string fault;              // the sentence of exec_failed or conflict
        bool said_ready = false;        // over its channel
        bool signalled = false;         // the stop signal was sent
        bool stops_itself = false;      // it said so
        bool is_probed = false;         // a probe is under way
        bool is_being_checked = false;  // and it is a health check
        Health health;
        bool is_out = false;       // of the active set, because it is unhealthy
        bool is_replaced = false;  // another has taken its place already
        // What drover ended it for; crash where it did not.
        ExitReason ending = ExitReason::crash;
        bool replace_after = false;                             // drover ends it to start another
        std::string reason;                                     // why it is in its state
        std::string status_text;                                // its own word for what it does
        std::optional<double> load;                             // as it last reported
        std::optional<std::chrono::milliseconds> own_watchdog;  // the interval that it wished for
        WallTime started_at;
        SteadyTime spawned;
        std::optional<SteadyTime> ready_since;
        std::optional<WallTime> retry_at;
        std::chrono::milliseconds retry_delay{};
        EventLoop::Source ready_timer, drain_timer, stop_timer, retry_timer, probe_timer,
            watchdog_timer, stall_timer, settle_timer, check_timer;

        [[nodiscard]] const Config& config() const { return *release.config; }
    };
    struct Instance {
        Release release;  // what its next worker is started with
        RestartHistory history;
        uint64_t restarts_total = 0;
        int weight = 1;
        std::optional<Exit> last_exit;
    };
    // A rollout that is under way.
    enum class Goal { reload, canary, promote, roll_back, recycle };
    struct Running {
        Goal goal{};
        Rollout plan;
        std::optional<Release> to;  // nothing: what each instance has
        ExitReason reason{};        // of the workers that are replaced
        std::string why;            // likewise, a sentence
        Done done;
        bool is_settled = false;  // its first worker has shown that the release is well
        std::optional<std::string> failure = {};
        std::vector<std::string> last_lines = {};  // of the candidate that failed
        bool has_failed = false;                   // and its other candidates have been ended
    };
    struct Pending {
        std::function<bool()> reached;
        Done done;
    };

    // Applies the table to the worker and carries out what it says.
    void apply(WorkerId id, Trigger trigger, const std::string& reason = "");
    void carry_out(WorkerId id, Action action);
    void spawn(int instance);  // of the instance's release
    void spawn(int instance, const Release& release, bool is_candidate);
    void check_ready(Worker& worker);
    void probe_until_ready(Worker& worker);
    void start_watchdog(WorkerId id);
    void start_stall_timer(Worker& worker);
    void relieve(Worker& worker);
    [[nodiscard]] bool may_serve(const Worker& worker) const;
    [[nodiscard]] bool others_serve(WorkerId id) const;  // besides that one
    void end_worker(WorkerId id, ExitReason why, bool replace_after, const std::string& reason);
    void remove_if_not_wanted(WorkerId id);
    void start_drain_watch();
    void check_drained();
    void next_restart();
    void save();
    void take_worker(const SavedWorker& saved, const std::map<int, Release>& releases);

    // Health checks: health_checks.cc.
    void start_checks(Worker& worker);
    void plan_check(Worker& worker);
    void check(WorkerId id);
    void on_checked(Worker& worker, const Result<void>& result);
    [[nodiscard]] Census census() const;
    [[nodiscard]] bool counts_for_health(const Worker& worker) const;
    void choose_who_is_out(const std::string& why);
    void replace_if_unhealthy(Worker& worker, const std::string& why);
    void give_candidate_up(Worker& candidate, const std::string& why);

    void begin_stop();
    void drain_cluster(const Done& done);
    void resume_cluster(const Done& done);

    // Rollouts: rollouts.cc.
    void start_rollout(Running&& running);
    void advance_rollout();
    void start_candidate(int instance);
    void settle_candidate(Worker& candidate);
    void take_over(Worker& candidate);
    void candidate_failed(WorkerId id, int instance, const std::string& reason);
    void fail_rollout(const std::vector<std::string>& last_lines);
    void end_rollout();
    void finish_rollout(Running&& over);
    void drop_rollouts();
    void add_to_rollout(int instance);
    void drop_from_rollout(int instance);
    void look_for_due();
    void recycle_due();
    void tell_reload(const Running& running, ReloadPhase phase, const Worker* worker = nullptr,
                     const std::string& error = "");
    [[nodiscard]] std::vector<int> instances_not_of(int generation) const;
    void reload_by_file(const Config& base, const ReloadRequest& request, Done done);
    void roll_out(Config config, const ReloadRequest& request, Done done);
    [[nodiscard]] Result<void> may_roll_out() const;
    [[nodiscard]] Result<void> busy() const;
    [[nodiscard]] std::string failure_text(const Running& failed) const;
    [[nodiscard]] bool has_candidate(const Worker& worker) const;
    [[nodiscard]] std::string candidate_text(const Worker& candidate) const;
    void when(std::function<bool()> reached, Done done);
    void settle();  // after each change: pending verbs, the end of the cluster
    void finish_if_over();
    void tell(EventKind kind, const Worker* worker, EventData data = {});
    [[nodiscard]] Worker* find(WorkerId id);
    [[nodiscard]] Worker* current(int instance);
    [[nodiscard]] Instance& instance_of(const Worker& worker);
    [[nodiscard]] std::set<int> ports_of(const Worker& worker) const;
    [[nodiscard]] std::set<int> ports_of_ready() const;
    [[nodiscard]] bool is_steady() const;  // no instance is on its way to another state
    [[nodiscard]] Result<void> no_such_worker(WorkerId id) const;

    Config config_;
    EventLoop& loop_;
    Effects& effects_;
    Observer& observer_;
    std::function<void(int)> over_;
    std::map<WorkerId, Worker> workers_;
    std::map<int, Instance> instances_;  // 0 … wanted − 1
    Instance scaled_away_;
    std::deque<int> restart_queue_;  // instances that wait for their turn of `restart`
    std::optional<int> restarting_;
    std::deque<Event> recent_;
    size_t recent_bytes_ = 0;
    std::vector<Pending> pending_;
    uint64_t last_seq_ = 0;
    WorkerId last_id_ = 0;
    Release stable_;                 // what is served, but for what a rollout has replaced already
    std::optional<Release> trial_;   // a canary, or what is left of a reload that failed
    bool is_canary_ = false;         // the trial is one
    std::optional<Release> former_;  // what was served before the last reload: for a rollback
    int last_generation_ = 1;
    std::optional<Running> rollout_;
    std::optional<Running> next_rollout_;  // waits until a recycle is over
    EventLoop::Source on_due_;
    bool all_fail_was_told_ = false;  // that all workers are unhealthy
    bool is_drained_ = false;         // load balancers are told to send no more
    SteadyTime drained_since_{};
    EventLoop::Source leave_timer_;  // a stop is announced, and connections are still taken
    bool stopping_ = false;
    bool finished_ = false;
    bool is_dirty_ = false;      // something has changed that is written down
    bool spawn_failed_ = false;  // the last one that was to be started
    bool settling_ = false;
    int exit_status_ = 0;
    std::minstd_rand random_{std::random_device{}()};
    EventLoop::Source drain_watch_;
    EventLoop::Source soon_;
};

}  // namespace drover::supervisor
