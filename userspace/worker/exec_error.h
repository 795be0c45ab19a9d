// SPDX-License-Identifier: MIT
//
// Why a worker could not be executed, in one sentence for a person. The child says only at which
// stage it failed and with which errno; the parent, which may allocate and look around, finds
// words.
#pragma once

#include <string>
#include <vector>

#include "worker/spawn.h"

namespace drover::worker {

// What the child does between fork and exec, where it can fail.
enum class Stage : int { fds, nofile, user, no_new_privs, cwd, exec };

// What the child writes to the status pipe.
struct ExecFailure {
    Stage stage;
    int number;     // errno
    int candidate;  // Stage::exec: index in program_candidates()
};

// The paths that execve is to try, in order. Pure.
std::vector<std::string> program_candidates(const SpawnRequest& request);

// `sudo_user` is the value of the master's SUDO_USER, empty where there is none. Looks at the files
// concerned.
Error describe_exec_failure(const ExecFailure& failure, const SpawnRequest& request,
                            const std::string& sudo_user);

// Where the program stands in places that a login shell has in its PATH and sudo has not: version
// managers and language folders of `home`, /usr/local/bin, /opt. Empty where it is in none.
std::string find_in_usual_places(const std::string& program, const std::string& home);

}  // namespace drover::worker
