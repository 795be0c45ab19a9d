// SPDX-License-Identifier: MIT
//
// Which lines of a cluster's log are wanted. Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/log_line.h"
#include "base/result.h"

namespace drover::cli {

struct LogQuery {
    std::string cluster;
    std::optional<uint64_t> worker;  // by its ID
    std::optional<uint64_t> last;    // just so many of the last ones
    std::optional<WallTime> since;
    bool follow = false;

    [[nodiscard]] bool wants(const LogLine& line) const {
        return (!worker || (line.worker && line.worker->id == *worker)) &&
               (!since || line.time >= *since);
    }
};

// Takes one line. False: there is nobody any more who reads them.
using OnLogLine = std::function<bool(const LogLine& line)>;

// "10m" before now, or a time as RFC 3339 in UTC.
Result<WallTime> parse_since(const std::string& text, WallTime now);

}  // namespace drover::cli
