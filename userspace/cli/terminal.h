// SPDX-License-Identifier: MIT
//
// What may be sent to a terminal.
#pragma once

#include <string>
#include <string_view>

namespace drover::cli {

// Colours: on a terminal, unless NO_COLOR is set (and not empty) or TERM is "dumb".
bool use_color(int fd);

// Text from a worker, a command line or the network, made harmless: control characters, bytes that
// are no UTF-8, and characters that turn the direction of writing become \n, \x1b, \u202e …
std::string escape(std::string_view text);

// The same for a text that may have several lines: they stay, and those after the first are set in,
// so that none can pass for a message of its own.
std::string escape_lines(std::string_view text);

// Writes to standard output; a reader that went away is no error of ours.
void put(std::string_view text);

// How many columns it takes: two for a wide character, none for one that joins another.
size_t columns(std::string_view text);

// The text, or as much of it as leaves room for the mark that something is missing.
std::string clip(std::string_view text, size_t width, std::string_view mark = "…");

// For a terminal that takes nothing else: ? for each column of other characters.
std::string only_ascii(std::string_view text);

}  // namespace drover::cli
