// SPDX-License-Identifier: MIT
#include "logger/tail.h"

namespace drover::logger {

// From the end: of what a worker prints as fast as it can, only the last lines are looked at.
void Tail::feed(std::string_view lines) {
    std::deque<std::string> latest;
    while (!lines.empty() && latest.size() < kLines) {
        lines.remove_suffix(lines.ends_with('\n') ? 1 : 0);
        auto begin = lines.rfind('\n') + 1;  // npos + 1 is 0
        auto line = lines.substr(begin);
        latest.emplace_front(line.substr(0, kLongest));
        lines = lines.substr(0, begin);
    }
    for (std::string& line : latest) lines_.push_back(std::move(line));
    while (lines_.size() > kLines) lines_.pop_front();
}

}  // namespace drover::logger
