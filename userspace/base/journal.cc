// SPDX-License-Identifier: MIT
#include "base/journal.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cstdlib>

namespace drover {

bool is_journal_stream(std::string_view journal_stream, dev_t device, ino_t inode) {
    return journal_stream == fmt::format("{}:{}", device, inode);
}

bool is_journal(int fd) {
    const char* journal_stream = std::getenv("JOURNAL_STREAM");
    struct stat info {};
    return journal_stream != nullptr && ::fstat(fd, &info) == 0 && S_ISSOCK(info.st_mode) &&
           is_journal_stream(journal_stream, info.st_dev, info.st_ino);
}

}  // namespace drover
