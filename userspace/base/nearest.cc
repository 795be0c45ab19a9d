// SPDX-License-Identifier: MIT
#include "base/nearest.h"

#include <algorithm>

namespace drover {

// Optimal string alignment, with the whole matrix: the words are a few letters long.
size_t edit_distance(std::string_view one, std::string_view other) {
    std::vector<std::vector<size_t>> cost(one.size() + 1, std::vector<size_t>(other.size() + 1));
    for (size_t i = 0; i <= one.size(); ++i) {
        for (size_t j = 0; j <= other.size(); ++j) {
            if (i == 0 || j == 0) {
                cost[i][j] = i + j;
                continue;
            }
            size_t replaced = cost[i - 1][j - 1] + (one[i - 1] == other[j - 1] ? 0 : 1);
            cost[i][j] = std::min({replaced, cost[i - 1][j] + 1, cost[i][j - 1] + 1});
            bool swapped =
                i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1];
            if (swapped) cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
        }
    }
    return cost[one.size()][other.size()];
}

std::optional<std::string> nearest(std::string_view word,
                                   const std::vector<std::string>& candidates) {
    constexpr size_t kLongestWord = 64;  // no candidate is as long; bounds the work
    if (word.empty() || word.size() > kLongestWord) return std::nullopt;
    size_t limit = word.size() <= 3 ? 1 : word.size() <= 8 ? 2 : 3;
    std::optional<std::string> best;
    for (const auto& candidate : candidates) {
        size_t distance = edit_distance(word, candidate);
        if (distance > limit || (best && distance == limit)) continue;
        best = candidate;
        limit = distance;
    }
    return best;
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates,
                         std::string_view prefix) {
    auto meant = nearest(word, candidates);
    return meant ? ": did you mean " + std::string(prefix) + *meant + "?" : "";
}

}  // namespace drover
