// SPDX-License-Identifier: MIT
//
// What a person may ask of a running cluster. Each verb sets things going and says when it counts
// as done; the table and the timers do the rest.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "supervisor/supervisor.h"

namespace drover::supervisor {

void Supervisor::stop(std::optional<WorkerId> target, Done done) {
    if (target) {
        Worker* worker = find(*target);
        if (worker == nullptr) return done(no_such_worker(*target));
        WorkerId id = *target;
        std::erase(restart_queue_, worker->instance);
        end_worker(id, ExitReason::stopped, false, "stopped by hand");
        when(
            [this, id] {
                Worker* left = find(id);
                return left == nullptr || !is_alive(left->state);
            },
            std::move(done));
        return settle();
    }
    when([this] { return stopping_ && workers_.empty() && effects_.all_released(); },
         std::move(done));
    if (leave_timer_.is_active()) return;  // announced already
    // Load balancers that have been told long ago need not be told again.
    auto now = std::chrono::steady_clock::now();
    auto told = is_drained_ ? now - drained_since_ : std::chrono::steady_clock::duration(0);
    auto left = std::chrono::ceil<std::chrono::milliseconds>(stop_delay_of(config_) - told);
    if (stopping_ || left.count() <= 0 || !others_serve(0)) return begin_stop();
    log::info(fmt::format("{}: is going to stop in {} ms, and takes connections until then",
                          config_.name, left.count()));
    leave_timer_ = loop_.after(left, [this] { begin_stop(); });
}

void Supervisor::begin_stop() {
    leave_timer_.reset();
    stopping_ = true;
    restart_queue_.clear();
    drop_rollouts();
    effects_.refuse_connections();
    std::vector<WorkerId> all;
    for (const auto& [id, worker] : workers_) all.push_back(id);
    for (WorkerId id : all) end_worker(id, ExitReason::stopped, false, "the cluster stops");
    settle();
}

void Supervisor::stop_now() {
    if (!stopping_) begin_stop();
    std::vector<WorkerId> all;
    for (const auto& [id, worker] : workers_) all.push_back(id);
    for (WorkerId id : all) {
        if (Worker* worker = find(id)) worker->ending = ExitReason::stopped;
        // A draining worker is killed; one that is not yet gets its stop signal at once.
        apply(id, Trigger::end_now, "the cluster stops now");
        remove_if_not_wanted(id);
    }
    settle();
}

void Supervisor::restart(std::optional<WorkerId> target, Done done) {
    if (stopping_) return done(fail("bad-state", "the cluster is stopping"));
    if (rollout_) return done(busy());
    std::vector<int> wanted;
    if (target) {
        Worker* worker = find(*target);
        if (worker == nullptr) return done(no_such_worker(*target));
        if (!instances_.contains(worker->instance))
            return done(fail(
                "bad-state",
                fmt::format("worker {} is being scaled away: it cannot be restarted", *target)));
        wanted.push_back(worker->instance);
    } else {
        for (const auto& [instance, state] : instances_) wanted.push_back(instance);
    }
    for (int instance : wanted) {
        instances_[instance].history.failed_starts.clear();
        if (std::ranges::find(restart_queue_, instance) == restart_queue_.end())
            restart_queue_.push_back(instance);
    }
    when(
        [this, wanted] {
            return std::ranges::all_of(wanted, [this](int instance) {
                bool waits = std::ranges::find(restart_queue_, instance) != restart_queue_.end();
                Worker* worker = current(instance);
                return !waits && (worker == nullptr || !is_moving(worker->state));
            });
        },
        [this, wanted, done = std::move(done)](Result<void> result) {
            for (int instance : wanted) {
                Worker* worker = current(instance);
                if (worker != nullptr && worker->state == State::ready) continue;
                return done(fail("not-ready",
                                 fmt::format("instance {} did not become ready: {}", instance,
                                             worker != nullptr ? worker->reason : "it is gone")));
            }
            done(std::move(result));
        });
    next_restart();
    settle();
}

// One instance at a time, so that the others serve meanwhile.
void Supervisor::next_restart() {
    if (restarting_) {
        Worker* worker = current(*restarting_);
        if (worker != nullptr && (worker->replace_after || is_moving(worker->state)) &&
            worker->state != State::backoff)
            return;
        restarting_.reset();
    }
    if (restart_queue_.empty()) return;
    int instance = restart_queue_.front();
    restart_queue_.pop_front();
    if (!instances_.contains(instance)) return next_restart();  // scaled away meanwhile
    restarting_ = instance;
    Worker* worker = current(instance);
    if (worker != nullptr && is_alive(worker->state))
        return end_worker(worker->id, ExitReason::stopped, true, "restarted by hand");
    if (worker != nullptr) workers_.erase(worker->id);
    spawn(instance);
}

void Supervisor::scale(int wanted, Done done) {
    if (wanted < 1 || wanted > 256)
        return done(fail("bad-value", fmt::format("{} workers: 1 to 256 are possible", wanted)));
    if (stopping_) return done(fail("bad-state", "the cluster is stopping"));
    int before = static_cast<int>(instances_.size());
    for (int instance = before; instance < wanted; instance++)
        instances_[instance].release = stable_;
    for (int instance = before; instance < wanted; instance++) {
        spawn(instance);
        add_to_rollout(instance);
    }
    for (int instance = before - 1; instance >= wanted; instance--) {
        Worker* worker = current(instance);
        instances_.erase(instance);
        drop_from_rollout(instance);
        if (worker != nullptr) end_worker(worker->id, ExitReason::stopped, false, "scaled down");
    }
    if (wanted != before) tell(EventKind::scaled, nullptr, ScaledData{before, wanted});
    when(
        [this] {
            return is_steady() && std::ranges::all_of(workers_, [this](const auto& entry) {
                       return instances_.contains(entry.second.instance);
                   });
        },
        std::move(done));
    settle();
}

void Supervisor::drain(std::optional<WorkerId> target, Done done) {
    if (!target) return drain_cluster(done);
    WorkerId id = *target;
    Worker* worker = find(id);
    if (worker == nullptr) return done(no_such_worker(id));
    if (!is_alive(worker->state) || worker->state == State::draining)
        return done(fail("bad-state", fmt::format("worker {} is {}: only a running worker can be "
                                                  "drained",
                                                  id, name_of(worker->state))));
    if (!worker->held) {
        worker->held = true;
        effects_.deactivate(id);
        tell(EventKind::state, worker, StateData{worker->state, worker->state, "held"});
    }
    // The reply waits until its connections are done, but looks no faster than a drain does.
    when(
        [this, id] {
            Worker* held = find(id);
            return held == nullptr || !held->held || effects_.is_drained(id);
        },
        std::move(done));
    start_drain_watch();
    settle();
}

void Supervisor::resume(std::optional<WorkerId> target, const Done& done) {
    if (!target) return resume_cluster(done);
    WorkerId id = *target;
    Worker* worker = find(id);
    if (worker == nullptr) return done(no_such_worker(id));
    if (!worker->held)
        return done(fail("bad-state", fmt::format("worker {} is not held: nothing to resume", id)));
    worker->held = false;
    if (worker->state == State::ready && may_serve(*worker)) effects_.activate(id);
    tell(EventKind::state, worker, StateData{worker->state, worker->state, "resumed"});
    done({});
    settle();
}

// Whoever asks, by --agent or the status, is told; nothing else happens.
void Supervisor::drain_cluster(const Done& done) {
    if (stopping_ || leave_timer_.is_active())
        return done(fail("bad-state", "the cluster is stopping"));
    if (!is_drained_) {
        drained_since_ = std::chrono::steady_clock::now();
        log::info(fmt::format("{}: load balancers are told to send nothing new", config_.name));
    }
    is_drained_ = is_dirty_ = true;
    done({});
    settle();
}

void Supervisor::resume_cluster(const Done& done) {
    if (stopping_ || leave_timer_.is_active())
        return done(fail("bad-state", "the cluster is stopping"));
    if (!is_drained_)
        return done(fail("bad-state", fmt::format("{} is not drained as a whole: nothing to "
                                                  "resume; of a worker, give its ID, too",
                                                  config_.name)));
    is_drained_ = false;
    is_dirty_ = true;
    log::info(fmt::format("{}: load balancers may send connections again", config_.name));
    done({});
    settle();
}

void Supervisor::probe(WorkerId id, const std::string& path, Effects::Asked done) {
    Worker* worker = find(id);
    if (worker == nullptr) return done(tl::unexpected(no_such_worker(id).error()));
    if (!is_alive(worker->state))
        return done(fail("bad-state", fmt::format("worker {} is {}: nobody answers", id,
                                                  name_of(worker->state))));
    if (config_.policy == Policy::shared)
        return done(fail("bad-state",
                         "with the policy shared the kernel leaves the choice of the worker to "
                         "chance: a given one cannot be asked"));
    effects_.ask(id, path, std::move(done));
}

void Supervisor::weight(WorkerId id, int weight, const Done& done) {
    if (weight < 1 || weight > 100)
        return done(fail("bad-value", fmt::format("weight {}: 1 to 100 are possible", weight)));
    Worker* worker = find(id);
    if (worker == nullptr) return done(no_such_worker(id));
    instance_of(*worker).weight = weight;
    if (is_alive(worker->state)) effects_.set_weight(id, weight);
    is_dirty_ = true;
    done({});
    settle();
}

void Supervisor::rescue(WorkerId id, Done done) {
    Worker* worker = find(id);
    if (worker == nullptr) return done(no_such_worker(id));
    if (!is_alive(worker->state))
        return done(fail("bad-state", fmt::format("worker {} is {}: nothing waits for it", id,
                                                  name_of(worker->state))));
    worker->rescues.push_back(std::move(done));
    relieve(*worker);
}

void Supervisor::signal(std::optional<WorkerId> target, int number, const Done& done) {
    std::vector<WorkerId> targets;
    if (target) {
        Worker* worker = find(*target);
        if (worker == nullptr) return done(no_such_worker(*target));
        if (!worker->pid)
            return done(fail("bad-state", fmt::format("worker {} is {}: it has no process", *target,
                                                      name_of(worker->state))));
        targets.push_back(*target);
    } else {
        for (const auto& [id, worker] : workers_)
            if (worker.pid) targets.push_back(id);
    }
    for (WorkerId id : targets)
        if (auto sent = effects_.signal(id, number); !sent) return done(sent);
    done({});
}

// Whom it does not reach is said; the others get it all the same.
void Supervisor::send(std::optional<WorkerId> target, const std::string& data, const Done& done) {
    if (target && find(*target) == nullptr) return done(no_such_worker(*target));
    Error failed;
    for (const auto& [id, worker] : workers_) {
        if (target ? id != *target : !worker.pid) continue;
        auto sent = effects_.send(id, data, 0);
        if (sent) continue;
        failed.code = sent.error().code;
        failed.text +=
            fmt::format("{}worker {}: {}", failed.text.empty() ? "" : "; ", id, sent.error().text);
    }
    if (failed.text.empty()) return done({});
    done(tl::unexpected(failed));
}

void Supervisor::policy(const PolicyChoice& policy, const Done& done) {
    if ((policy == Policy::shared) != (config_.policy == Policy::shared))
        return done(fail("bad-state",
                         "the policy shared is chosen at the start: the workers' sockets are made "
                         "for it, or for all the others"));
    auto set = effects_.set_policy(policy);
    if (set) config_.policy = policy;
    is_dirty_ = true;
    done(set);
    settle();
}

// Who gave an instance, as one does elsewhere, is told its worker.
Result<void> Supervisor::no_such_worker(WorkerId id) const {
    std::string known, meant;
    for (const auto& [other, worker] : workers_) {
        known += fmt::format("{}{}", known.empty() ? "" : ", ", other);
        if (static_cast<WorkerId>(worker.instance) == id)
            meant = fmt::format(" (instance {} is worker {})", id, other);
    }
    return fail("no-such-worker", fmt::format("{} has no worker {}: its workers are {}{}",
                                              config_.name, id, known, meant));
}

void Supervisor::when(std::function<bool()> reached, Done done) {
    pending_.push_back({std::move(reached), std::move(done)});
}

}  // namespace drover::supervisor
