// SPDX-License-Identifier: MIT
//
// Signs of life: whether a worker is ready, what it answers to probes, its watchdog, the load that
// it reports, its word that it stops, and whether it takes the connections that wait for it.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <string>

#include "supervisor/readiness.h"
#include "supervisor/supervisor.h"

namespace drover::supervisor {

namespace {

constexpr std::chrono::milliseconds kProbeTimeout{5'000};
constexpr std::chrono::milliseconds kProbeAgain{100};  // after a probe that failed

}  // namespace

std::set<int> Supervisor::ports_of(const Worker& worker) const {
    std::set<int> ports;
    for (const auto& [address, port] : worker.endpoints) ports.insert(port);
    return ports;
}

std::set<int> Supervisor::ports_of_ready() const {
    std::set<int> ports;
    for (const auto& [id, worker] : workers_)
        if (worker.state == State::ready) ports.merge(ports_of(worker));
    return ports;
}

void Supervisor::check_ready(Worker& worker) {
    if (worker.state != State::online && worker.state != State::listening) return;
    if (worker.conflict) return;  // it is being killed
    std::set<int> named;
    for (const Port& port : config_.ports) named.insert(port.number);
    for (const Port& port : config_.listen) named.insert(port.number);
    bool listens = listens_on_enough(ports_of(worker), named, ports_of_ready());
    const Config& config = worker.config();
    if (!listens && !worker.endpoints.empty())
        worker.reason = fmt::format("listens on port {} and is expected on others, too",
                                    fmt::join(ports_of(worker), ", "));
    if (is_probed(config.ready)) {
        if (listens) probe_until_ready(worker);
        return;
    }
    bool ready = config.ready == Ready::listening
                     ? listens
                     : config.ready == Ready::exec || worker.said_ready;
    if (ready) apply(worker.id, Trigger::is_ready);
}

// One probe at a time, the next a little after the last one failed, until --ready-timeout.
void Supervisor::probe_until_ready(Worker& worker) {
    if (worker.is_probed) return;
    worker.is_probed = true;
    effects_.probe(worker.id, worker.config().ready_path, kProbeTimeout);
}

void Supervisor::on_probed(WorkerId id, const Result<void>& result) {
    Worker* worker = find(id);
    if (worker == nullptr) return;
    worker->is_probed = false;
    if (std::exchange(worker->is_being_checked, false)) return on_checked(*worker, result);
    if (worker->state != State::online && worker->state != State::listening) return;
    if (result) {
        apply(id, Trigger::is_ready);
        return settle();
    }
    worker->reason = fmt::format("not ready: {}", result.error().text);
    worker->probe_timer = loop_.after(kProbeAgain, [this, id] {
        if (Worker* again = find(id)) check_ready(*again);
        settle();
    });
}

// From ready on, and anew with each sign.
void Supervisor::start_watchdog(WorkerId id) {
    Worker* worker = find(id);
    if (worker == nullptr || worker->config().watchdog.count() == 0) return;
    auto patience = worker->own_watchdog.value_or(worker->config().watchdog);
    worker->watchdog_timer = loop_.after(patience, [this, id, patience] {
        Worker* silent = find(id);
        if (silent == nullptr || silent->state != State::ready) return;
        silent->ending = ExitReason::unhealthy;
        silent->fault = fmt::format("gave no sign of life for {} ms", patience.count());
        apply(id, Trigger::hangs, silent->fault);
        settle();
    });
}

void Supervisor::on_alive(WorkerId id) {
    Worker* worker = find(id);
    if (worker != nullptr && worker->state == State::ready) start_watchdog(id);
}

void Supervisor::on_watchdog_interval(WorkerId id, std::chrono::milliseconds interval) {
    Worker* worker = find(id);
    if (worker == nullptr) return;
    worker->own_watchdog = interval;
    on_alive(id);
}

// It ends by its own will: it gets no new connections and, until --drain-timeout, no signal.
void Supervisor::on_stopping(WorkerId id) {
    Worker* worker = find(id);
    if (worker == nullptr || worker->state == State::draining) return;
    worker->stops_itself = true;
    apply(id, Trigger::drain, "it stops by itself");
    settle();
}

void Supervisor::on_load(WorkerId id, double value) {
    if (Worker* worker = find(id)) worker->load = value;
}

bool Supervisor::may_serve(const Worker& worker) const {
    return !worker.held && !worker.stalled_since && !worker.is_candidate && !worker.is_out;
}

bool Supervisor::others_serve(WorkerId id) const {
    return std::ranges::any_of(workers_, [&](const auto& entry) {
        return entry.first != id && entry.second.state == State::ready && may_serve(entry.second);
    });
}

// It gets no new connections, and those that wait for it go to the others. But the last one that
// serves is left alone: there is nobody who would do better.
void Supervisor::on_stalled(WorkerId id, uint64_t queued) {
    Worker* worker = find(id);
    if (worker == nullptr || !is_alive(worker->state)) return;
    if (!worker->stalled_since) {
        worker->stalled_since = std::chrono::steady_clock::now();
        tell(EventKind::stalled, worker, StalledData{queued});
        start_stall_timer(*worker);
    }
    if (others_serve(id)) {
        effects_.deactivate(id);
        relieve(*worker);
    }
    settle();
}

// Once at a time: on a busy machine it may stall again before the former one is done.
void Supervisor::relieve(Worker& worker) {
    if (std::exchange(worker.is_being_relieved, true)) return;
    effects_.rescue(worker.id);
}

void Supervisor::start_stall_timer(Worker& worker) {
    auto patience = worker.config().stall_kill;
    if (patience.count() == 0) return;
    worker.stall_timer = loop_.after(patience, [this, id = worker.id] {
        Worker* stuck = find(id);
        if (stuck == nullptr || stuck->state != State::ready) return;
        stuck->ending = ExitReason::stalled;
        stuck->fault = fmt::format("took no connection for {} ms",
                                   (config_.stall_after + stuck->config().stall_kill).count());
        apply(id, Trigger::hangs, stuck->fault);
        settle();
    });
}

void Supervisor::on_recovered(WorkerId id) {
    Worker* worker = find(id);
    if (worker == nullptr || !worker->stalled_since) return;
    auto after = std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::steady_clock::now() - *worker->stalled_since);
    worker->stalled_since.reset();
    worker->stall_timer.reset();
    if (worker->state == State::ready && may_serve(*worker)) effects_.activate(id);
    tell(EventKind::recovered, worker, RecoveredData{after});
    settle();
}

void Supervisor::on_rescued(WorkerId id, const Result<uint64_t>& moved) {
    Worker* worker = find(id);
    if (worker == nullptr) return;
    worker->is_being_relieved = false;
    if (moved && *moved > 0) tell(EventKind::rescued, worker, RescuedData{*moved});
    auto waiting = std::exchange(worker->rescues, {});
    // Not when it could not be stopped in time, or is just being relieved for another reason, or
    // the others have just gone: it will be tried again when it still hangs.
    static const std::set<std::string> kTriedAgain = {"not-frozen", "bad-state"};
    if (waiting.empty() && !moved && !kTriedAgain.contains(moved.error().code))
        on_trouble(id, {moved.error().code, moved.error().text});
    for (Done& done : waiting) done(moved ? Result<void>() : tl::unexpected(moved.error()));
    settle();
}

}  // namespace drover::supervisor
