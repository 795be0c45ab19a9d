// SPDX-License-Identifier: MIT
//
// A single question to a running cluster.
#pragma once

#include <string>

#include "base/paths.h"
#include "base/result.h"
#include "cli/render.h"

namespace drover::cli {

// The status of a running cluster.
Result<Json> status_of(const std::string& cluster, const Paths& paths);

}  // namespace drover::cli
