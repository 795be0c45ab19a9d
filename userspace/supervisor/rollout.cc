// SPDX-License-Identifier: MIT
#include "supervisor/rollout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "supervisor/config_file.h"

namespace drover::supervisor {

namespace {

constexpr std::string_view kConfig = "config";

Result<void> may_change(const std::string& name) {
    const Option* option = find_option(name);
    if (option == nullptr || option->fixed.empty()) return {};
    return fail("usage", fmt::format("--{} cannot change in a reload: {}", name, option->fixed));
}

// Where in its file the option is; where it no longer is, the cluster.
int line_of(const FileCluster& from, const Option& option) {
    for (const FileValue& value : from.values)
        if (value.option == &option) return value.line;
    return from.line;
}

// The command line of a cluster without a file.
Source source_of(const Config& config) {
    if (!config.source.file.empty()) return config.source;
    return {"", config.given.all, config.command};
}

}  // namespace

Result<Config> changed_config(Config base, const ReloadRequest& request) {
    for (const auto& [name, value] : request.options) {
        if (auto may = may_change(name); !may) return tl::unexpected(may.error());
        if (auto set = set_option(base, name, value); !set) return tl::unexpected(set.error());
    }
    if (!request.command.empty()) base.command = request.command;
    return complete(std::move(base));
}

bool is_by_file(const Config& before, const ReloadRequest& request) {
    return !before.source.file.empty() ||
           std::ranges::any_of(request.options,
                               [](const auto& option) { return option.first == kConfig; });
}

Result<Changed> changed_by_file(const Config& before, const ReloadRequest& request) {
    Source source = source_of(before);
    for (const auto& [name, value] : request.options) {
        if (auto may = may_change(name); !may) return tl::unexpected(may.error());
        if (name == kConfig) {
            source.file = value;
        } else {
            source.options.emplace_back(name, value);
        }
    }
    if (!request.command.empty()) source.command = request.command;
    auto configured = configure_anew(source, before.name);
    if (!configured) return tl::unexpected(configured.error());

    Changed changed{std::move(configured->config), {}, {}};
    for (const Option& option : option_table()) {
        auto now = values_of(changed.config, option), was = values_of(before, option);
        bool is_same =
            option.name == "name" ? now.empty() || changed.config.name == before.name : now == was;
        if (is_same || option.fixed.empty()) continue;
        auto cannot = [&](std::string_view why) {
            return fail("usage",
                        fmt::format("{}{} cannot change in a reload: {}",
                                    place_of(source.file, line_of(configured->from, option)),
                                    key_of(option), why));
        };
        bool is_policy = option.name == "policy", is_number = option.name == "workers";
        if (!is_policy && !is_number) return cannot(option.fixed);
        if (request.canary) return cannot("not with a canary; reload without one first");
        if (is_policy) changed.policy = changed.config.policy;
        if (is_number) changed.workers = changed.config.workers.value_or(usable_cpus());
    }
    changed.config.name = before.name;
    changed.config.policy = before.policy;
    changed.config.workers = changed.workers ? changed.workers : before.workers;
    return changed;
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
