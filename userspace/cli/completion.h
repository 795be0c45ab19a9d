// SPDX-License-Identifier: MIT
//
// `drover completion bash|zsh`: scripts out of the tables of verbs and options. The names of
// clusters and workers they ask for when they are needed: `drover complete clusters|workers`, which
// is hidden.
#pragma once

#include <string>

#include "base/paths.h"
#include "base/result.h"

namespace drover::cli {

std::string bash_completion();
std::string zsh_completion();

// Prints the shell's script; returns the exit status. parse() has checked the shell.
int print_completion(const std::string& shell);

// Prints "web", or with "workers" also "web/1", "web/2" …, a line each; nothing where nobody may
// know. Returns the exit status.
int print_names(const std::string& what, const Paths& paths);

}  // namespace drover::cli
