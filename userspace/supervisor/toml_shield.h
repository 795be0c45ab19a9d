// SPDX-License-Identifier: MIT
//
// Keeps characters from the TOML library that it does not bear. What toml++ 3.3 does with many that
// are not ASCII, outside of strings, is undefined: its search for Unicode blanks ends in code that
// it calls unreachable, at an "é" already. Those above U+FEFF it lets pass at once. So each
// character from U+0080 to U+FEFF is moved up by U+F0000, into a plane that nobody uses, and is
// moved back in what the library gives. (One that was there before becomes another.)
#pragma once

#include <string>
#include <string_view>

namespace drover::supervisor {

// For the library. Lines stay as they are; so does what is no UTF-8, which the library refuses.
std::string shielded(std::string_view text);
// Of the library.
std::string unshielded(std::string_view text);

}  // namespace drover::supervisor
