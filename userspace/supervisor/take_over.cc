// SPDX-License-Identifier: MIT
//
// The supervisor's part in going on where a master was killed: what it writes down of itself, and
// what it makes of that.
#include <algorithm>

#include "supervisor/supervisor.h"

namespace drover::supervisor {

namespace {

using std::chrono::duration_cast;
using std::chrono::milliseconds;
using std::chrono::system_clock;

int64_t ms_since_1970(WallTime time) {
    return duration_cast<milliseconds>(time.time_since_epoch()).count();
}

}  // namespace

void Supervisor::save() {
    SavedState state;
    auto note = [&state](const Release& release) {
        state.releases.try_emplace(release.generation, *release.config);
        return release.generation;
    };
    state.stable = note(stable_);
    if (trial_) state.trial = note(*trial_);
    if (former_) state.former = note(*former_);
    state.is_canary = is_canary_;
    state.last_generation = last_generation_;
    state.last_id = last_id_;
    state.is_drained = is_drained_;
    state.policy =
        config_.policy.kind == Policy::custom ? config_.policy.file : name_of(config_.policy);
    for (const auto& [instance, known] : instances_)
        state.instances.push_back(
            {instance, note(known.release), known.weight, known.restarts_total, {}});
    for (const auto& [id, worker] : workers_) {
        if (!is_alive(worker.state)) continue;
        SavedWorker saved;
        saved.id = id;
        saved.instance = worker.instance;
        saved.generation = note(worker.release);
        saved.is_ready = worker.state == State::ready;
        saved.is_held = worker.held;
        saved.is_unhealthy = worker.health.is_unhealthy;
        saved.is_out = worker.is_out;
        saved.is_stalled = worker.stalled_since.has_value();
        saved.is_leaving = worker.state == State::draining || worker.is_candidate;
        saved.started_at_ms = ms_since_1970(worker.started_at);
        state.workers.push_back(saved);
    }
    effects_.save(std::move(state));
}

// Those that live go on as they are. Who was being drained is drained anew, and a candidate ends:
// the rollout that it belonged to is over. An instance without a worker gets one.
void Supervisor::take_over(const SavedState& saved, std::function<void(int)> over) {
    over_ = std::move(over);
    std::map<int, Release> releases;
    for (const auto& [generation, config] : saved.releases)
        releases[generation] = {generation, std::make_shared<const Config>(config)};
    stable_ = releases.at(saved.stable);
    if (saved.trial) trial_ = releases.at(*saved.trial);
    if (saved.former) former_ = releases.at(*saved.former);
    is_canary_ = saved.is_canary && trial_.has_value();
    last_generation_ = saved.last_generation;
    last_id_ = saved.last_id;
    is_drained_ = saved.is_drained;
    drained_since_ = std::chrono::steady_clock::now();
    for (const SavedInstance& one : saved.instances) {
        Instance& instance = instances_[one.instance];
        instance.release = releases.at(one.generation);
        instance.weight = one.weight;
        instance.restarts_total = one.restarts_total;
    }
    std::vector<WorkerId> leaving;
    for (const SavedWorker& one : saved.workers) {
        take_worker(one, releases);
        if (one.is_leaving || !instances_.contains(one.instance)) leaving.push_back(one.id);
    }
    for (WorkerId id : leaving) {
        // One that is newer than the worker which serves was a candidate.
        Worker& worker = *find(id);
        worker.is_candidate = std::ranges::any_of(saved.workers, [&](const SavedWorker& other) {
            return other.instance == worker.instance && !other.is_leaving && other.id < id;
        });
        end_worker(id, ExitReason::stopped, false, "was to end already");
    }
    // As in on_stalled(); those that leave do not count as others.
    for (const auto& [id, worker] : workers_)
        if (worker.stalled_since && others_serve(id)) effects_.deactivate(id);
    for (const auto& [instance, known] : instances_) {
        bool has_worker = std::ranges::any_of(workers_, [&, number = instance](const auto& entry) {
            return entry.second.instance == number && entry.second.state != State::draining;
        });
        if (!has_worker) spawn(instance);
    }
    look_for_due();
    settle();
}

void Supervisor::take_worker(const SavedWorker& saved, const std::map<int, Release>& releases) {
    Worker& worker = workers_[saved.id];
    worker.id = saved.id;
    worker.instance = saved.instance;
    worker.release = releases.at(saved.generation);
    worker.pid = saved.pid;
    worker.slot = saved.slot;
    worker.held = saved.is_held;
    worker.started_at = WallTime(milliseconds(saved.started_at_ms));
    auto up = std::max(milliseconds(0),
                       duration_cast<milliseconds>(system_clock::now() - worker.started_at));
    worker.spawned = std::chrono::steady_clock::now() - up;
    worker.jitter = std::uniform_real_distribution<double>(0, 1)(random_);
    // Drained ones had connections: they are drained as such.
    bool has_served = saved.is_ready || saved.is_leaving;
    worker.state = has_served ? State::ready : State::online;
    if (has_served) worker.ready_since = worker.spawned;
    if (!has_served) carry_out(saved.id, Action::start_ready_timer);
    if (!has_served) return;
    start_watchdog(saved.id);
    start_checks(worker);
    worker.health.is_unhealthy = saved.is_unhealthy;
    if (saved.is_unhealthy) worker.health.failures = worker.config().health_failures;
    worker.is_out = saved.is_out;
    if (!saved.is_stalled || config_.stall_after.count() == 0) return;
    worker.stalled_since = std::chrono::steady_clock::now();
    start_stall_timer(worker);
}

}  // namespace drover::supervisor
