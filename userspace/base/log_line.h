// SPDX-License-Identifier: MIT
//
// One line of a cluster's log file. Pure.
//
//     2026-11-26T12:00:00.123Z 0/7 out GET / 200
//     2026-11-26T12:00:00.125Z - drover web: 4 workers are ready
//
// The time in UTC; the worker as INSTANCE/ID, or "-" where drover speaks of the whole cluster; the
// stream (out, err, or drover for its own words); the text, made safe. So `grep ' 0/7 '` finds what
// one worker printed, and a sort puts the lines of several files in order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/wall_time.h"

namespace drover {

struct LogWorker {
    int instance = 0;
    uint64_t id = 0;
    bool operator==(const LogWorker&) const = default;
};

enum class LogStream { out, err, drover };
std::string_view name_of(LogStream stream);
std::optional<LogStream> log_stream_of(std::string_view name);

struct LogLine {
    WallTime time;
    std::optional<LogWorker> worker;
    LogStream stream = LogStream::out;
    std::string text;
    bool operator==(const LogLine&) const = default;
};

// What stands in front of the text, with the blank behind it.
std::string log_line_head(WallTime time, const std::optional<LogWorker>& worker, LogStream stream);

// A line without its newline; nothing where it is none of ours.
std::optional<LogLine> parse_log_line(std::string_view line);

}  // namespace drover
