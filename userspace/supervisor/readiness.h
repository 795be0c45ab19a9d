// SPDX-License-Identifier: MIT
//
// Of several ports, which must a worker listen on before it is ready? All that were named; else all
// that its ready peers have; else the first it opens. Pure.
#pragma once

#include <algorithm>
#include <set>

namespace drover::supervisor {

inline bool listens_on_enough(const std::set<int>& listening, const std::set<int>& named,
                              const std::set<int>& of_ready_peers) {
    if (listening.empty()) return false;
    const std::set<int>& wanted = named.empty() ? of_ready_peers : named;
    return std::includes(listening.begin(), listening.end(), wanted.begin(), wanted.end());
}

}  // namespace drover::supervisor
