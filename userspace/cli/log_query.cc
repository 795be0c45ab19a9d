// SPDX-License-Identifier: MIT
#include "cli/log_query.h"

#include <fmt/format.h>

#include "supervisor/config.h"

namespace drover::cli {

Result<WallTime> parse_since(const std::string& text, WallTime now) {
    if (auto time = parse_time(text)) return *time;
    if (auto duration = supervisor::parse_duration(text)) return now - *duration;
    return fail("usage", fmt::format("\"{}\" is neither a duration like 10m nor a time like "
                                     "2026-01-31T10:00:00Z",
                                     text));
}

}  // namespace drover::cli
