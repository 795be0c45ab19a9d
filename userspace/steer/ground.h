// SPDX-License-Identifier: MIT
//
// Can drover work on this machine? One finding a line; `drover doctor` prints all of them, and
// `drover run` refuses on the first fatal one that is not well.
#pragma once

#include <string>
#include <vector>

#include "base/check.h"
#include "base/paths.h"

namespace drover::steer {

std::vector<Check> check_ground(const Paths& paths);
// Those, and what takes longer to find out, which is never fatal.
std::vector<Check> check_ground_fully(const Paths& paths);

// At least 6.1? From uname's release, "6.1.0-13-amd64". Pure.
bool is_new_enough(const std::string& release);

// Does the kernel wake a listener that connections were moved to (CVE-2026-46015)? Mended in
// 6.1.175 and 6.12.86 and in every later line. Pure.
bool wakes_after_migration(const std::string& release);

}  // namespace drover::steer
