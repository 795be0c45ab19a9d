// SPDX-License-Identifier: MIT
//
// Steering: the façade of this folder, and all that the rest of drover sees of BPF.
//
// It keeps the maps in step with the workers. What it wants: a slot per worker, a group per address
// and port with a keeper in it, and in each group's active set the slots that were activated and
// listen there. What happens arrives from the programs (a worker binds, listens, closes), and what
// the supervisor must know is told to the Observer.
//
// It decides nothing about workers' lives, and touches no connection.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/cgroup.h"
#include "base/event_loop.h"
#include "base/paths.h"
#include "base/result.h"
#include "steer/diag.h"
#include "steer/endpoint.h"
#include "steer/hurry.h"
#include "steer/pinned.h"
#include "steer/ports.h"
#include "steer/programs.h"
#include "steer/queue.h"
#include "steer/slots.h"

namespace drover::steer {

class Observer {
  public:
    virtual ~Observer() = default;
    // The worker's socket listens and is in its slot; `extra`: it is the worker's second one at the
    // same endpoint and gets no traffic until the first closes.
    virtual void on_listening(uint32_t worker, const Endpoint& endpoint, bool extra) = 0;
    // The worker no longer listens at the endpoint.
    virtual void on_listener_closed(uint32_t worker, const Endpoint& endpoint) = 0;
    // The port that the worker binds belongs to somebody else.
    virtual void on_conflict(uint32_t worker, const Conflict& conflict) = 0;
    // The worker tried to attach or detach a reuseport program and got EPERM.
    virtual void on_denied(uint32_t worker, int option) = 0;
    // Connections wait for it and it has taken none for `stall_after`: told again and again while
    // some wait / it takes them again.
    virtual void on_stalled(uint32_t worker, uint64_t queued) = 0;
    virtual void on_recovered(uint32_t worker) = 0;
    // Something could not be done; steering goes on as well as it can.
    virtual void on_trouble(const std::string& text) = 0;
};

struct NamedPort {
    int number = 0;
    std::string address;  // empty: any
};

// A worker of a master that was killed. Its slot, counts and listeners are in the maps.
struct LivingWorker {
    uint32_t worker = 0;
    int slot = 0;
    int instance = 0;
    std::string cgroup;  // path
    bool active = false;
    uint32_t weight = 1;
    bool stalled = false;
};

struct Options {
    std::string cluster;
    drover_policy policy = DROVER_POLICY_LEAST_BUSY;
    std::string policy_file;  // of DROVER_POLICY_CUSTOM
    uint32_t source_prefix_v4 = 32;
    uint32_t source_prefix_v6 = 64;
    std::chrono::milliseconds slow_start{0};   // from activation to the full weight
    std::chrono::milliseconds stall_after{0};  // 0: nobody is called stalled
    std::vector<NamedPort> ports;              // empty: every port that the workers bind
    uid_t uid = 0;            // of the workers, for keepers made before the first listens
    int backlog = 0;          // of keepers; 0: as much as the system allows
    bool enter_late = false;  // see sys::CgroupEntry
    // Goes on with what a dead master left in the kernel, and with these; else begins anew.
    bool take_over = false;
    std::vector<LivingWorker> living;
    std::vector<Fd> keepers;  // of a master that became this one: each goes on in its group
};

struct WorkerCounts {
    int64_t live = 0;
    uint64_t queued = 0;
    uint64_t accepted_total = 0;
};

struct GroupState {
    Endpoint endpoint;
    bool v6only = false;
    std::vector<uint32_t> active;  // worker ids
    uint64_t parked = 0;
    ReasonCounts reasons = {};
};

struct Totals {
    ReasonCounts reasons = {};  // of all groups that there ever were
    uint64_t corrections = 0;
    uint64_t moved = 0;
    uint64_t events_lost = 0;
};

struct Snapshot {
    std::map<uint32_t, WorkerCounts> workers;
    std::vector<GroupState> groups;
    Totals totals;
};

class Steering {
  public:
    // Loads and attaches everything, makes the keepers of ports named with an address. Error codes:
    // "bpf", "conflict" (a named port is taken), "system", and of the user's own policy "usage" and
    // "bad-policy".
    static Result<std::unique_ptr<Steering>> open(Options options, const Paths& paths,
                                                  const Cgroup& cluster, EventLoop& loop,
                                                  Observer& observer);
    ~Steering();

    // A slot for a worker that is about to start in the cgroup. Its replacement has the same
    // instance. Returns the slot.
    Result<int> add_worker(uint32_t worker, int instance, const Cgroup& cgroup);
    // Its processes are gone.
    void remove_worker(uint32_t worker);

    // New connections may go to it, at every endpoint where it listens, now and later. Connections
    // that were parked are moved to it.
    void activate(uint32_t worker);
    void deactivate(uint32_t worker);
    [[nodiscard]] bool is_active(uint32_t worker) const;
    // After deactivate(): true when no connection is left that was, or is still about to be, the
    // worker's: none live or queued, and every handshake that was under way is done or gone.
    [[nodiscard]] bool is_drained(uint32_t worker);

    // A TCP socket that is the worker's as if it had made it itself: bound, or with a backlog of 0
    // or more listening. For workers that are given their sockets. Error number EADDRINUSE: the
    // port is taken; where by somebody else's listener, the observer is told of the conflict first.
    Result<Fd> make_worker_socket(uint32_t worker, const Endpoint& at, bool v6only, int backlog);
    // One TCP socket for all workers, which nobody steers: bound, or with a backlog of 0 or more
    // listening. Errors as above.
    Result<Fd> make_shared_socket(uint32_t worker, const Endpoint& at, bool v6only, int backlog);
    // A port that is free at that address now.
    Result<int> free_port(const Endpoint& at, bool v6only);

    // Moves the connections that wait for the worker to the others. It is frozen meanwhile, for a
    // millisecond or so, and gets no new ones. `done` is told how many were moved. Errors:
    // "no-such-worker", "bad-state" (no other worker is active), "not-frozen" (it could not be
    // stopped in time, and nothing was done), "system".
    using Rescued = std::function<void(Result<uint64_t> moved)>;
    void rescue(uint32_t worker, Rescued done);

    // A connection to that worker and no other, at the port, or where none is given at the lowest
    // one that it listens on. Error "not-listening". Must end before this object.
    Result<PinnedConnection> connect_to(uint32_t worker, std::optional<int> port);

    // How many connections have gone from its queue to other workers.
    [[nodiscard]] uint64_t moved_from(uint32_t worker) const;

    // From now on new connections are refused instead of parked when no worker is active: the
    // cluster ends.
    void refuse_when_idle();

    // `file` is that of DROVER_POLICY_CUSTOM. Where it cannot be used ("usage", "bad-policy") the
    // former policy stays.
    Result<void> set_policy(drover_policy policy, const std::string& file);
    // Its share of new connections, against the other workers' (1 to begin with); 1 to 100.
    void set_weight(uint32_t worker, uint32_t weight);

    // What the programs reported and was not served yet. Before a worker's exit is judged, so that
    // the conflict it died of is known first.
    void serve_events();

    [[nodiscard]] int64_t live(uint32_t worker) const;  // no system call
    // Counts of all workers, with queues as the kernel has them now.
    [[nodiscard]] std::map<uint32_t, WorkerCounts> counts() const;
    // All there is, for the same few system calls, however many workers there are.
    [[nodiscard]] Snapshot snapshot() const;
    // Of a worker that has ended, until remove_worker(); no system call.
    [[nodiscard]] uint64_t accepted_total(uint32_t worker) const;

    // With Options::take_over: finds the listeners of the workers that live on, and tells of them.
    void find_living();

    // The keepers' sockets; lent.
    [[nodiscard]] std::vector<int> keepers() const;
    // Whether no queue is being moved: no worker is frozen then.
    [[nodiscard]] bool is_calm() const;

    // Compares with the kernel's truth; called by itself every few seconds.
    void reconcile();

    // Detaches everything, removes pins and locks, closes the keepers.
    void close();

  private:
    static constexpr std::chrono::seconds kReconcileEvery{5};

    struct Listener {
        Endpoint endpoint;
        uint32_t group = 0;
        bool steered = false;
        SocketPlace place;  // where it was last found
    };
    // A queue that is being taken from its worker.
    struct Rescue {
        Rescued done;
        Fd events;
        EventLoop::Source on_event, on_late;
    };
    // What is known of a worker's progress.
    struct Watch {
        uint64_t accepted = 0;
        std::chrono::steady_clock::time_point moved_at =
            std::chrono::steady_clock::now();  // when it last took one, or none waited
        bool stalled = false;
        std::optional<PinnedConnection> canary;
    };
    struct Member {
        int slot = 0;
        int instance = 0;
        Cgroup cgroup;
        bool active = false;
        uint32_t weight = 1;
        std::optional<std::chrono::steady_clock::time_point> warm_since;  // while it warms up
        std::map<uint64_t, Listener> listeners;                           // by cookie
        std::unique_ptr<Rescue> rescue;
        Watch watch;
        uint64_t relieved_in = 0;  // the progress_at in which its queue was last moved away
        mutable uint64_t most_accepted = 0;  // that was told
        int64_t queued_since = 0;  // the first of the hurried looks that have all seen a queue; ns
        std::set<uint64_t> handshakes;  // that were under way at deactivate(), by cookie
    };
    struct Group {
        Endpoint endpoint;
        bool v6only = false;
        Fd keeper;
        uint64_t keeper_cookie = 0;
        std::vector<uint16_t> active;
        std::vector<uint32_t> weights;  // of the active ones, in hundredths
        bool was_listened = false;      // by a worker, ever
        int idle_rounds = 0;
    };
    // What one look at the live connections saw, to tell drift from traffic.
    struct Drift {
        int64_t last = 0;
        int rounds = 0;
    };

    Steering(Options options, EventLoop& loop, Observer& observer, const Paths& paths);

    Result<void> take_living();
    Result<void> open_named_ports();
    [[nodiscard]] bool is_ours(uint64_t cgroup_id) const;
    [[nodiscard]] std::map<uint64_t, uint32_t> workers_by_cgroup() const;
    void on_event(const drover_event& event);
    void on_bind(const drover_event& event);
    void on_listen(const drover_event& event);
    void on_close(uint32_t worker, uint64_t cookie);
    void adopt(uint32_t worker, uint64_t cookie, const Listener& listener);
    void promote(uint32_t worker, const Listener& closed);
    void drop_unused_groups(const Endpoint& chosen);
    bool ensure_group(const Listener& listener, uint64_t cookie, bool tell);
    void ensure_groups();
    bool own_port(uint32_t worker, const Endpoint& endpoint);
    tl::expected<void, Conflict> claim_port(const Endpoint& endpoint);
    bool claim_ports();  // of all groups; whether all are ours
    Result<void> set_up_group(uint32_t index, const Endpoint& endpoint, bool v6only, uid_t uid);
    Fd inherited_keeper(const Endpoint& endpoint, bool v6only);
    void update_active_set(uint32_t index);
    void update_active_sets();
    void write_set(uint32_t index, const std::vector<uint16_t>& active,
                   const std::vector<uint32_t>& weights);
    [[nodiscard]] uint32_t weight_now(Member& member) const;
    void warm_up();
    void move_keeper_queue(Group& group);
    void move_parked();
    [[nodiscard]] int keeper_backlog() const;
    [[nodiscard]] uint64_t live_changes(int slot) const;
    void rescan(const std::vector<Socket>& listening);
    void correct_counts_when_due();
    void correct_counts();
    void retire_idle_groups();
    using Queues = std::unordered_map<uint64_t, uint32_t>;  // by the listener's cookie
    [[nodiscard]] static Queues read_queues();
    using Slots = std::map<uint32_t, drover_slot>;  // by worker
    [[nodiscard]] Slots read_slots() const;
    // From slots that were read first: who is queued a moment later was not taken.
    [[nodiscard]] std::map<uint32_t, WorkerCounts> counts(const Slots& slots,
                                                          const Queues& queued) const;
    // The programs write down in the slots how many wait; false where they may not look.
    bool measure_queues();
    [[nodiscard]] bool can_measure_all() const;
    // counts() for a hundredth of its price, where the programs can see every listener.
    std::map<uint32_t, WorkerCounts> quick_counts();
    void schedule_reconcile();
    [[nodiscard]] bool has_others(uint32_t worker) const;
    void move_worker_queue(uint32_t worker);
    Result<Fd> borrow_listener(Member& member, uint64_t cookie);
    void finish_rescue(uint32_t worker, Result<uint64_t> moved);
    void watch_queues();
    void look_at_queues();
    void send_canary(uint32_t worker);
    void hurry();
    struct Glance;
    Glance glance_at_queues();
    bool relieve_one();
    void look_hurriedly();

    Options options_;
    EventLoop& loop_;
    Observer& observer_;
    PortOwnership ownership_;
    std::string pin_folder_;
    Cgroup keeper_cgroup_;
    std::unique_ptr<Programs> programs_;
    std::unique_ptr<SlotTable> slots_;
    std::map<uint32_t, Member> members_;  // by worker id
    std::map<uint32_t, Group> groups_;    // by index
    std::set<uint32_t> used_groups_;      // every index ever used: their counts stay in the totals
    std::set<uint64_t> our_cgroups_;
    std::map<int, Drift> drift_;
    uint64_t corrections_ = 0;
    std::chrono::steady_clock::time_point counts_due_{};
    uint64_t events_lost_ = 0;       // of those that are known to be lost
    std::vector<uint64_t> closed_;   // cookies of listeners that have closed, to be forgotten
    std::set<uint64_t> relistened_;  // cookies: what their events say is our own doing
    int calm_looks_ = 0;
    int hurried_looks_ = 0;                     // without any queue, one after the other
    std::chrono::milliseconds hurry_pause_{0};  // after a hurry that was for nothing
    bool hurry_helped_ = false;
    MovePrice last_move_;                                  // of a worker's queue
    std::chrono::steady_clock::time_point relieved_at_{};  // the last one in a hurry
    bool refusing_ = false;
    EventLoop::Source on_events_;
    EventLoop::Source on_rescan_;
    EventLoop::Source on_reconcile_;
    EventLoop::Source on_move_parked_;
    EventLoop::Source on_warm_up_;
    EventLoop::Source on_watch_;
    EventLoop::Source on_hurry_;
};

}  // namespace drover::steer
