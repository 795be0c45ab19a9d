// SPDX-License-Identifier: MIT
//
// `drover config check FILE` and `drover config show CLUSTER`.
#pragma once

#include <string>

#include "cli/cli.h"
#include "cli/connection.h"

namespace drover::cli {

// Prints what is wrong with the file, each on a line of its own. Exit status: kUsage where anything
// is.
int check_config(const Invocation& invocation);

int show_config(Connection& connection, const Invocation& invocation);

// The reply to the request "config" as TOML that can be read back. Pure.
std::string render_config(const Json& config);

}  // namespace drover::cli
