// SPDX-License-Identifier: MIT
#include "cli/unit_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace drover::cli {

namespace {

using std::chrono::seconds;

constexpr seconds kMargin{15};          // beyond the times of the cluster's own
constexpr seconds kLongestBackoff{10};  // between two failed starts
constexpr uint64_t kFiles = 524'288;    // systemd's own hard limit
constexpr int64_t kWatchdog = 30;

int64_t up(supervisor::Duration time) {
    return std::chrono::ceil<seconds>(time).count();
}

// All drain at the same time, then all have their stop signal.
int64_t stop_seconds(const supervisor::Config& config) {
    return up(config.drain_timeout + config.stop_timeout + kMargin);
}

// The longest that a start or a reload may take before the cluster itself gives up: all instances
// start together, as often as they may; a reload goes through them one by one.
int64_t start_seconds(const supervisor::Config& config) {
    auto start = (config.ready_timeout + kLongestBackoff) * config.max_restarts.count;
    auto reload = (config.ready_timeout + config.drain_timeout + config.stop_timeout) *
                  config.workers.value_or(supervisor::usable_cpus());
    return up(std::max<supervisor::Duration>(start, reload) + kMargin);
}

// In a value that is no command line, only % is special.
std::string without_specifiers(const std::string& text) {
    std::string escaped;
    for (char c : text) escaped += c == '%' ? std::string("%%") : std::string(1, c);
    return escaped;
}

}  // namespace

std::string unit_word(const std::string& word) {
    constexpr std::string_view kPlain =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@";
    if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
    std::string quoted = "\"";
    for (char c : word) {
        auto byte = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') {
            quoted += fmt::format("\\{}", c);
        } else if (c == '%' || c == '$') {
            quoted += fmt::format("{0}{0}", c);
        } else if (byte < ' ' || byte > '~') {
            quoted += fmt::format("\\x{:02x}", byte);
        } else {
            quoted += c;
        }
    }
    return quoted + "\"";
}

std::string unit_name(const std::string& cluster) {
    return fmt::format("drover-{}.service", cluster);
}

std::string unit_text(const UnitRequest& request) {
    const auto& config = request.config;
    std::string program = unit_word(request.program);
    std::string run = fmt::format("{} run --name {}", program, request.cluster);
    for (const auto& [name, value] : request.options)
        run += fmt::format(" --{} {}", name, unit_word(value));
    if (!request.command.empty()) run += " --";
    for (const auto& word : request.command) run += " " + unit_word(word);

    return fmt::format(
        R"({mark} "drover uninstall {cluster}" removes it. What you add belongs into
# a file of yours: systemctl edit drover-{cluster}
[Unit]
Description=drover cluster {cluster}
Documentation=man:drover(8)
After=network-online.target
Wants=network-online.target
ConditionFileIsExecutable={path}
# A cluster that cannot start is tried again for ever, every RestartSec.
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={run}
ExecReload={program} reload {cluster}
# When the master dies, its workers serve on, and the next master goes on with them.
Restart=always
RestartSec=1
KillMode=process
# Not after "drover stop", nor where the command line is wrong.
RestartPreventExitStatus=0 2
# The time of the workers' drain and of their stop signal, and some more.
TimeoutStopSec={stop}
# The time in which all start, or are replaced in a reload.
TimeoutStartSec={start}
WatchdogSec={watchdog}
TimeoutAbortSec=5
# The cluster's cgroups are made in that of this unit.
Delegate=yes
# A worker that the kernel kills for its memory is replaced; the others serve on.
OOMPolicy=continue
# drover has a limit for each worker: --log-rate.
LogRateLimitIntervalSec=0
LimitNOFILE=1024:{files}

[Install]
WantedBy=multi-user.target
)",
        fmt::arg("mark", kUnitMark), fmt::arg("cluster", request.cluster), fmt::arg("run", run),
        fmt::arg("program", program), fmt::arg("path", without_specifiers(request.program)),
        fmt::arg("stop", stop_seconds(config)), fmt::arg("start", start_seconds(config)),
        fmt::arg("watchdog", kWatchdog),
        fmt::arg("files", std::max(kFiles, config.nofile.value_or(0))));
}

}  // namespace drover::cli
