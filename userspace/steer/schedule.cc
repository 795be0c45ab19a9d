// SPDX-License-Identifier: MIT
#include "steer/schedule.h"

#include <algorithm>
#include <numeric>

namespace drover::steer {

std::vector<uint16_t> make_schedule(std::span<const Share> shares, size_t most) {
    std::vector<uint64_t> turns;
    uint64_t common = 0, total = 0;
    for (const Share& share : shares) {
        turns.push_back(std::max(share.weight, 1u));
        common = std::gcd(common, turns.back());
    }
    // NOLINTNEXTLINE(clang-analyzer-core.DivideZero): each of them is 1 or more, and so is common
    for (uint64_t& its : turns) total += its /= common;
    if (total > most) {
        uint64_t before = total;
        total = 0;
        // Rounded down, so that the sum stays within what there is room for; each gets one first.
        uint64_t room = most - turns.size();
        for (uint64_t& its : turns) total += its = 1 + its * room / before;
    }
    // Each turn everybody gains its share; who has most takes the turn and pays for all.
    std::vector<int64_t> credit(turns.size(), 0);
    std::vector<uint16_t> schedule;
    schedule.reserve(total);
    while (schedule.size() < total) {
        for (size_t i = 0; i < turns.size(); i++) credit[i] += static_cast<int64_t>(turns[i]);
        auto richest = std::ranges::max_element(credit) - credit.begin();
        credit[static_cast<size_t>(richest)] -= static_cast<int64_t>(total);
        schedule.push_back(shares[static_cast<size_t>(richest)].slot);
    }
    return schedule;
}

}  // namespace drover::steer
