// SPDX-License-Identifier: MIT
//
// The supervisor's status: what it knows itself, with the numbers of steering and the cgroups.
#include <unistd.h>

#include <algorithm>

#include "supervisor/supervisor.h"

namespace drover::supervisor {

Config Supervisor::config() const {
    Config config = *stable_.config;
    config.policy = config_.policy;
    config.workers = static_cast<int>(instances_.size());
    return config;
}

Status Supervisor::status() const {
    Numbers numbers = effects_.numbers();
    Status status;
    status.cluster = config_.name;
    status.pid = ::getpid();
    status.version = DROVER_VERSION;
    status.policy = name_of(config_.policy);
    status.generation = stable_.generation;
    status.wanted = static_cast<int>(instances_.size());
    for (const auto& [id, worker] : workers_) {
        WorkerStatus out;
        out.id = id;
        out.instance = worker.instance;
        out.slot = worker.slot;
        out.generation = worker.release.generation;
        out.pid = worker.pid;
        out.state = worker.state;
        if (worker.stalled_since) out.flags.emplace_back("stalled");
        if (worker.health.is_unhealthy) out.flags.emplace_back("unhealthy");
        if (worker.held) out.flags.emplace_back("held");
        if (!worker.reason.empty()) out.reason = worker.reason;
        if (worker.is_candidate && worker.reason.empty()) out.reason = candidate_text(worker);
        if (!worker.status_text.empty()) out.status = worker.status_text;
        out.load = worker.load;
        out.retry_at = worker.retry_at;
        out.started_at = worker.started_at;
        if (auto instance = instances_.find(worker.instance); instance != instances_.end()) {
            out.weight = instance->second.weight;
            out.restarts_total = instance->second.restarts_total;
            out.last_exit = instance->second.last_exit;
        }
        if (auto found = numbers.workers.find(id); found != numbers.workers.end()) {
            out.live = found->second.live;
            out.queued = found->second.queued;
            out.accepted_total = found->second.accepted_total;
            out.cpu_ms_total = found->second.cpu_ms_total;
            out.memory_bytes = found->second.memory_bytes;
            out.log_dropped_total = found->second.log_dropped_total;
        }
        if (worker.state == State::ready && !worker.is_candidate) status.ready++;
        status.workers.push_back(std::move(out));
    }
    for (const GroupNumbers& group : numbers.groups) {
        GroupStatus out{"tcp", group.addr,   group.port,     group.v6only,
                        {},    group.parked, group.decisions};
        for (WorkerId id : group.active)
            if (auto found = workers_.find(id); found != workers_.end())
                out.active.push_back(found->second.instance);
        std::ranges::sort(out.active);
        status.groups.push_back(std::move(out));
    }
    status.state = stopping_ || leave_timer_.is_active() ? "stopping"
                   : status.ready < status.wanted        ? "degraded"
                                                         : "running";
    status.is_drained = is_drained_;
    status.former = std::move(numbers.former);
    status.log = numbers.log;
    status.decisions_total = numbers.decisions;
    status.corrections_total = numbers.corrections_total;
    status.moved_total = numbers.moved_total;
    return status;
}

}  // namespace drover::supervisor
