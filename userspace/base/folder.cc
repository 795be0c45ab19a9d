// SPDX-License-Identifier: MIT
#include "base/folder.h"

namespace drover {

std::vector<std::filesystem::directory_entry> entries_of(const std::string& folder) {
    std::error_code ignored;
    return entries_of(folder, ignored);
}

std::vector<std::filesystem::directory_entry> entries_of(const std::string& folder,
                                                         std::error_code& error) {
    std::vector<std::filesystem::directory_entry> entries;
    for (auto entry = std::filesystem::directory_iterator(folder, error);
         !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
        entries.push_back(*entry);
    return entries;
}

}  // namespace drover
