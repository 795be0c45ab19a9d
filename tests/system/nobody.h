// SPDX-License-Identifier: MIT
//
// drover, started by somebody who is not root.
#pragma once

#include <doctest/doctest.h>
#include <sys/stat.h>

#include "harness.h"

namespace drover::test {

// A copy, because nobody may not be allowed to enter the build's folder.
inline Outcome drover_as_nobody(Sandbox& sandbox, const Words& arguments) {
    std::string copy = sandbox.path("drover");
    write_file(copy, read_file(build_folder() + "/drover"));
    REQUIRE(::chmod(copy.c_str(), 0755) == 0);
    Words command = {copy};
    command.insert(command.end(), arguments.begin(), arguments.end());
    return sandbox.run({.command = command, .extra_environment = {}, .identity = 65534, .cwd = {}});
}

}  // namespace drover::test
