// SPDX-License-Identifier: MIT
//
// Whose a port is: steering claims the ports on which its workers listen, and tells of conflicts.
// How a port is locked, and who else may have it, is in ports.cc.
#include <fmt/format.h>

#include <algorithm>

#include "steer/steering.h"

namespace drover::steer {

// True when the port is the cluster's. A conflict is told once, for the worker that met it.
bool Steering::own_port(uint32_t worker, const Endpoint& endpoint) {
    auto claimed = claim_port(endpoint);
    if (claimed) return true;
    // Who has served here since before the take-over serves on meanwhile.
    if (options_.take_over && claimed.error().may_pass) {
        observer_.on_trouble(
            fmt::format("{}; trying again in {} s", claimed.error().text, kReconcileEvery.count()));
        return true;
    }
    observer_.on_conflict(worker, claimed.error());
    return false;
}

tl::expected<void, Conflict> Steering::claim_port(const Endpoint& endpoint) {
    // Not by the flag: a dead master has left it there.
    if (ownership_.owns(endpoint.port())) return {};
    auto claimed = ownership_.claim(endpoint, [this](uint64_t cgroup) { return is_ours(cgroup); });
    // Where that fails each further bind is told, which changes nothing.
    if (claimed)
        (void)programs_->set_port(endpoint.port(),
                                  programs_->port_flags(endpoint.port()) | DROVER_PORT_OWNED);
    return claimed;
}

// What could not be claimed at the take-over.
bool Steering::claim_ports() {
    return std::ranges::all_of(groups_, [this](const auto& entry) {
        return claim_port(entry.second.endpoint).has_value();
    });
}

}  // namespace drover::steer
