// SPDX-License-Identifier: MIT
//
// Where drover keeps things on a host, in one place. The roots can be moved by environment
// variables of the master (containers, tests); workers do not inherit them.
//
//     DROVER_RUN_DIR  /run/drover         NAME/{lock,control.sock,cgroup}, ports/ (port locks)
//     DROVER_CGROUP   <cgroup2>/drover    NAME/{keeper,logger,w1,w2,…}
//     DROVER_BPFFS    /sys/fs/bpf/drover  NAME/: pinned links and maps
//     DROVER_LOG_ROOT /var/log/drover     NAME.log: what the workers print
//
// As a systemd service a master has its cluster's cgroup below its unit's (admin/service.h). So the
// run folder has a link to it, NAME/cgroup, by which clients and later masters find it.
#pragma once

#include <string>

#include "base/result.h"

namespace drover {

struct Paths {
    std::string run_root;
    std::string cgroup_root;  // empty where cgroup v2 is not mounted
    std::string bpffs_root;
    std::string log_root;

    static Paths from_environment();

    [[nodiscard]] std::string run(const std::string& cluster) const {
        return run_root + "/" + cluster;
    }
    [[nodiscard]] std::string control_socket(const std::string& cluster) const {
        return run(cluster) + "/control.sock";
    }
    [[nodiscard]] std::string port_locks() const { return run_root + "/ports"; }
    // As its master has noted it (note_cgroup), else below cgroup_root.
    [[nodiscard]] std::string cgroup(const std::string& cluster) const;
    // Whoever asks for the cluster later finds it below the present cgroup_root, whatever theirs
    // is. The run folder is there.
    [[nodiscard]] Result<void> note_cgroup(const std::string& cluster) const;
    [[nodiscard]] std::string bpffs(const std::string& cluster) const {
        return bpffs_root + "/" + cluster;
    }
    [[nodiscard]] std::string log_file(const std::string& cluster) const {
        return log_root + "/" + cluster + ".log";
    }
};

// The working folder as the user sees it: where that is by way of a symbolic link (a release's
// folder), what is looked for in it later is looked for in what the link points to then. "" where
// nobody says.
std::string working_folder();

// A path that is relative to the working folder.
std::string absolute_path(const std::string& path);

}  // namespace drover
