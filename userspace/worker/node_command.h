// SPDX-License-Identifier: MIT
//
// Is this command Node? Then it speaks Node's IPC (--ipc auto).
#pragma once

#include <string>
#include <string_view>

#include "worker/spawn.h"

namespace drover::worker {

// By the program's own name, or by the first line of the script that it is.
bool is_node(const SpawnRequest& request);

// "#!/usr/bin/env node", "#!/usr/bin/node --flag". Pure.
bool is_node_shebang(std::string_view first_line);

}  // namespace drover::worker
