// SPDX-License-Identifier: MIT
#include "logger/lines.h"

#include <algorithm>

namespace drover::logger {

std::string LineSplitter::feed(std::string_view bytes) {
    std::string lines;
    while (!bytes.empty()) {
        auto newline = bytes.find('\n');
        auto part = bytes.substr(0, std::min(newline, kLongest - partial_.size()));
        partial_ += part;
        bytes.remove_prefix(part.size());
        bool is_whole = !bytes.empty() && bytes.front() == '\n';
        if (is_whole) bytes.remove_prefix(1);
        if (!is_whole && partial_.size() < kLongest) break;
        // The newline after a last piece of full length ends that piece, it is no empty line.
        if (!partial_.empty() || !was_cut_) lines.append(partial_).append("\n");
        partial_.clear();
        was_cut_ = !is_whole;
    }
    return lines;
}

std::string LineSplitter::finish() {
    was_cut_ = false;
    if (partial_.empty()) return {};
    return std::exchange(partial_, {}) + '\n';
}

}  // namespace drover::logger
