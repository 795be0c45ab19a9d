// SPDX-License-Identifier: MIT
//
// Counts of durations in buckets whose width grows with the value, as HdrHistogram has them: every
// figure is less than one percent too high, over the whole range and in constant memory. Histograms
// add up: that of all requests is the sum of those of the classes.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace drover::bench {

class Histogram {
  public:
    using Duration = std::chrono::nanoseconds;

    void add(Duration duration) {
        auto value = static_cast<uint64_t>(std::max<int64_t>(duration.count(), 0));
        ++counts_[index_of(value)];
        ++total_;
        sum_ += static_cast<double>(value);
        most_ = std::max(most_, value);
    }

    void merge(const Histogram& other) {
        for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
        total_ += other.total_;
        sum_ += other.sum_;
        most_ = std::max(most_, other.most_);
    }

    [[nodiscard]] uint64_t count() const { return total_; }

    // What the part `quantile` (0 to 1) of all durations does not exceed; 0 where there are none.
    [[nodiscard]] Duration at(double quantile) const {
        auto wanted = static_cast<uint64_t>(std::ceil(quantile * static_cast<double>(total_)));
        uint64_t seen = 0;
        for (size_t i = 0; i < counts_.size(); ++i) {
            seen += counts_[i];
            if (seen > 0 && seen >= wanted) return Duration(std::min(upper_end(i), most_));
        }
        return Duration(0);
    }

    [[nodiscard]] Duration mean() const {
        return Duration(total_ == 0 ? 0 : std::llround(sum_ / static_cast<double>(total_)));
    }

    // How many durations are longer than that; those within a percent of it may be left out.
    [[nodiscard]] uint64_t longer_than(Duration limit) const {
        uint64_t sum = 0;
        for (size_t i = index_of(static_cast<uint64_t>(limit.count())) + 1; i < counts_.size(); ++i)
            sum += counts_[i];
        return sum;
    }

  private:
    static constexpr unsigned kBits = 7;  // 128 buckets for each power of two
    static constexpr uint64_t kPerPower = 1U << kBits;

    static size_t index_of(uint64_t value) {
        if (value < kPerPower) return value;
        unsigned shift = static_cast<unsigned>(std::bit_width(value)) - 1 - kBits;
        return (shift + 1) * kPerPower + ((value >> shift) - kPerPower);
    }

    static uint64_t upper_end(size_t index) {
        if (index < kPerPower) return index;
        uint64_t shift = index / kPerPower - 1;
        return ((index % kPerPower + kPerPower + 1) << shift) - 1;
    }

    std::array<uint64_t, (64 - kBits + 1) * kPerPower> counts_{};
    uint64_t total_ = 0;
    double sum_ = 0;
    uint64_t most_ = 0;
};

}  // namespace drover::bench
