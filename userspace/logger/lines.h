// SPDX-License-Identifier: MIT
//
// Turns the bytes that a worker prints into whole lines. Pure, and fit for hostile input: memory is
// bounded.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

namespace drover::logger {

class LineSplitter {
  public:
    static constexpr size_t kLongest = 64 * 1024;  // bytes; longer lines are cut into pieces

    // Takes the next bytes; returns the lines that are whole now, each with its newline. What is
    // left waits for the next call.
    std::string feed(std::string_view bytes);

    // The end: what is left, completed by a newline.
    std::string finish();

  private:
    std::string partial_;   // at most kLongest bytes
    bool was_cut_ = false;  // the present line already gave a piece
};

// Calls `tell(line)` with each of these lines, without its newline.
template <class Tell>
void each_line(std::string_view lines, Tell tell) {
    while (!lines.empty()) {
        auto end = lines.find('\n');
        tell(lines.substr(0, end));
        lines.remove_prefix(end == std::string_view::npos ? lines.size() : end + 1);
    }
}

}  // namespace drover::logger
