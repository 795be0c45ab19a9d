// SPDX-License-Identifier: MIT
#include "logger/rate.h"

#include <algorithm>
#include <utility>

namespace drover::logger {

std::string_view Rate::pass(std::string_view lines, Time now) {
    if (limit_.lines == 0 || lines.empty()) return lines;
    if (now >= end_) {
        end_ = now + limit_.within;
        passed_ = 0;
        spent_ = false;
    }
    size_t length = 0;
    while (length < lines.size() && passed_ < limit_.lines) {
        auto end = std::min(lines.find('\n', length), lines.size() - 1) + 1;
        passed_ += 1 + (end - length - 1) / kBytesPerLine;
        length = end;
    }
    spent_ = passed_ >= limit_.lines;
    auto rest = lines.substr(length);
    dropped_ += static_cast<uint64_t>(std::count(rest.begin(), rest.end(), '\n'));
    return lines.substr(0, length);
}

uint64_t Rate::take_dropped() {
    return std::exchange(dropped_, 0);
}

}  // namespace drover::logger
