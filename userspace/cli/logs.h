// SPDX-License-Identifier: MIT
//
// `drover logs`: what the workers of a cluster printed, and what drover said of them, from the log
// file or the journal; also where the cluster does not run any more.
#pragma once

#include <functional>
#include <string>

#include "base/paths.h"
#include "cli/cli.h"
#include "cli/log_query.h"
#include "cli/render.h"

namespace drover::cli {

// `file_of_dead`: the log file of a cluster whose master was killed; empty for the usual place.
// Returns the exit status.
int show_logs(const Invocation& invocation, const Paths& paths,
              const std::function<std::string(const std::string& cluster)>& file_of_dead);

// One line for a person, with its newline; safe for a terminal.
std::string render_log_line(const LogLine& line, const std::string& cluster, bool color);

// The same for a program.
Json to_json(const LogLine& line, const std::string& cluster);

}  // namespace drover::cli
