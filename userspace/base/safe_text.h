// SPDX-License-Identifier: MIT
//
// What a worker printed, made fit for a terminal. Pure.
#pragma once

#include <string>
#include <string_view>

namespace drover {

// One line without its newline. Control characters but tab, and escape sequences but colours
// (ESC [ digits m), become "\x1b"; so does what is no valid UTF-8. A carriage return at the end is
// dropped. What was made safe once stays as it is.
std::string made_safe(std::string_view line);
void append_safe(std::string_view line, std::string& to);  // the same, at the end of a text

}  // namespace drover
