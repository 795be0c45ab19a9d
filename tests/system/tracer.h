// SPDX-License-Identifier: MIT
//
// strace at a running master.
#pragma once

#include <fmt/format.h>

#include <string>

#include "harness.h"

namespace drover::test {

// `strace`: the command so far. Returns when it has attached; SIGINT ends it.
inline Child attach_tracer(Sandbox& sandbox, pid_t master, Words strace) {
    strace.insert(strace.end(), {"-p", std::to_string(master)});
    Child tracer = sandbox.start(
        {.command = std::move(strace), .extra_environment = {}, .identity = {}, .cwd = {}});
    REQUIRE(eventually([&] {
        return !contains(read_file(fmt::format("/proc/{}/status", master)), "TracerPid:\t0\n");
    }));
    return tracer;
}

}  // namespace drover::test
