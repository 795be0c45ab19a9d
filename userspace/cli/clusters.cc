// SPDX-License-Identifier: MIT
#include "cli/clusters.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "base/nearest.h"
#include "cli/cli.h"
#include "cli/connection.h"
#include "cli/terminal.h"

namespace drover::cli {

namespace {

namespace fs = std::filesystem;

constexpr const char* kDenied = "drover's control sockets are root's alone: run it with sudo";

bool contains(const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

std::string join(const std::vector<std::string>& names) {
    return fmt::format("{}", fmt::join(names, ", "));
}

std::string dead_text(const std::string& name) {
    return fmt::format(
        "the master of cluster {} is gone: \"drover stop {}\" ends its workers and clears up", name,
        name);
}

}  // namespace

Clusters find_clusters(const Paths& paths) {
    Clusters clusters;
    std::error_code error;
    fs::directory_iterator entries(paths.run_root, error), end;
    clusters.denied = error == std::errc::permission_denied;
    for (; !error && entries != end; entries.increment(error)) {
        auto name = entries->path().filename().string();
        if (!supervisor::check_name(name)) continue;
        auto connection = Connection::open(paths.control_socket(name));
        if (connection) {
            clusters.running.push_back(name);
        } else if (connection.error().number == EACCES) {
            clusters.denied = true;
        } else if (connection.error().number == ECONNREFUSED) {
            clusters.dead.push_back(name);
        }
    }
    std::sort(clusters.running.begin(), clusters.running.end());
    std::sort(clusters.dead.begin(), clusters.dead.end());
    return clusters;
}

std::vector<std::string> running_clusters(const Paths& paths) {
    return find_clusters(paths).running;
}

Result<std::string> choose_cluster(const std::string& named, const Clusters& clusters) {
    const auto& [running, dead, denied] = clusters;
    if (!named.empty() && contains(running, named)) return named;
    if (named.empty() && running.size() == 1 && !denied) return running.front();
    if (denied) return fail("denied", kDenied);
    if (!named.empty() && contains(dead, named)) return fail("no-cluster", dead_text(named));
    if (named.empty() && running.empty() && dead.size() == 1)
        return fail("no-cluster", dead_text(dead.front()));
    if (named.empty() && running.empty())
        return fail("no-cluster", "no cluster runs here: \"drover run -- CMD\" starts one");
    if (named.empty())
        return fail("usage",
                    fmt::format("{} clusters run, so name one: {}", running.size(), join(running)));
    auto text = fmt::format("no cluster \"{}\" runs here", escape(named));
    auto known = running;
    known.insert(known.end(), dead.begin(), dead.end());
    if (auto meant = nearest(named, known)) {
        text += fmt::format(": did you mean \"{}\"?", *meant);
    } else if (running.empty()) {
        text += fmt::format(": \"drover run --name {} -- CMD\" starts one", escape(named));
    } else {
        text += fmt::format(", but {}", join(running));
    }
    return fail("no-cluster", text);
}

}  // namespace drover::cli
