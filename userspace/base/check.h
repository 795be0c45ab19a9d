// SPDX-License-Identifier: MIT
//
// One finding about this machine: what `drover doctor` prints, and what start-up refuses on.
#pragma once

#include <string>

namespace drover {

struct Check {
    std::string name;  // what was looked at: "kernel", "cgroup v2"
    bool ok = false;
    bool fatal = false;  // where not ok: drover cannot work at all
    std::string text;    // what was found and, where not ok, what to do: one sentence
};

}  // namespace drover
