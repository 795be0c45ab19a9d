// SPDX-License-Identifier: MIT
#include "base/cgroup.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/folder.h"

namespace drover {

namespace fs = std::filesystem;

namespace {

// These files are short: one read has it all.
std::string read_file(const std::string& path) {
    Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    std::string content(4096, '\0');
    ssize_t size = file.is_open() ? ::read(file.get(), content.data(), content.size()) : -1;
    content.resize(size > 0 ? static_cast<size_t>(size) : 0);
    return content;
}

// The number after `key` in "key number" lines; 0 where there is none.
uint64_t number_after(const std::string& text, const std::string& key) {
    std::istringstream lines(text);
    std::string name;
    uint64_t value = 0;
    while (lines >> name >> value)
        if (name == key) return value;
    return 0;
}

uint64_t resident_bytes(int pid) {
    std::istringstream statm(read_file(fmt::format("/proc/{}/statm", pid)));
    uint64_t size = 0, resident = 0;
    statm >> size >> resident;
    return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace

Result<std::string> Cgroup::mount_point() {
    std::ifstream mounts("/proc/self/mountinfo");
    if (!mounts) return fail_errno(errno, "read /proc/self/mountinfo");
    std::string line;
    while (std::getline(mounts, line)) {
        // id parent major:minor root mount-point options … - type source options
        auto dash = line.find(" - ");
        if (dash == std::string::npos || line.compare(dash + 3, 8, "cgroup2 ") != 0) continue;
        std::istringstream fields(line);
        std::string skip, mount;
        fields >> skip >> skip >> skip >> skip >> mount;
        return mount;
    }
    return fail("no-cgroup2",
                "cgroup v2 is not mounted here: mount it with \"mount -t cgroup2 none "
                "/sys/fs/cgroup\", or boot with systemd.unified_cgroup_hierarchy=1");
}

std::string Cgroup::own() {
    std::ifstream file("/proc/self/cgroup");
    std::string line;
    while (std::getline(file, line))
        if (line.starts_with("0::")) return line.substr(3);
    return "/";
}

Result<Cgroup> Cgroup::create(const std::string& path) {
    std::error_code error;
    fs::create_directories(path, error);
    if (error) return fail_errno(error.value(), fmt::format("create cgroup {}", path));
    return open(path);
}

Result<Cgroup> Cgroup::create_anew(const std::string& path) {
    if (auto old = open(path)) (void)old->remove();
    return create(path);
}

Result<Cgroup> Cgroup::open(const std::string& path) {
    Cgroup cgroup;
    cgroup.path_ = path;
    cgroup.folder_.reset(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    if (!cgroup.folder_.is_open()) return fail_errno(errno, fmt::format("open cgroup {}", path));
    struct stat info {};
    if (::fstat(cgroup.folder_.get(), &info) != 0)
        return fail_errno(errno, fmt::format("stat cgroup {}", path));
    cgroup.id_ = info.st_ino;  // on 64-bit systems the inode number of a cgroup is its id
    return cgroup;
}

std::vector<uint64_t> Cgroup::ids() const {
    std::vector<uint64_t> ids{id_};
    for (const auto& below : cgroups_below()) {
        auto more = below.ids();
        ids.insert(ids.end(), more.begin(), more.end());
    }
    return ids;
}

std::vector<int> Cgroup::pids() const {
    std::vector<int> pids;
    std::ifstream file(path_ + "/cgroup.procs");
    for (int pid = 0; file >> pid;) pids.push_back(pid);
    for (const auto& below : cgroups_below()) {
        auto more = below.pids();
        pids.insert(pids.end(), more.begin(), more.end());
    }
    return pids;
}

bool Cgroup::is_populated() const {
    return number_after(read_file(path_ + "/cgroup.events"), "populated") == 1;
}

uint64_t Cgroup::cpu_microseconds() const {
    return number_after(read_file(path_ + "/cpu.stat"), "usage_usec");
}

uint64_t Cgroup::memory_bytes() const {
    std::istringstream current(read_file(path_ + "/memory.current"));
    uint64_t bytes = 0;
    if (current >> bytes) return bytes;
    for (int pid : pids()) bytes += resident_bytes(pid);
    return bytes;
}

std::vector<std::string> Cgroup::children() const {
    std::vector<std::string> names;
    std::error_code error;
    for (const auto& entry : entries_of(path_))
        if (entry.is_directory(error)) names.push_back(entry.path().filename());
    return names;
}

// Those that are there still when they are opened.
std::vector<Cgroup> Cgroup::cgroups_below() const {
    std::vector<Cgroup> all;
    struct stat info {};
    // Each sub-folder is one more link to its folder: nearly always there is none, and no listing.
    if (::fstat(folder_.get(), &info) == 0 && info.st_nlink == 2) return all;
    for (const auto& name : children())
        if (auto child = open(path_ + "/" + name)) all.push_back(std::move(*child));
    return all;
}

Result<void> Cgroup::freeze(bool frozen) const {
    std::ofstream file(path_ + "/cgroup.freeze");
    file << (frozen ? "1" : "0");
    file.flush();
    if (!file)
        return fail_errno(errno, fmt::format("{} cgroup {}", frozen ? "freeze" : "thaw", path_));
    return {};
}

bool Cgroup::is_frozen() const {
    return number_after(read_file(path_ + "/cgroup.events"), "frozen") == 1;
}

Fd Cgroup::open_events() const {
    return Fd(::open((path_ + "/cgroup.events").c_str(), O_RDONLY | O_CLOEXEC));
}

Result<void> Cgroup::enter() const {
    std::ofstream file(path_ + "/cgroup.procs");
    file << "0";
    file.flush();
    if (!file) return fail_errno(errno, fmt::format("enter cgroup {}", path_));
    return {};
}

void Cgroup::kill() const {
    std::ofstream(path_ + "/cgroup.kill") << "1";
}

Result<void> Cgroup::remove() const {
    for (const auto& child : cgroups_below())
        if (auto removed = child.remove(); !removed) return removed;
    if (::rmdir(path_.c_str()) != 0 && errno != ENOENT)
        return fail_errno(errno, fmt::format("remove cgroup {}", path_));
    return {};
}

}  // namespace drover
