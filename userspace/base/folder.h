// SPDX-License-Identifier: MIT
//
// Folders as a whole: what is in them, and their end. A loop over a directory_iterator throws where
// reading fails half way, as it does in /proc when the process ends meanwhile.
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

// Removes the folder and all that is in it; none is no error. What fails is tried again, for memory
// may be short for a moment: the error is that of the last try.
std::error_code remove_folder(const std::string& folder);

}  // namespace drover
