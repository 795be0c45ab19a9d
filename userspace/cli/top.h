// SPDX-License-Identifier: MIT
//
// `drover top`: a cluster's workers, looked at once a second, and keys to act on them.
#pragma once

#include <string>

#include "base/paths.h"

namespace drover::cli {

// Takes the terminal until the user leaves. `named` may be empty: the first cluster that runs.
// Returns the exit status; kFailed where the master ended, kUsage without a terminal.
int run_top(const std::string& named, const Paths& paths);

}  // namespace drover::cli
