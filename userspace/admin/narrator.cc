// SPDX-License-Identifier: MIT
#include "admin/narrator.h"

#include <fmt/format.h>

#include "base/log.h"

namespace drover::admin {

namespace {

std::string how(const supervisor::Exit& exit) {
    if (exit.signal) return fmt::format("killed by SIG{}", *exit.signal);
    return fmt::format("exit status {}", exit.code.value_or(0));
}

}  // namespace

std::string endpoints_text(const supervisor::Status& status) {
    std::string text;
    for (const auto& group : status.groups)
        text += fmt::format("{}{}", text.empty() ? "" : ", ",
                            group.addr.find(':') == std::string::npos
                                ? fmt::format("{}:{}", group.addr, group.port)
                                : fmt::format("[{}]:{}", group.addr, group.port));
    return text;
}

std::string ready_text(const supervisor::Status& status) {
    auto where = endpoints_text(status);
    return fmt::format("{}: {} {} ready{}{}", status.cluster, status.ready,
                       status.ready == 1 ? "worker is" : "workers are", where.empty() ? "" : " on ",
                       where);
}

void Narrator::on_event(const supervisor::Event& event, const supervisor::Supervisor& supervisor) {
    using supervisor::EventKind;
    std::string who =
        event.worker ? fmt::format("{}/{}", cluster_, event.worker->instance) : cluster_;
    switch (event.kind) {
        case EventKind::ready: {
            if (told_ready_) break;
            auto status = supervisor.status();
            if (status.ready < status.wanted) break;
            told_ready_ = true;
            log::info(ready_text(status));
            break;
        }
        case EventKind::exit: {
            const auto& data = std::get<supervisor::ExitData>(event.data);
            if (data.exit.reason == supervisor::ExitReason::crash)
                log::warn(fmt::format("{}: worker {} (pid {}) ended by itself: {}", who,
                                      event.worker->id, event.worker->pid, how(data.exit)));
            break;
        }
        case EventKind::state: {
            const auto& data = std::get<supervisor::StateData>(event.data);
            if (data.to == supervisor::State::draining && !data.reason.empty())
                log::info(fmt::format("{}: worker {} is draining: {}", who, event.worker->id,
                                      data.reason));
            break;
        }
        case EventKind::stalled: {
            const auto& data = std::get<supervisor::StalledData>(event.data);
            log::warn(fmt::format("{}: worker {} (pid {}) takes no connections: {} wait for it",
                                  who, event.worker->id, event.worker->pid, data.queued));
            break;
        }
        case EventKind::recovered: {
            const auto& data = std::get<supervisor::RecoveredData>(event.data);
            log::info(fmt::format("{}: worker {} takes connections again, after {} ms", who,
                                  event.worker->id, data.after.count()));
            break;
        }
        case EventKind::scaled: {
            const auto& data = std::get<supervisor::ScaledData>(event.data);
            log::info(fmt::format("{}: scaled from {} to {} workers", who, data.from, data.to));
            break;
        }
        case EventKind::reload: {
            const auto& data = std::get<supervisor::ReloadData>(event.data);
            tell_reload(data, event, supervisor);
            break;
        }
        default:
            break;
    }
}

void Narrator::tell_reload(const supervisor::ReloadData& data, const supervisor::Event& event,
                           const supervisor::Supervisor& supervisor) const {
    using supervisor::ReloadPhase;
    switch (data.phase) {
        case ReloadPhase::started:
            return log::info(
                fmt::format("{}: {} workers are to be replaced", cluster_, data.total));
        case ReloadPhase::worker:
            return log::info(
                fmt::format("{}/{}: worker {} of generation {} has taken over, {} of {}", cluster_,
                            event.worker->instance, event.worker->id, event.worker->generation,
                            data.done, data.total));
        case ReloadPhase::canary:
            return log::info(fmt::format("{}: the canary serves", cluster_));
        case ReloadPhase::promoted:
        case ReloadPhase::rolled_back:
        case ReloadPhase::done:
            return log::info(
                fmt::format("{}: generation {} serves", cluster_, supervisor.status().generation));
        case ReloadPhase::failed:
            return log::error(fmt::format("{}: the reload {}", cluster_, data.error));
    }
}

}  // namespace drover::admin
