// SPDX-License-Identifier: MIT
//
// The man pages drover(8) and drover.toml(5), out of the tables of verbs and options: `drover man
// 8` and `drover man 5`, for the build.
#pragma once

#include <string>

namespace drover::cli {

std::string man_page_of_drover();       // drover(8)
std::string man_page_of_config_file();  // drover.toml(5)

// Prints the page of that section; returns the exit status.
int print_man_page(const std::string& section);

}  // namespace drover::cli
