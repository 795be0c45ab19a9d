// SPDX-License-Identifier: MIT
//
// What it costs to move a queue, and how often it may be done for the sake of speed alone. Pure.
#pragma once

#include <chrono>

namespace drover::steer {

struct MovePrice {
    std::chrono::nanoseconds took{0};
    // Part of it: listen(), in which the kernel has the port locked and looks through its sockets.
    std::chrono::nanoseconds locked{0};
};

// For how long after such a move no other may follow: `times` as long as it took, and longer by the
// square of how dear it was for the others. At most the minute that the kernel keeps a socket in
// TIME_WAIT: then the price may be another.
std::chrono::nanoseconds rest_after(const MovePrice& price, int times);

}  // namespace drover::steer
