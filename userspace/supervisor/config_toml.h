// SPDX-License-Identifier: MIT
//
// The text of a configuration file → options as texts. Pure.
//
//     workers = 4                      top-level keys: of the one cluster, or, where there are
//     policy = "least-conn"            tables, the defaults of all
//     [web]                            a cluster of that name
//     command = ["node", "server.js"]
//     port = [80, "127.0.0.1:81"]
//     env = { RELEASE = "7" }
//
// The keys are the options of option_table() with '_' for '-', and `command`. A table's key
// replaces the top-level one; `env` and `env_file` add to it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "supervisor/config.h"

namespace drover::supervisor {

struct FileValue {
    const Option* option = nullptr;
    std::string value;  // as on the command line; paths are absolute
    int line = 0;
};

struct FileCluster {
    std::string name;  // "" where the file does not say
    bool is_table = false;
    int line = 1;
    std::vector<FileValue> values;
    std::vector<std::string> command;  // empty: the file does not say
};

struct Problem {
    int line = 0;
    std::string text;
    bool operator==(const Problem&) const = default;
};

struct ParsedFile {
    std::vector<FileCluster> clusters;  // by name; one at least where there is no problem
    std::vector<Problem> problems;      // by line
};

// `folder` is where the file is: relative paths begin there, and so do workers without a `cwd`.
ParsedFile parse_config_toml(std::string_view content, const std::string& folder);

}  // namespace drover::supervisor
