// SPDX-License-Identifier: MIT
//
// Signs of life: what a worker answers to probes, its watchdog, the load that it reports, and its
// word that it stops.
#include <fmt/format.h>

#include "supervisor/supervisor.h"

namespace drover::supervisor {

namespace {

constexpr std::chrono::milliseconds kProbeTimeout{5'000};
constexpr std::chrono::milliseconds kProbeAgain{100};  // after a probe that failed

}  // namespace

// One probe at a time, the next a little after the last one failed, until --ready-timeout.
void Supervisor::probe_until_ready(Worker& worker) {
    if (worker.is_probed) return;
    worker.is_probed = true;
    effects_.probe(worker.id, config_.ready_path, kProbeTimeout);
}

void Supervisor::on_probed(WorkerId id, const Result<void>& result) {
    Worker* worker = find(id);
    if (worker == nullptr) return;
    worker->is_probed = false;
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
    if (worker == nullptr || config_.watchdog.count() == 0) return;
    auto patience = worker->own_watchdog.value_or(config_.watchdog);
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

}  // namespace drover::supervisor
