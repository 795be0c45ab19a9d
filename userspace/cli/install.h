// SPDX-License-Identifier: MIT
//
// `drover install` and `drover uninstall`: a cluster as a systemd service, which survives a reboot.
#pragma once

#include <string>

#include "base/paths.h"
#include "cli/cli.h"

namespace drover::cli {

// Both print what was done, or what was wrong, and return the exit status. `program` is drover's
// own path.
int install(const Invocation& invocation, const Paths& paths, const std::string& program);
int uninstall(const Invocation& invocation);

}  // namespace drover::cli
