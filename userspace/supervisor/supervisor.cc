// SPDX-License-Identifier: MIT
//
// What becomes of one worker, from its start to its end, and what the cluster does about it. Long,
// because all that happens meets here in short functions; what stands by itself is elsewhere:
// lifecycle.cc (the table), restart.cc, rollouts.cc, health_checks.cc, signs.cc, take_over.cc.
#include "supervisor/supervisor.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"

namespace drover::supervisor {

namespace {

constexpr size_t kRecentEvents = 1000;
constexpr size_t kRecentBytes = 2 << 20;             // of messages among them
constexpr std::chrono::milliseconds kDrainLook{20};  // between two looks at draining workers

using std::chrono::duration_cast;
using std::chrono::milliseconds;
using std::chrono::steady_clock;
using std::chrono::system_clock;

// Memory, processes, descriptors: there may be more the next time; or a file that is being written.
bool is_for_want(int number) {
    return number == ENOMEM || number == EAGAIN || number == EMFILE || number == ENFILE ||
           number == ETXTBSY;
}

// What an event may hold that is not small.
size_t size_of(const Event& event) {
    const auto* message = std::get_if<MessageData>(&event.data);
    return message != nullptr ? message->data.size() : 0;
}

}  // namespace

Supervisor::Supervisor(Config config, EventLoop& loop, Effects& effects, Observer& observer)
    : config_(std::move(config)),
      loop_(loop),
      effects_(effects),
      observer_(observer),
      stable_{1, std::make_shared<const Config>(config_)} {}

Supervisor::~Supervisor() = default;

void Supervisor::start(std::function<void(int)> over) {
    over_ = std::move(over);
    int wanted = config_.workers.value_or(1);
    // All first: each worker is told how many there are.
    for (int instance = 0; instance < wanted; instance++) instances_[instance].release = stable_;
    // Whoever comes after a master that is killed from here on ends what it does not know of.
    save();
    for (int instance = 0; instance < wanted; instance++) spawn(instance);
    look_for_due();
    settle();
}

// --- One worker
// -----------------------------------------------------------------------------------

void Supervisor::spawn(int instance) {
    spawn(instance, instances_.at(instance).release, /*is_candidate=*/false);
}

void Supervisor::spawn(int instance, const Release& release, bool is_candidate) {
    WorkerId id = ++last_id_;
    Worker& worker = workers_[id];
    worker.id = id;
    worker.instance = instance;
    worker.release = release;
    worker.is_candidate = is_candidate;
    worker.jitter = std::uniform_real_distribution<double>(0, 1)(random_);
    worker.started_at = system_clock::now();
    worker.spawned = steady_clock::now();
    worker.ready_timer = loop_.after(worker.config().ready_timeout, [this, id] {
        if (Worker* late = find(id)) {
            late->ending = ExitReason::timeout;
            apply(id, Trigger::ready_late,
                  fmt::format("not ready within {} ms{}", late->config().ready_timeout.count(),
                              late->reason.empty() ? "" : " (" + late->reason + ")"));
        }
        settle();
    });
    auto spawned = effects_.spawn(
        {id, instance, release.generation, static_cast<int>(instances_.size()), release.config});
    if (!spawned) {
        tell(EventKind::error, &worker, ErrorData{spawned.error().code, spawned.error().text});
        // Told once; each try is an event.
        if (!std::exchange(spawn_failed_, true))
            log::warn(fmt::format("cannot start a worker: {}", spawned.error().text));
        worker.fault = spawned.error().text;
        on_exit(id, Exit{127, std::nullopt, ExitReason::exec});
        return;
    }
    spawn_failed_ = false;
    worker.pid = spawned->pid;
    worker.slot = spawned->slot;
    tell(EventKind::fork, &worker);
    if (int weight = instance_of(worker).weight; weight != 1) effects_.set_weight(id, weight);
}

void Supervisor::apply(WorkerId id, Trigger trigger, const std::string& reason) {
    Worker* worker = find(id);
    if (worker == nullptr) return;
    State from = worker->state;
    Transition next = transition(from, trigger);
    if (next.to != from) {
        worker->state = next.to;
        worker->reason = reason;
        worker->retry_at.reset();
        if (next.to == State::ready) worker->ready_since = steady_clock::now();
        tell(EventKind::state, worker, StateData{from, next.to, reason});
    }
    for (Action action : next.actions) carry_out(id, action);
}

void Supervisor::carry_out(WorkerId id, Action action) {
    Worker* worker = find(id);
    if (worker == nullptr) return;
    switch (action) {
        case Action::tell_online:
            tell(EventKind::online, worker);
            break;
        case Action::tell_ready:
            tell(EventKind::ready, worker);
            break;
        case Action::start_ready_timer:
            worker->ready_timer = loop_.after(worker->config().ready_timeout, [this, id] {
                if (Worker* late = find(id)) late->ending = ExitReason::timeout;
                apply(id, Trigger::ready_late, "stopped listening");
                settle();
            });
            break;
        case Action::stop_ready_timer:
            worker->ready_timer.reset();
            break;
        case Action::start_watchdog:
            start_watchdog(id);
            start_checks(*worker);
            break;
        case Action::activate:
            if (may_serve(*worker)) effects_.activate(id);
            break;
        case Action::deactivate:
            effects_.deactivate(id);
            break;
        case Action::start_drain_timer:
            effects_.ask_to_finish(id, worker->config().drain_timeout);
            worker->drain_timer = loop_.after(worker->config().drain_timeout, [this, id] {
                apply(id, Trigger::drain_late);
                settle();
            });
            start_drain_watch();
            break;
        case Action::send_stop_signal: {
            if (worker->signalled) break;
            worker->signalled = true;
            worker->drain_timer.reset();
            auto sent = effects_.signal(id, worker->config().stop_signal);
            if (!sent) on_trouble(id, {sent.error().code, sent.error().text});
            worker->stop_timer = loop_.after(worker->config().stop_timeout, [this, id] {
                apply(id, Trigger::stop_late);
                settle();
            });
            break;
        }
        case Action::kill:
            effects_.kill(id);
            break;
        case Action::release:
            worker->stall_timer.reset();
            worker->settle_timer.reset();
            worker->check_timer.reset();
            worker->stalled_since.reset();
            for (Done& done : std::exchange(worker->rescues, {}))
                done(fail("no-such-worker", fmt::format("worker {} has ended", id)));
            worker->drain_timer.reset();
            worker->stop_timer.reset();
            worker->endpoints.clear();
            worker->pid.reset();
            worker->slot.reset();
            effects_.release(id);
            break;
        case Action::replace: {
            int instance = worker->instance;
            if (!worker->replace_after) instance_of(*worker).restarts_total++;
            workers_.erase(id);
            spawn(instance);
            break;
        }
        case Action::start_retry_timer: {
            worker->retry_at = system_clock::now() + worker->retry_delay;
            worker->retry_timer = loop_.after(worker->retry_delay, [this, id] {
                Worker* down = find(id);
                if (down == nullptr) return;
                int instance = down->instance;
                instance_of(*down).restarts_total++;
                workers_.erase(id);
                spawn(instance);
                settle();
            });
            break;
        }
        case Action::stop_retry_timer:
            worker->retry_timer.reset();
            break;
        case Action::tell_restart_limit: {
            const auto& failed = instance_of(*worker).history.failed_starts;
            tell(EventKind::restart_limit, worker,
                 RestartLimitData{static_cast<int>(failed.size()),
                                  worker->config().max_restarts.within});
            // Where nobody is left the end of the cluster says it, once.
            if (!ports_of_ready().empty())
                log::error(fmt::format("{}/{} is given up: {}", config_.name, worker->instance,
                                       worker->reason));
            break;
        }
    }
}

void Supervisor::end_worker(WorkerId id, ExitReason why, bool replace_after,
                            const std::string& reason) {
    Worker* worker = find(id);
    if (worker == nullptr) return;
    worker->ending = why;
    worker->replace_after = replace_after;
    apply(id, Trigger::drain, reason);
    remove_if_not_wanted(id);
}

// A worker that is down for good stays visible, unless its instance is no longer wanted or has
// another worker by now.
void Supervisor::remove_if_not_wanted(WorkerId id) {
    Worker* worker = find(id);
    if (worker == nullptr || is_alive(worker->state)) return;
    bool wanted = instances_.contains(worker->instance) && current(worker->instance) == worker;
    if (stopping_ || !wanted) workers_.erase(id);
}

// --- What happens to workers
// ----------------------------------------------------------------------

void Supervisor::on_exec(WorkerId id) {
    Worker* worker = find(id);
    if (worker == nullptr) return;
    instance_of(*worker).history.was_ever_online = true;
    apply(id, Trigger::exec_done);
    if (!worker->endpoints.empty()) apply(id, Trigger::listens);
    check_ready(*worker);
    settle();
}

void Supervisor::on_exec_failed(WorkerId id, const Error& error) {
    Worker* worker = find(id);
    if (worker == nullptr) return;
    worker->exec_failed = true;
    worker->fault_may_pass = is_for_want(error.number);
    worker->fault = error.text;
    tell(EventKind::error, worker, ErrorData{error.code, error.text});
}

void Supervisor::on_listening(WorkerId id, const ListeningData& at, bool extra) {
    Worker* worker = find(id);
    if (worker == nullptr) return;
    tell(EventKind::listening, worker, at);
    if (extra)
        on_trouble(id, {"extra-listener",
                        fmt::format("worker {} listens on {} port {} a second time; only its first "
                                    "socket there gets connections",
                                    id, at.addr, at.port)});
    worker->endpoints.emplace(at.addr, at.port);
    apply(id, Trigger::listens);
    check_ready(*worker);
    settle();
}

void Supervisor::on_listener_closed(WorkerId id, const ListeningData& at) {
    Worker* worker = find(id);
    if (worker == nullptr) return;
    worker->endpoints.erase({at.addr, at.port});
    if (worker->endpoints.empty() &&
        (worker->config().ready == Ready::listening || is_probed(worker->config().ready)))
        apply(id, Trigger::listens_no_more, "closed its listener");
    settle();
}

void Supervisor::on_exit(WorkerId id, const Exit& how) {
    Worker* worker = find(id);
    if (worker == nullptr) return;
    Instance& instance = instance_of(*worker);
    auto now = steady_clock::now();
    Exit exit = how;
    exit.reason = worker->exec_failed ? ExitReason::exec : worker->ending;
    tell(EventKind::exit, worker,
         ExitData{exit, duration_cast<milliseconds>(now - worker->spawned)});
    instance.last_exit = exit;

    ExitFacts facts;
    // A worker that was ended for being late is a failed start, not a stop.
    facts.was_wanted =
        worker->ending == ExitReason::stopped && !worker->replace_after && !worker->conflict;
    // Its replacement is on its way, or it is one that was only tried.
    if (worker->ending == ExitReason::reload || worker->ending == ExitReason::recycle ||
        worker->ending == ExitReason::memory || worker->is_candidate || worker->is_replaced ||
        has_candidate(*worker))
        facts.was_wanted = true;
    facts.replace_wanted = worker->replace_after;
    facts.succeeded = how.code == 0 && worker->ending == ExitReason::crash;
    facts.exec_failed = worker->exec_failed && !worker->fault_may_pass;
    facts.conflict = worker->conflict && !worker->fault_may_pass;
    facts.was_ready = worker->ready_since.has_value();
    if (facts.was_ready)
        facts.since_ready = duration_cast<milliseconds>(now - *worker->ready_since);
    double jitter = std::uniform_real_distribution<double>(0, 1)(random_);
    Judgement judgement = judge(worker->config().restart, worker->config().max_restarts, facts,
                                instance.history, now, jitter);

    std::optional<int> tried;
    if (worker->is_candidate) tried = worker->instance;
    std::string how_it_ended = exit.signal ? fmt::format("killed by {}", *exit.signal)
                                           : fmt::format("exit status {}", exit.code.value_or(0));
    std::string reason = how_it_ended;
    if (!worker->fault.empty())
        reason = worker->fault;
    else if (worker->ending == ExitReason::timeout)
        reason = worker->reason;
    switch (judgement.verdict) {
        case Verdict::replace:
            apply(id, Trigger::gone_replace, how_it_ended);
            break;
        case Verdict::backoff:
            worker->retry_delay = judgement.delay;
            apply(id, Trigger::gone_backoff, reason);
            break;
        case Verdict::failed:
            if (!facts.exec_failed && !facts.conflict)
                reason = fmt::format("{} failed starts within {} s, the last: {}",
                                     instance.history.failed_starts.size(),
                                     worker->config().max_restarts.within.count() / 1000, reason);
            apply(id, Trigger::gone_failed, reason);
            break;
        case Verdict::stopped:
            apply(id, Trigger::gone_stopped, reason);
            break;
    }
    remove_if_not_wanted(id);
    if (tried) candidate_failed(id, *tried, reason);
    settle();
}

void Supervisor::on_conflict(WorkerId id, const ConflictData& conflict) {
    Worker* worker = find(id);
    if (worker == nullptr || worker->conflict) return;
    worker->conflict = true;
    worker->fault_may_pass = conflict.may_pass;
    if (conflict.may_pass)
        on_trouble(id, {"system", conflict.text});
    else
        tell(EventKind::conflict, worker, conflict);
    // Killed at once: what it may have accepted was meant for the port's owner.
    worker->fault = conflict.text;
    effects_.deactivate(id);
    worker->ending = ExitReason::stopped;
    effects_.kill(id);
    settle();
}

void Supervisor::on_released() {
    is_dirty_ = true;  // with what it had taken and used
    settle();
}

void Supervisor::on_trouble(WorkerId id, const ErrorData& error) {
    tell(EventKind::error, find(id), error);
    log::warn(error.text);
}

// --- Drain
// ----------------------------------------------------------------------------------------

// Looks at draining workers while there are any, and only then.
void Supervisor::start_drain_watch() {
    if (drain_watch_.is_active()) return;
    drain_watch_ = loop_.after(milliseconds(0), [this] { check_drained(); });
}

void Supervisor::check_drained() {
    bool more = false;
    std::vector<WorkerId> draining;
    for (const auto& [id, worker] : workers_)
        if (worker.state == State::draining && !worker.signalled && !worker.stops_itself)
            draining.push_back(id);
    for (WorkerId id : draining) {
        if (effects_.is_drained(id))
            apply(id, Trigger::drained);
        else
            more = true;
    }
    for (const auto& [id, worker] : workers_) more = more || (worker.held && !pending_.empty());
    drain_watch_.reset();
    if (more) drain_watch_ = loop_.after(kDrainLook, [this] { check_drained(); });
    settle();
}

// --- The whole cluster ---------------------------------------------------------------------------

// Runs after every change. Replies may bring new verbs, so it works until nothing is left to do.
void Supervisor::settle() {
    if (settling_) {
        if (!soon_.is_active())
            soon_ = loop_.soon([this] {
                soon_.reset();
                settle();
            });
        return;
    }
    settling_ = true;
    if (!stopping_) {
        next_restart();
        advance_rollout();
    }
    std::vector<Pending> reached;
    for (size_t i = 0; i < pending_.size();) {
        if (!pending_[i].reached()) {
            i++;
            continue;
        }
        reached.push_back(std::move(pending_[i]));
        pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(i));
    }
    for (auto& pending : reached) pending.done({});
    finish_if_over();
    if (std::exchange(is_dirty_, false) && !finished_) save();
    settling_ = false;
}

// The cluster is over when it was stopped, or when no instance will ever run again.
void Supervisor::finish_if_over() {
    if (finished_ || !effects_.all_released()) return;
    // One that was stopped by hand can be restarted by hand.
    bool any_left = std::ranges::any_of(workers_, [](const auto& entry) {
        const Worker& worker = entry.second;
        return is_alive(worker.state) || worker.state == State::backoff ||
               (worker.state == State::stopped && worker.ending == ExitReason::stopped);
    });
    if (any_left) return;
    if (stopping_ && !workers_.empty()) return;
    finished_ = true;
    bool failed = std::ranges::any_of(workers_, [this](const auto& entry) {
        const auto& last = instance_of(entry.second).last_exit;
        return entry.second.state == State::failed || !last || last->code != 0;
    });
    exit_status_ = !stopping_ && failed ? 1 : 0;
    if (exit_status_ != 0)
        log::error(fmt::format("no worker of {} is left: {}", config_.name,
                               workers_.begin()->second.reason));
    if (over_) over_(exit_status_);
}

// --- Nouns and small things
// -----------------------------------------------------------------------

const std::deque<Event>& Supervisor::recent_events() const {
    return recent_;
}

void Supervisor::tell(EventKind kind, const Worker* worker, EventData data) {
    Event event;
    event.seq = ++last_seq_;
    event.time = system_clock::now();
    event.kind = kind;
    if (worker != nullptr)
        event.worker = WorkerRef{worker->id, worker->instance, worker->slot.value_or(0),
                                 worker->pid.value_or(0), worker->release.generation};
    event.data = std::move(data);
    is_dirty_ = is_dirty_ || kind != EventKind::message;
    recent_.push_back(event);
    recent_bytes_ += size_of(event);
    while (recent_.size() > kRecentEvents || (recent_bytes_ > kRecentBytes && recent_.size() > 1)) {
        recent_bytes_ -= size_of(recent_.front());
        recent_.pop_front();
    }
    observer_.on_event(event);
}

Supervisor::Worker* Supervisor::find(WorkerId id) {
    auto found = workers_.find(id);
    return found == workers_.end() ? nullptr : &found->second;
}

// A worker whose instance was scaled away still reports: into a place that nobody reads.
Supervisor::Instance& Supervisor::instance_of(const Worker& worker) {
    auto found = instances_.find(worker.instance);
    return found == instances_.end() ? scaled_away_ : found->second;
}

// The instance's worker: the newest, where an old one is still on its way out; not one that is only
// tried.
Supervisor::Worker* Supervisor::current(int instance) {
    Worker* newest = nullptr;
    for (auto& [id, worker] : workers_)
        if (worker.instance == instance && !worker.is_candidate) newest = &worker;
    return newest;
}

bool Supervisor::is_steady() const {
    return std::ranges::none_of(workers_,
                                [](const auto& entry) { return is_moving(entry.second.state); });
}

}  // namespace drover::supervisor
