// SPDX-License-Identifier: MIT
//
// What drover may do, once it is set up: no more than it needs. Workers are not touched by that: a
// program that root starts has all of the bounding set again, and that stays whole.
#pragma once

#include "base/result.h"

namespace drover {

// Both keep only those of their list (privileges.cc says what each is for) that they have. An error
// leaves everything as it was.
Result<void> keep_masters_privileges();
Result<void> keep_loggers_privileges();

}  // namespace drover
