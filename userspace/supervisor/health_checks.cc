// SPDX-License-Identifier: MIT
//
// The supervisor's part of health checks: when a worker is asked, who is taken out of the active
// set, who is replaced. What follows from the results is decided in health.cc.
//
// A ready worker is asked once in --health-interval, by a connection that reaches just that one. A
// candidate is asked at once, and takes over when it has given one good answer.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "supervisor/supervisor.h"

namespace drover::supervisor {

namespace {

using std::chrono::duration_cast;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kLongestCheck{5'000};

}  // namespace

// From ready on. What an earlier time of its life brought is forgotten.
void Supervisor::start_checks(Worker& worker) {
    worker.health = {};
    worker.is_out = false;
    if (!is_checked(worker.config())) return;
    if (!worker.is_candidate) return plan_check(worker);
    worker.check_timer = loop_.after(milliseconds(0), [this, id = worker.id] { check(id); });
}

void Supervisor::plan_check(Worker& worker) {
    auto now = duration_cast<milliseconds>(steady_clock::now().time_since_epoch());
    auto wait = until_check(now, worker.config().health_interval, worker.instance,
                            static_cast<int>(instances_.size()));
    worker.check_timer = loop_.after(wait, [this, id = worker.id] { check(id); });
}

void Supervisor::check(WorkerId id) {
    Worker* worker = find(id);
    if (worker == nullptr || worker->state != State::ready) return;
    plan_check(*worker);
    if (worker->is_probed) return;  // the last one takes as long as the interval
    worker->is_probed = worker->is_being_checked = true;
    const Config& config = worker->config();
    effects_.probe(id, config.health_path, std::min(config.health_interval, kLongestCheck));
}

void Supervisor::on_checked(Worker& worker, const Result<void>& result) {
    if (worker.state != State::ready) return;
    // An answer that may be another worker's says nothing, unless this one is known to hang.
    bool is_unsure = !result && result.error().code == "moved";
    if (is_unsure && !worker.stalled_since) return;
    WorkerId id = worker.id;
    std::string why = result ? "" : is_unsure ? "takes no connections" : result.error().text;
    auto change = note_check(worker.health, result.has_value(), worker.config().health_failures);
    if (change == HealthChange::unhealthy) {
        worker.reason = fmt::format("unhealthy: {}", why);
        tell(EventKind::state, &worker, StateData{State::ready, State::ready, worker.reason});
        log::warn(fmt::format("{}/{}: worker {} (pid {}) is {}", config_.name, worker.instance, id,
                              worker.pid.value_or(0), worker.reason));
    } else if (change == HealthChange::healthy) {
        worker.reason.clear();
        tell(EventKind::state, &worker, StateData{State::ready, State::ready, "healthy again"});
        log::info(
            fmt::format("{}/{}: worker {} is healthy again", config_.name, worker.instance, id));
    }
    if (worker.is_candidate) {
        if (change == HealthChange::unhealthy) give_candidate_up(worker, why);
        return settle();
    }
    choose_who_is_out(why);
    if (!result) replace_if_unhealthy(*find(id), why);
    settle();
}

Census Supervisor::census() const {
    Census census;
    for (const auto& [id, worker] : workers_) {
        if (!counts_for_health(worker)) continue;
        census.checked++;
        census.failing += worker.health.failures > 0 ? 1 : 0;
        census.unhealthy += worker.health.is_unhealthy ? 1 : 0;
        census.out += worker.is_out ? 1 : 0;
    }
    return census;
}

bool Supervisor::counts_for_health(const Worker& worker) const {
    return worker.state == State::ready && !worker.held && !worker.is_candidate &&
           is_checked(worker.config());
}

void Supervisor::choose_who_is_out(const std::string& why) {
    bool all = all_fail(census());
    if (all && !all_fail_was_told_)
        on_trouble(0, {"all-unhealthy", fmt::format("all workers fail their health check ({}): "
                                                    "they are left alone",
                                                    why)});
    all_fail_was_told_ = all;
    for (auto& [id, worker] : workers_) {
        if (worker.state != State::ready || worker.is_candidate) continue;
        bool was_out = worker.is_out;
        if (!worker.health.is_unhealthy || all || !others_serve(id))
            worker.is_out = false;
        else if (!was_out && counts_for_health(worker))
            worker.is_out = may_take_out(census());
        if (worker.is_out == was_out) continue;
        is_dirty_ = true;
        if (worker.is_out)
            effects_.deactivate(id);
        else if (may_serve(worker))
            effects_.activate(id);
    }
}

// One at a time, and not while others are being replaced for another reason; the next failure asks
// again.
void Supervisor::replace_if_unhealthy(Worker& worker, const std::string& why) {
    bool is_busy =
        stopping_ || leave_timer_.is_active() || rollout_ || restarting_ || !restart_queue_.empty();
    if (is_busy || worker.held || !instances_.contains(worker.instance)) return;
    if (!is_to_be_replaced(worker.health, census(), worker.config().health_failures)) return;
    note_replacement(worker.health);
    start_rollout({Goal::recycle, Rollout({worker.instance}, 1), std::nullopt,
                   ExitReason::unhealthy, fmt::format("it fails its health check ({})", why),
                   [](const Result<void>&) {}, true});
}

// It has had no connection yet, so nobody loses anything.
void Supervisor::give_candidate_up(Worker& candidate, const std::string& why) {
    candidate.fault = fmt::format("fails its health check ({})", why);
    candidate.ending = ExitReason::unhealthy;
    apply(candidate.id, Trigger::end_now, candidate.fault);
}

}  // namespace drover::supervisor
