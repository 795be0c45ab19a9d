// SPDX-License-Identifier: MIT
//
// Reads a cluster's lines from the systemd journal, by the fields that its logger gave them
// (logger/journal_sink.h). Only root's entries count: anybody may write such fields.
#pragma once

#include "base/result.h"
#include "cli/log_query.h"

namespace drover::cli {

// As read_log_files().
Result<void> read_log_journal(const LogQuery& query, const OnLogLine& tell);

// Whether the journal has a line of the cluster.
bool journal_has(const std::string& cluster);

}  // namespace drover::cli
