// SPDX-License-Identifier: MIT
//
// Whether somebody's output is the systemd journal.
#pragma once

#include <sys/types.h>
#include <string_view>

namespace drover {

// JOURNAL_STREAM is "DEVICE:INODE" of the socket that systemd gave to a service. It is inherited,
// so it says something only where the fd is that very socket (systemd.exec(5)). Pure.
bool is_journal_stream(std::string_view journal_stream, dev_t device, ino_t inode);

// Of an fd of this process.
bool is_journal(int fd);

}  // namespace drover
