// SPDX-License-Identifier: MIT
//
// The text of the systemd unit that runs a cluster. Pure; install.cc writes it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "supervisor/config.h"

namespace drover::cli {

// The first line of each unit file of drover's: no other file is written over or removed.
constexpr const char* kUnitMark = "# Written by drover install.";

struct UnitRequest {
    std::string cluster;
    std::string program;  // drover's own, absolute
    std::vector<std::pair<std::string, std::string>>
        options;                       // of `drover run`, as they were given
    std::vector<std::string> command;  // empty where a file has it
    supervisor::Config config;         // what they amount to: its times are the unit's
};

std::string unit_name(const std::string& cluster);  // "drover-web.service"
std::string unit_text(const UnitRequest& request);

// One word of a command line, as systemd reads it: in quotes where need be, nothing in it special.
std::string unit_word(const std::string& word);

}  // namespace drover::cli
