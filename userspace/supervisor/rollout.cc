// SPDX-License-Identifier: MIT
#include "supervisor/rollout.h"

#include <fmt/format.h>

#include <cmath>

namespace drover::supervisor {

Result<Config> changed_config(Config base, const ReloadRequest& request) {
    for (const auto& [name, value] : request.options) {
        const Option* option = find_option(name);
        if (option != nullptr && !option->fixed.empty())
            return fail("usage",
                        fmt::format("--{} cannot change in a reload: {}", name, option->fixed));
        if (auto set = set_option(base, name, value); !set) return tl::unexpected(set.error());
    }
    if (!request.command.empty()) base.command = request.command;
    return complete(std::move(base));
}

std::vector<int> Rollout::next() {
    std::vector<int> now;
    while (!waiting_.empty() && static_cast<int>(under_way_.size()) < parallel_) {
        now.push_back(waiting_.front());
        under_way_.insert(waiting_.front());
        waiting_.pop_front();
    }
    return now;
}

void Rollout::replaced(int instance) {
    if (under_way_.erase(instance) > 0) done_++;
}

void Rollout::dropped(int instance) {
    auto was = under_way_.erase(instance) + std::erase(waiting_, instance);
    if (was > 0) total_--;
}

void Rollout::add(int instance) {
    waiting_.push_back(instance);
    total_++;
}

std::optional<Due> is_due(const Config& config, const WorkerAge& age) {
    constexpr double kMostJitter = 0.1;
    auto lifetime =
        config.max_lifetime -
        std::chrono::milliseconds(std::llround(static_cast<double>(config.max_lifetime.count()) *
                                               kMostJitter * age.jitter));
    if (config.max_lifetime.count() > 0 && age.up >= lifetime)
        return Due{ExitReason::recycle,
                   fmt::format("it has run for {} s (--max-lifetime)", age.up.count() / 1000)};
    if (config.max_memory > 0 && age.memory_bytes > config.max_memory)
        return Due{ExitReason::memory,
                   fmt::format("it uses {} MiB (--max-memory)", age.memory_bytes >> 20)};
    if (config.max_connections > 0 && age.accepted_total >= config.max_connections)
        return Due{ExitReason::recycle, fmt::format("it has taken {} connections "
                                                    "(--max-connections)",
                                                    age.accepted_total)};
    return std::nullopt;
}

bool has_limits(const Config& config) {
    return config.max_lifetime.count() > 0 || has_counted_limits(config);
}

bool has_counted_limits(const Config& config) {
    return config.max_memory > 0 || config.max_connections > 0;
}

}  // namespace drover::supervisor
