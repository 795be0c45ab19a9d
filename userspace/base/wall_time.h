// SPDX-License-Identifier: MIT
//
// Times as drover writes them everywhere: RFC 3339 in UTC, "2025-01-31T10:00:00.123Z". Pure.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace drover {

using WallTime = std::chrono::system_clock::time_point;

std::string format_time(WallTime time);

// Nothing where it is anything else; the fraction may be absent or longer.
std::optional<WallTime> parse_time(std::string_view text);

}  // namespace drover
