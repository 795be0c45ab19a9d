// SPDX-License-Identifier: MIT
//
// The last lines of a worker, for whoever asks why it ended.
#pragma once

#include <deque>
#include <string>
#include <string_view>

namespace drover::logger {

class Tail {
  public:
    static constexpr size_t kLines = 20;
    static constexpr size_t kLongest = 1024;  // bytes; the rest of a longer line is left out

    // Takes whole lines, each with its newline.
    void feed(std::string_view lines);

    [[nodiscard]] const std::deque<std::string>& lines() const { return lines_; }

  private:
    std::deque<std::string> lines_;
};

}  // namespace drover::logger
