// SPDX-License-Identifier: MIT
//
// The supervisor's part of a rollout: reload, canary, promote, rollback, recycle.
//
//     the plan names an instance → its candidate starts beside the worker that serves
//       → it is ready → (the first of a rollout: it stays so for a second)
//         → it gets the traffic, and the old worker is drained
//       → or it ends, or is not ready in time: the rollout stops, the old worker serves on
//
// A candidate gets no connection before it takes over, so a release that does not work costs none.
// One rollout at a time.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "supervisor/supervisor.h"

namespace drover::supervisor {

namespace {

using std::chrono::duration_cast;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

// As long as an exit counts as a failed start (restart.cc): a release that crashes soon is found
// before it serves anybody. Only with the first candidate: the others run the same.
constexpr milliseconds kSettle{1000};
constexpr std::chrono::seconds kDueLook{1};

}  // namespace

// --- Verbs ---------------------------------------------------------------------------------------

void Supervisor::reload(const ReloadRequest& request, Done done) {
    if (auto may = may_roll_out(); !may) return done(may);
    if (is_canary_)
        return done(fail("bad-state",
                         fmt::format("generation {} is tried by a canary: \"drover promote {}\" or "
                                     "\"drover rollback {}\" first",
                                     trial_->generation, config_.name, config_.name)));
    Config base = *stable_.config;
    base.policy = config_.policy;
    if (is_by_file(base, request)) return reload_by_file(base, request, std::move(done));
    auto changed = changed_config(std::move(base), request);
    if (!changed) return done(tl::unexpected(changed.error()));
    if (auto read = read_env_files(*changed); !read) return done(read);
    roll_out(std::move(*changed), request, std::move(done));
}

// When the release serves, what else has changed in the file follows.
void Supervisor::reload_by_file(const Config& base, const ReloadRequest& request, Done done) {
    auto changed = changed_by_file(base, request);
    if (!changed) return done(tl::unexpected(changed.error()));
    if (auto read = read_env_files(changed->config); !read) return done(read);
    auto rest = [this, policy = changed->policy, workers = changed->workers,
                 done = std::move(done)](const Result<void>& served) {
        if (!served) return done(served);
        if (policy) {
            Result<void> set;
            this->policy(*policy, [&set](Result<void> result) { set = std::move(result); });
            if (!set) return done(set);
        }
        if (workers) return scale(*workers, done);
        done({});
    };
    roll_out(std::move(changed->config), request, std::move(rest));
}

void Supervisor::reload_as(Config config, Done done) {
    if (auto may = may_roll_out(); !may) return done(may);
    roll_out(std::move(config), {}, std::move(done));
}

void Supervisor::roll_out(Config config, const ReloadRequest& request, Done done) {
    Running running{request.canary ? Goal::canary : Goal::reload,
                    Rollout({}, 1),
                    Release{++last_generation_, std::make_shared<const Config>(std::move(config))},
                    ExitReason::reload,
                    fmt::format("replaced by generation {}", last_generation_),
                    std::move(done),
                    false};
    std::vector<int> all;
    for (const auto& [instance, state] : instances_) all.push_back(instance);
    if (request.canary)
        all.resize(static_cast<size_t>(count_of(*request.canary, static_cast<int>(all.size()))));
    running.plan = Rollout(all, request.parallel);
    start_rollout(std::move(running));
}

void Supervisor::promote(Done done) {
    if (auto may = may_roll_out(); !may) return done(may);
    if (!trial_)
        return done(fail("bad-state", fmt::format("{} tries no other release: there is nothing to "
                                                  "promote",
                                                  config_.name)));
    start_rollout({Goal::promote, Rollout(instances_not_of(trial_->generation), 1), trial_,
                   ExitReason::reload, fmt::format("replaced by generation {}", trial_->generation),
                   std::move(done), is_canary_});
}

void Supervisor::roll_back(Done done) {
    if (auto may = may_roll_out(); !may) return done(may);
    if (!trial_ && !former_)
        return done(fail("bad-state", fmt::format("{} has served no other release before: there is "
                                                  "nothing to go back to",
                                                  config_.name)));
    Release to = trial_ ? stable_ : *former_;
    start_rollout({Goal::roll_back, Rollout(instances_not_of(to.generation), 1), to,
                   ExitReason::reload, fmt::format("back to generation {}", to.generation),
                   std::move(done), false});
}

Result<void> Supervisor::may_roll_out() const {
    if (stopping_) return fail("bad-state", "the cluster is stopping");
    if (next_rollout_ || (rollout_ && rollout_->goal != Goal::recycle)) return busy();
    if (restarting_ || !restart_queue_.empty())
        return fail("bad-state", "a restart is under way: wait until it is done");
    return {};
}

Result<void> Supervisor::may_be_upgraded() const {
    if (rollout_ || next_rollout_) return busy();
    if (leave_timer_.is_active()) return fail("bad-state", "the cluster is stopping");
    return may_roll_out();
}

Result<void> Supervisor::busy() const {
    const Running& running = next_rollout_ ? *next_rollout_ : *rollout_;
    return fail("bad-state", fmt::format("workers are being replaced ({} of {} are): wait until it "
                                         "is done",
                                         running.plan.done(), running.plan.total()));
}

// --- The way of a rollout ------------------------------------------------------------------------

void Supervisor::start_rollout(Running&& running) {
    if (rollout_) {  // a recycle, which is done in a moment
        next_rollout_ = std::move(running);
        return;
    }
    rollout_ = std::move(running);
    if (rollout_->goal != Goal::recycle) tell_reload(*rollout_, ReloadPhase::started);
    settle();
}

// Called after each change.
void Supervisor::advance_rollout() {
    if (!rollout_) return;
    if (rollout_->has_failed) return end_rollout();
    if (rollout_->failure) return;  // its last lines are being asked for
    std::vector<WorkerId> ready;
    for (const auto& [id, worker] : workers_)
        if (worker.is_candidate && worker.state == State::ready) ready.push_back(id);
    for (WorkerId id : ready) settle_candidate(*find(id));
    for (int instance : rollout_->plan.next()) {
        start_candidate(instance);
        if (!rollout_ || rollout_->failure) return;  // it could not even be started
    }
    if (rollout_->plan.is_over()) end_rollout();
}

void Supervisor::start_candidate(int instance) {
    Worker* old = current(instance);
    // One that is down has nothing to be taken over.
    if (old != nullptr && !is_alive(old->state)) workers_.erase(old->id);
    Release release = rollout_->to ? *rollout_->to : instances_.at(instance).release;
    spawn(instance, release, /*is_candidate=*/true);
}

void Supervisor::settle_candidate(Worker& candidate) {
    if (is_checked(candidate.config()) && !candidate.health.was_ever_good) return;
    if (rollout_->is_settled) return take_over(candidate);
    if (candidate.settle_timer.is_active()) return;
    auto since = duration_cast<milliseconds>(steady_clock::now() - *candidate.ready_since);
    if (since >= kSettle) {
        rollout_->is_settled = true;
        return take_over(candidate);
    }
    candidate.settle_timer = loop_.after(kSettle - since, [this, id = candidate.id] {
        if (Worker* worker = find(id)) worker->settle_timer.reset();
        settle();
    });
}

// First the new one gets connections, then the old one gets none any more.
void Supervisor::take_over(Worker& candidate) {
    int instance = candidate.instance;
    Worker* old = current(instance);
    candidate.is_candidate = false;
    instances_.at(instance).release = candidate.release;
    instances_.at(instance).history.failed_starts.clear();
    if (may_serve(candidate)) effects_.activate(candidate.id);
    rollout_->plan.replaced(instance);
    if (rollout_->goal != Goal::recycle) tell_reload(*rollout_, ReloadPhase::worker, &candidate);
    if (old != nullptr) old->is_replaced = true;
    if (old != nullptr) end_worker(old->id, rollout_->reason, false, rollout_->why);
}

bool Supervisor::has_candidate(const Worker& worker) const {
    return std::ranges::any_of(workers_, [&](const auto& entry) {
        const Worker& other = entry.second;
        return other.is_candidate && other.instance == worker.instance && other.id != worker.id;
    });
}

std::string Supervisor::candidate_text(const Worker& candidate) const {
    if (candidate.state == State::ready && is_checked(candidate.config()) &&
        !candidate.health.was_ever_good)
        return "to take over when it is healthy";
    if (candidate.state == State::ready) return "to take over when it has settled";
    return "to take over when it is ready";
}

// It ended by itself, or was not ready in time.
void Supervisor::candidate_failed(WorkerId id, int instance, const std::string& reason) {
    if (rollout_ && rollout_->has_failed) return end_rollout();
    if (!rollout_ || rollout_->failure || !rollout_->plan.is_under_way(instance)) return;
    rollout_->failure = fmt::format(
        "instance {}: worker {} of generation {} {}", instance, id,
        rollout_->to ? rollout_->to->generation : instances_.at(instance).release.generation,
        reason.starts_with("not ready") ? "was " + reason
        : reason.starts_with("fails ")  ? reason
                                        : "ended: " + reason);
    effects_.last_lines(id, [this](const std::vector<std::string>& lines) {
        if (rollout_ && rollout_->failure) fail_rollout(lines);
    });
}

// The other candidates end, the old workers stay; where one has ended meanwhile, it is started
// anew.
void Supervisor::fail_rollout(const std::vector<std::string>& last_lines) {
    rollout_->last_lines = last_lines;
    rollout_->has_failed = true;
    std::vector<WorkerId> candidates;
    for (const auto& [id, worker] : workers_)
        if (worker.is_candidate) candidates.push_back(id);
    for (WorkerId id : candidates) end_worker(id, ExitReason::stopped, false, "the reload stopped");
    for (int instance : rollout_->plan.under_way()) {
        if (!instances_.contains(instance)) continue;
        Worker* old = current(instance);
        if (old != nullptr && is_alive(old->state)) continue;
        if (old != nullptr) workers_.erase(old->id);
        spawn(instance);
    }
    end_rollout();
}

// Where all is replaced, or where it failed and no candidate is left.
void Supervisor::end_rollout() {
    bool is_tried =
        std::ranges::any_of(workers_, [](const auto& entry) { return entry.second.is_candidate; });
    if (is_tried) return;
    Running over = std::move(*rollout_);
    rollout_.reset();
    finish_rollout(std::move(over));
    if (next_rollout_ && !rollout_) {
        Running next = std::move(*next_rollout_);
        next_rollout_.reset();
        start_rollout(std::move(next));
    }
}

void Supervisor::finish_rollout(Running&& over) {
    look_for_due();
    if (over.failure && over.goal == Goal::recycle)
        return on_trouble(0,
                          {"recycle-failed", fmt::format("a worker was to be replaced because {}, "
                                                         "and is not: {}",
                                                         over.why, *over.failure)});
    if (over.failure) {
        if ((over.goal == Goal::reload || over.goal == Goal::canary) && over.plan.done() > 0)
            trial_ = over.to;
        auto text = failure_text(over);
        tell_reload(over, ReloadPhase::failed, nullptr, text);
        return over.done(fail("reload-failed", text));
    }
    switch (over.goal) {
        case Goal::recycle:
            return;
        case Goal::canary:
            trial_ = over.to;
            is_canary_ = true;
            tell_reload(over, ReloadPhase::canary);
            break;
        case Goal::reload:
        case Goal::promote:
            former_ = stable_;
            stable_ = *over.to;
            trial_.reset();
            is_canary_ = false;
            tell_reload(over,
                        over.goal == Goal::reload ? ReloadPhase::done : ReloadPhase::promoted);
            break;
        case Goal::roll_back:
            if (!trial_) former_.reset();
            trial_.reset();
            is_canary_ = false;
            stable_ = *over.to;
            tell_reload(over, ReloadPhase::rolled_back);
            break;
    }
    over.done({});
}

std::string Supervisor::failure_text(const Running& failed) const {
    auto text = "stopped at " + *failed.failure;
    if (failed.plan.done() > 0)
        text += fmt::format(
            "; {} of {} instances had been replaced and stay as they are, until "
            "\"drover rollback {}\" or another reload",
            failed.plan.done(), failed.plan.total(), config_.name);
    if (!failed.last_lines.empty())
        text += fmt::format("; its last lines:\n{}", fmt::join(failed.last_lines, "\n"));
    return text;
}

// New instances begin with what is served, and follow the others.
void Supervisor::add_to_rollout(int instance) {
    for (auto* rollout : {&rollout_, &next_rollout_}) {
        if (!*rollout) continue;
        Goal goal = (*rollout)->goal;
        if (goal != Goal::canary && goal != Goal::recycle) (*rollout)->plan.add(instance);
    }
}

// The cluster ends.
void Supervisor::drop_rollouts() {
    for (auto* rollout : {&rollout_, &next_rollout_}) {
        if (!*rollout) continue;
        Running over = std::move(**rollout);
        rollout->reset();
        if (over.done) over.done(fail("bad-state", "the cluster is stopping"));
    }
}

void Supervisor::drop_from_rollout(int instance) {
    for (auto* rollout : {&rollout_, &next_rollout_})
        if (*rollout) (*rollout)->plan.dropped(instance);
    std::vector<WorkerId> candidates;
    for (const auto& [id, worker] : workers_)
        if (worker.is_candidate && worker.instance == instance) candidates.push_back(id);
    for (WorkerId id : candidates) {
        find(id)->is_candidate = false;
        end_worker(id, ExitReason::stopped, false, "scaled down");
    }
}

void Supervisor::tell_reload(const Running& running, ReloadPhase phase, const Worker* worker,
                             const std::string& error) {
    tell(EventKind::reload, worker,
         ReloadData{phase, running.plan.done(), running.plan.total(), error});
}

std::vector<int> Supervisor::instances_not_of(int generation) const {
    std::vector<int> found;
    for (const auto& [instance, state] : instances_)
        if (state.release.generation != generation) found.push_back(instance);
    return found;
}

// --- Recycle -------------------------------------------------------------------------------------

// Looks once a second, and only where a release has limits.
void Supervisor::look_for_due() {
    bool any = std::ranges::any_of(
        instances_, [](const auto& entry) { return has_limits(*entry.second.release.config); });
    if (!any) return on_due_.reset();
    if (on_due_.is_active()) return;
    on_due_ = loop_.after(kDueLook, [this] {
        on_due_.reset();
        recycle_due();
        look_for_due();
    });
}

// The first that is due, and only when the one before is gone: never two at the same time.
void Supervisor::recycle_due() {
    bool is_busy =
        stopping_ || rollout_ || restarting_ || !restart_queue_.empty() ||
        std::ranges::any_of(workers_, [](const auto& entry) {
            const Worker& worker = entry.second;
            return worker.state == State::draining &&
                   (worker.ending == ExitReason::recycle || worker.ending == ExitReason::memory);
        });
    if (is_busy) return;
    bool is_counted = std::ranges::any_of(
        workers_, [](const auto& entry) { return has_counted_limits(entry.second.config()); });
    Numbers numbers = is_counted ? effects_.numbers() : Numbers{};
    auto now = steady_clock::now();
    for (const auto& [id, worker] : workers_) {
        if (worker.state != State::ready || worker.held) continue;
        if (!instances_.contains(worker.instance)) continue;
        WorkerAge age{duration_cast<milliseconds>(now - worker.spawned), 0, 0, worker.jitter};
        if (auto found = numbers.workers.find(id); found != numbers.workers.end()) {
            age.memory_bytes = found->second.memory_bytes;
            age.accepted_total = found->second.accepted_total.value_or(0);
        }
        auto due = is_due(worker.config(), age);
        if (!due) continue;
        return start_rollout({Goal::recycle, Rollout({worker.instance}, 1), std::nullopt,
                              due->reason, due->why, [](const Result<void>&) {}, true});
    }
}

}  // namespace drover::supervisor
