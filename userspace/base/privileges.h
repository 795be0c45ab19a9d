// SPDX-License-Identifier: MIT
//
// What drover may do, once it is set up: no more than it needs. Workers are not touched by that: a
// program that root starts has all of the bounding set again, and that stays whole.
#pragma once

#include <string>

#include "base/result.h"

namespace drover {

// Both keep only those of their list (privileges.cc says what each is for) that they have. An error
// leaves everything as it was.
Result<void> keep_masters_privileges();
Result<void> keep_loggers_privileges();

// Those without which no BPF program can be loaded and attached: "CAP_BPF, CAP_PERFMON"; empty
// where all are there. CAP_SYS_ADMIN stands for each.
std::string missing_for_bpf();

}  // namespace drover
