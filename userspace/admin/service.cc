// SPDX-License-Identifier: MIT
#include "admin/service.h"

#include <fmt/format.h>
#include <sys/xattr.h>
#include <systemd/sd-daemon.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>

#include "admin/narrator.h"
#include "base/cgroup.h"
#include "base/log.h"

namespace drover::admin {

namespace {

// No cluster has such a name.
constexpr const char* kOwnCgroup = "_master";

constexpr std::chrono::milliseconds kStatusDelay{200};  // a burst of events is one STATUS=

bool is_service() {
    const char* socket = std::getenv("NOTIFY_SOCKET");
    return socket != nullptr && *socket != '\0';
}

// systemd marks what it has delegated; in a container it can only set the second.
bool is_delegated(const std::string& cgroup) {
    char value = 0;
    for (const char* mark : {"trusted.delegate", "user.delegate"})
        if (::getxattr(cgroup.c_str(), mark, &value, 1) == 1 && value == '1') return true;
    return false;
}

uint64_t monotonic_microseconds() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000 +
           static_cast<uint64_t>(now.tv_nsec) / 1000;
}

// All are ready, or some are and the others will not be.
bool is_settled(const supervisor::Status& status) {
    if (status.ready >= status.wanted) return true;
    return status.ready > 0 && std::ranges::none_of(status.workers, [](const auto& worker) {
               return supervisor::is_moving(worker.state);
           });
}

bool changes_status(supervisor::EventKind kind) {
    using supervisor::EventKind;
    return kind == EventKind::ready || kind == EventKind::exit || kind == EventKind::state ||
           kind == EventKind::scaled || kind == EventKind::reload ||
           kind == EventKind::restart_limit;
}

}  // namespace

std::string status_text(const supervisor::Status& status, bool is_reloading) {
    if (status.state == "stopping")
        return fmt::format("stopping; {} {} left", status.workers.size(),
                           status.workers.size() == 1 ? "worker is" : "workers are");
    auto where = endpoints_text(status);
    return fmt::format("{} of {} ready{}{}; generation {}{}", status.ready, status.wanted,
                       where.empty() ? "" : " on ", where, status.generation,
                       is_reloading ? "; reloading" : "");
}

Service::Service(EventLoop& loop) : loop_(loop), is_service_(is_service()) {
    if (is_service_) loop_.feed_watchdog();
}

void Service::on_event(const supervisor::Event& event, const supervisor::Supervisor& supervisor) {
    if (!is_service_ || !changes_status(event.kind)) return;
    if (event.kind == supervisor::EventKind::reload) {
        using supervisor::ReloadPhase;
        auto phase = std::get<supervisor::ReloadData>(event.data).phase;
        if (phase == ReloadPhase::started) {
            is_reloading_ = true;
            return tell(fmt::format("RELOADING=1\nMONOTONIC_USEC={}\n", monotonic_microseconds()),
                        supervisor.status());
        }
        if (phase != ReloadPhase::worker && is_reloading_) {
            is_reloading_ = false;
            told_ready_ = true;
            return tell("READY=1\n", supervisor.status());
        }
    }
    if (supervisor.is_stopping() && !told_stopping_) {
        told_stopping_ = true;
        return tell("STOPPING=1\n", supervisor.status());
    }
    if (!told_ready_) return look(supervisor);
    if (!later_.is_active())
        later_ = loop_.after(kStatusDelay, [this, &supervisor] { look(supervisor); });
}

void Service::look(const supervisor::Supervisor& supervisor) {
    later_.reset();
    if (!is_service_) return;
    auto status = supervisor.status();
    bool is_ready = !told_ready_ && !told_stopping_ && is_settled(status);
    if (is_ready) told_ready_ = true;
    tell(is_ready ? "READY=1\n" : "", status);
}

void Service::tell(const std::string& news, const supervisor::Status& status) {
    auto text = status_text(status, is_reloading_);
    if (news.empty() && text == told_status_) return;
    told_status_ = text;
    ::sd_notify(0, fmt::format("{}STATUS={}", news, text).c_str());
}

std::optional<std::string> enter_unit() {
    auto mount = Cgroup::mount_point();
    if (!is_service() || !mount) return std::nullopt;
    std::string unit = *mount + Cgroup::own();
    if (!is_delegated(unit)) return std::nullopt;
    auto own = Cgroup::create(fmt::format("{}/{}", unit, kOwnCgroup));
    auto entered = own ? own->enter() : tl::unexpected(own.error());
    if (entered) return unit;
    log::warn(
        fmt::format("{}: the cluster's cgroup is not made in the unit's", entered.error().text));
    return std::nullopt;
}

}  // namespace drover::admin
