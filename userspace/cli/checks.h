// SPDX-License-Identifier: MIT
//
// What `drover doctor` prints.
#pragma once

#include <string>
#include <vector>

#include "base/check.h"

namespace drover::cli {

// One line a check, or {"v":1,"ok":…,"checks":[{"name","ok","fatal","text"}]} with a newline.
std::string render_checks(const std::vector<Check>& checks, bool json, bool color);

// Prints them on standard output. Exit status: kFailed where a fatal one is not ok.
int print_checks(const std::vector<Check>& checks, bool json);

}  // namespace drover::cli
