// SPDX-License-Identifier: MIT
//
// The live counts beside the kernel's own list of sockets. Whose a socket is, `ss` says by the
// process that has it open: so not by what drover goes by.
#pragma once

#include <map>

#include "harness.h"

namespace drover::test {

// Process → its connections to port 8080 in ESTABLISHED and CLOSE_WAIT; 0: nobody has accepted
// them.
std::map<pid_t, int> sockets_by_owner(Sandbox& sandbox);

// Waits until each worker's count is the number of its sockets, which takes the workers a moment;
// and nothing may have been corrected.
void check_counts(Sandbox& sandbox, Cluster& cluster);

}  // namespace drover::test
