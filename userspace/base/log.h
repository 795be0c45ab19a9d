// SPDX-License-Identifier: MIT
//
// The master's own words: one line each on standard error, "drover: …". What workers print goes
// through the logger process instead.
#pragma once

#include <string_view>

namespace drover::log {

void info(std::string_view text);
void warn(std::string_view text);   // "drover: warning: …"
void error(std::string_view text);  // "drover: error: …"

}  // namespace drover::log
