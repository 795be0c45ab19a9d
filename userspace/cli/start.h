// SPDX-License-Identifier: MIT
//
// `drover start`: the master of `run`, in the background. A fork; the one that was started by the
// user waits for the other's word.
//
//     starter ──fork──→ master: a session of its own, stdin from /dev/null
//        ╰──── waits ←──pipe── "web: 4 workers are ready …", or its end
//                    ←──pipe── what it and its workers print until then; later the log has it
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace drover::cli {

// Returns twice, as fork() does: in the master with the pipe that its word is written into, and in
// the starter with the exit status, when the cluster is ready or the master has ended. The starter
// has printed what there was to say: the master's word, or all that it printed before its end.
tl::expected<Fd, int> go_to_background(const std::string& cluster);

}  // namespace drover::cli
