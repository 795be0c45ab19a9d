// SPDX-License-Identifier: MIT
//
// A configuration out of a file (--config) and the command line, which wins. What the text of the
// file means is in config_toml.h.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "supervisor/config_toml.h"

namespace drover::supervisor {

// What the command line says → the whole configuration, complete: where it names a file (--config)
// that is read, and --name chooses among the file's clusters. Error "usage": "FILE:LINE: …".
Result<Config> configure(Config command_line);

// The same anew, for the cluster that runs by that name.
struct Configured {
    Config config;
    FileCluster from;  // the file's part of it
};
Result<Configured> configure_anew(const Source& source, const std::string& cluster);

// "drover.toml:7: ", "drover.toml: " where the line is 0.
std::string place_of(const std::string& file, int line);

// Looks at all clusters of the file, and at the files that they name.
struct CheckedFile {
    std::vector<Problem> problems;      // by line
    std::vector<std::string> clusters;  // by name
};
CheckedFile check_config_file(const std::string& path);

}  // namespace drover::supervisor
