// SPDX-License-Identifier: MIT
//
// How much one worker may print: so many lines in so long a time, from its first line on. What is
// beyond is dropped and counted. Pure: the caller has the clock.
#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>

namespace drover::logger {

struct RateLimit {
    uint64_t lines = 0;  // 0: no limit
    std::chrono::milliseconds within{1000};
    bool operator==(const RateLimit&) const = default;
};

class Rate {
  public:
    using Time = std::chrono::steady_clock::time_point;

    // A line of more than so many bytes counts as several: the limit is one of bytes, too.
    static constexpr size_t kBytesPerLine = 1024;

    explicit Rate(RateLimit limit) : limit_(limit) {}

    // Of these whole lines those that may pass: the first ones.
    std::string_view pass(std::string_view lines, Time now);

    // Nothing more may pass until then. The end of a time that has none yet is in the past.
    [[nodiscard]] bool is_spent(Time now) const { return spent_ && now < end_; }
    [[nodiscard]] Time end() const { return end_; }

    // How many were dropped since the last call.
    uint64_t take_dropped();
    [[nodiscard]] bool has_dropped() const { return dropped_ > 0; }

  private:
    RateLimit limit_;
    Time end_;             // of the time that is counted for
    uint64_t passed_ = 0;  // in that time
    bool spent_ = false;
    uint64_t dropped_ = 0;
};

}  // namespace drover::logger
