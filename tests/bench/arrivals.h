// SPDX-License-Identifier: MIT
//
// The plan of a load: when each request is due, of which class it is, and on which of the kept
// connections it goes. It is a Poisson process: the gaps between requests are independent and
// exponential, as those of many users who know nothing of each other are. The plan knows nothing of
// the server. The same seed makes the same plan, on every machine and for every mode, so that two
// variants are asked exactly the same.
#pragma once

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace drover::bench {

struct Arrival {
    std::chrono::nanoseconds at{};  // after the beginning of the load
    size_t kind = 0;                // index of its class
    size_t lane = 0;                // which kept connection
};

class Arrivals {
  public:
    // `rate`: requests a second, in the mean. `fixed`: all gaps alike. `weights`: of the classes,
    // in any unit; at least one, all above 0. `lanes`: at least 1.
    Arrivals(double rate, bool fixed, std::vector<double> weights, size_t lanes, uint64_t seed)
        : mean_gap_(1e9 / rate),
          fixed_(fixed),
          bounds_(std::move(weights)),
          lanes_(lanes),
          random_(seed) {
        for (size_t i = 1; i < bounds_.size(); ++i) bounds_[i] += bounds_[i - 1];
    }

    Arrival next() {
        // All three are drawn for each arrival, so that one option does not shift the others.
        double gap = -std::log1p(-uniform()) * mean_gap_;
        double kind = uniform() * bounds_.back();
        double lane = uniform() * static_cast<double>(lanes_);
        at_ += fixed_ ? mean_gap_ : gap;
        Arrival arrival{std::chrono::nanoseconds(static_cast<int64_t>(at_)), 0,
                        static_cast<size_t>(lane)};
        while (arrival.kind + 1 < bounds_.size() && kind >= bounds_[arrival.kind]) ++arrival.kind;
        return arrival;
    }

  private:
    // In [0, 1). Not std::uniform_real_distribution: each library may compute that in its own way.
    double uniform() { return static_cast<double>(random_() >> 11) * 0x1p-53; }

    double mean_gap_;  // ns
    bool fixed_;
    std::vector<double> bounds_;  // upper end of each class's part of the weights' sum
    size_t lanes_;
    std::mt19937_64 random_;
    double at_ = 0;  // ns
};

}  // namespace drover::bench
