// SPDX-License-Identifier: MIT
//
// The command line: what the user asked for, and the client that asks a running cluster for it.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/paths.h"
#include "base/result.h"
#include "base/wall_time.h"
#include "supervisor/config.h"

namespace drover::cli {

constexpr int kDone = 0;
constexpr int kFailed = 1;
constexpr int kUsage = 2;

struct Invocation {
    std::string verb;                    // "run", "status", "stop" …
    supervisor::Config config;           // run and start
    std::string cluster;                 // empty: the one that runs
    std::optional<uint64_t> worker;      // NAME/ID
    std::vector<std::string> arguments;  // what follows the cluster: N, SIG, POLICY
    // reload, install: the options that are given, each checked, with paths made absolute; the
    // command. reload: an empty command stays; how many at a time; the canary's share.
    std::vector<std::pair<std::string, std::string>> changes;
    std::vector<std::string> command;
    int parallel = 1;
    std::string canary;
    bool json = false;
    bool follow = false;  // -f
    bool print = false;   // install: only show the unit
    bool no_start = false;
    // logs: how many of the last lines; from when on.
    std::optional<uint64_t> last;
    std::optional<WallTime> since;
};

// Parses argv. Nothing left to do (help, version, an error already printed on stderr with the
// nearest right word): the exit status.
tl::expected<Invocation, int> parse(int argc, const char* const* argv);

// Carries out any verb but run, start, logs, doctor, install and logger against a running cluster;
// prints; returns the exit status.
int run_client(const Invocation& invocation, const Paths& paths);

// Clusters that have a control socket that answers a connect.
std::vector<std::string> running_clusters(const Paths& paths);

}  // namespace drover::cli
