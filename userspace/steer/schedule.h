// SPDX-License-Identifier: MIT
//
// Turns by weight: a list in which each slot stands as often as its weight says, well mixed. The
// policies round-robin and hash take their choice from it. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace drover::steer {

struct Share {
    uint16_t slot = 0;
    uint32_t weight = 1;  // relative to the others'; at least 1
};

// Equal weights give each slot once, in the order of the input. Others are reduced to the smallest
// whole numbers; where those are more than `most` turns in all, they are rounded, and nobody gets
// less than one. At each place every slot has had its share of the turns so far, within two
// (smooth weighted round-robin).
// There are at most `most` shares.
std::vector<uint16_t> make_schedule(std::span<const Share> shares, size_t most);

}  // namespace drover::steer
