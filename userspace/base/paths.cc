// SPDX-License-Identifier: MIT
#include "base/paths.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "base/cgroup.h"

namespace drover {

namespace {

std::string environment_or(const char* name, const std::string& otherwise) {
    const char* value = std::getenv(name);
    return value != nullptr && *value != '\0' ? value : otherwise;
}

}  // namespace

Paths Paths::from_environment() {
    Paths paths;
    paths.run_root = environment_or("DROVER_RUN_DIR", "/run/drover");
    paths.bpffs_root = environment_or("DROVER_BPFFS", "/sys/fs/bpf/drover");
    paths.log_root = environment_or("DROVER_LOG_ROOT", "/var/log/drover");
    auto mount = Cgroup::mount_point();
    paths.cgroup_root = environment_or("DROVER_CGROUP", mount ? *mount + "/drover" : "");
    return paths;
}

std::string Paths::cgroup(const std::string& cluster) const {
    std::error_code none;
    auto noted = std::filesystem::read_symlink(run(cluster) + "/cgroup", none);
    return none ? cgroup_root + "/" + cluster : noted.string();
}

Result<void> Paths::note_cgroup(const std::string& cluster) const {
    std::string link = run(cluster) + "/cgroup";
    ::unlink(link.c_str());
    if (::symlink((cgroup_root + "/" + cluster).c_str(), link.c_str()) != 0)
        return fail_errno(errno, fmt::format("make the link {}", link));
    return {};
}

std::string working_folder() {
    std::error_code error;
    const char* logical = std::getenv("PWD");
    if (logical != nullptr && *logical == '/' && std::filesystem::equivalent(logical, ".", error))
        return logical;
    return "";
}

std::string absolute_path(const std::string& path) {
    if (path.starts_with('/')) return path;
    std::error_code error;
    std::filesystem::path folder = working_folder();
    if (folder.empty()) folder = std::filesystem::current_path(error);
    return (folder / path).string();
}

}  // namespace drover
