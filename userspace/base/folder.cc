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

std::error_code remove_folder(const std::string& folder) {
    constexpr int kTries = 3;
    std::error_code error;
    for (int tried = 0; tried < kTries; tried++) {
        std::filesystem::remove_all(folder, error);
        if (!error) break;
    }
    return error;
}

}  // namespace drover
