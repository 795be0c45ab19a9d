// SPDX-License-Identifier: MIT
//
// A cgroup v2 folder: made, asked, killed, removed. No controller is needed for any of it.
//
// In base because both sides need it, and they do not know each other: the workers live in cgroups,
// and steering's keeper is born in one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace drover {

class Cgroup {
  public:
    // Where cgroup v2 is mounted (it may stand beside v1): found in /proc/self/mountinfo.
    // Error "no-cgroup2" where it is not.
    static Result<std::string> mount_point();

    // This process's cgroup, as a path below the mount point: "/" or "/a/b".
    static std::string own();

    // Makes the folder, parents included, if it is not there, and opens it.
    static Result<Cgroup> create(const std::string& path);
    // The same, but one without processes that is left over is removed first: a cgroup that was
    // once killed (cgroup.kill) is not like new.
    static Result<Cgroup> create_anew(const std::string& path);
    // Opens an existing one. Error number ENOENT where there is none.
    static Result<Cgroup> open(const std::string& path);

    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] int fd() const { return folder_.get(); }
    [[nodiscard]] uint64_t id() const { return id_; }  // what bpf_get_current_cgroup_id returns

    [[nodiscard]] std::vector<uint64_t> ids() const;  // its own, and those of all below it
    [[nodiscard]] std::vector<int> pids() const;      // of all its processes, children included
    [[nodiscard]] bool is_populated() const;          // any living process, children included
    [[nodiscard]] uint64_t cpu_microseconds() const;  // 0 where unknown
    [[nodiscard]] uint64_t memory_bytes() const;      // memory.current, else the RSS of its pids
    [[nodiscard]] std::vector<std::string> children() const;  // names of sub-cgroups
    // Stops all its processes, wherever they are, or lets them go on. They have stopped when
    // is_frozen(); open_events() then has something new (EPOLLPRI).
    [[nodiscard]] Result<void> freeze(bool frozen) const;
    [[nodiscard]] bool is_frozen() const;
    [[nodiscard]] Fd open_events() const;
    [[nodiscard]] Result<void> enter() const;   // the calling process, with all its threads
    void kill() const;                          // SIGKILL to all of it, children included
    [[nodiscard]] Result<void> remove() const;  // the folder and its sub-folders

  private:
    [[nodiscard]] std::vector<Cgroup> cgroups_below() const;

    std::string path_;
    Fd folder_;
    uint64_t id_ = 0;
};

}  // namespace drover
