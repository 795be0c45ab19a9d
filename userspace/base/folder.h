// SPDX-License-Identifier: MIT
//
// What is in a folder. A loop over a directory_iterator throws where reading fails half way, as it
// does in /proc when the process ends meanwhile.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace drover {

// As far as it can be read.
std::vector<std::filesystem::directory_entry> entries_of(const std::string& folder);
// The same, and why not further.
std::vector<std::filesystem::directory_entry> entries_of(const std::string& folder,
                                                         std::error_code& error);

}  // namespace drover
