// SPDX-License-Identifier: MIT
//
// Reads a cluster's log file, and its rotated ones, of which NAME.log.1 is the youngest.
//
// First it goes backwards through them, to find where to begin; then forwards, telling each line
// that is wanted; and then, to follow, it looks four times a second for more. A file that is
// rotated meanwhile is found again under its new name, so no line is missed.
#pragma once

#include <string>

#include "base/result.h"
#include "cli/log_query.h"

namespace drover::cli {

// Calls `tell` for each wanted line; returns when all are told, and with `follow` when nobody reads
// any more. Error numbers of open(2): ENOENT (no such file; not with `follow`, which waits for it),
// EACCES.
Result<void> read_log_files(const std::string& path, const LogQuery& query, const OnLogLine& tell);

}  // namespace drover::cli
