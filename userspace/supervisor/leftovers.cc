// SPDX-License-Identifier: MIT
#include "supervisor/leftovers.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/cgroup.h"
#include "base/folder.h"
#include "base/sys.h"
#include "steer/ports.h"
#include "steer/programs.h"

namespace drover::supervisor {

namespace fs = std::filesystem;

namespace {

std::string lock_path(const Paths& paths, const std::string& cluster) {
    return paths.run(cluster) + "/lock";
}

// What a lock says: "PID STOP-SIGNAL".
struct Signature {
    int pid = 0;
    int stop_signal = SIGTERM;
};

Signature read_signature(int fd) {
    std::array<char, 32> content{};
    [[maybe_unused]] auto size = ::pread(fd, content.data(), content.size() - 1, 0);
    Signature signature;
    std::sscanf(content.data(), "%d %d", &signature.pid, &signature.stop_signal);
    return signature;
}

// Also of the cgroups that a worker has made below its own. Not to know who lives is not the same
// as that nobody does.
Result<std::vector<int>> pids_in(const std::string& cgroup) {
    std::vector<int> pids;
    std::ifstream file(cgroup + "/cgroup.procs");
    if (!file.is_open() && errno == ENOENT) return pids;
    for (int pid = 0; file >> pid;) pids.push_back(pid);
    if (!file.eof() && errno != ENODEV)  // it has just been removed
        return fail_errno(errno, fmt::format("read {}/cgroup.procs", cgroup));
    std::error_code error;
    for (const auto& entry : entries_of(cgroup, error)) {
        if (std::error_code unknown; !entry.is_directory(unknown)) continue;
        auto below = pids_in(entry.path());
        if (!below) return below;
        pids.insert(pids.end(), below->begin(), below->end());
    }
    if (error && error.value() != ENOENT)
        return fail_errno(error.value(), fmt::format("read cgroup {}", cgroup));
    return pids;
}

}  // namespace

Result<Fd> lock_cluster(const Paths& paths, const std::string& cluster) {
    std::error_code error;
    fs::create_directories(paths.run_root, error);
    if (error)
        return fail_errno(error.value(), fmt::format("make the run folder {}", paths.run_root));
    std::string folder = paths.run(cluster);
    bool is_new = ::mkdir(folder.c_str(), 0700) == 0;
    if (!is_new && errno != EEXIST)
        return fail_errno(errno, fmt::format("make the run folder {}", folder));
    auto refuse = [&](int number, const std::string& doing) {
        if (is_new) remove_run_folder(paths, cluster);
        return fail_errno(number, fmt::format("{} {}", doing, lock_path(paths, cluster)));
    };
    Fd lock(
        ::open(lock_path(paths, cluster).c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock.is_open()) return refuse(errno, "open");
    int locked = sys::try_lock(lock.get());
    if (locked != 0 && errno == EWOULDBLOCK)
        return fail(
            "already-running",
            fmt::format("a cluster named \"{}\" runs already (pid {}): stop it with \"drover "
                        "stop {}\", or give this one another --name",
                        cluster, read_signature(lock.get()).pid, cluster));
    if (locked != 0) return refuse(errno, "lock");
    return lock;
}

void sign_lock(const Fd& lock, int stop_signal) {
    std::string text = fmt::format("{} {}", ::getpid(), stop_signal);
    [[maybe_unused]] int cut = ::ftruncate(lock.get(), 0);
    [[maybe_unused]] auto written = ::pwrite(lock.get(), text.data(), text.size(), 0);
}

void remove_run_folder(const Paths& paths, const std::string& cluster) {
    (void)remove_folder(paths.run(cluster));
    ::rmdir(paths.run_root.c_str());  // when this was the last cluster
}

void remove_new_run_folder(const Paths& paths, const std::string& cluster) {
    std::error_code error;
    bool is_new = entries_of(paths.run(cluster), error).size() == 1;
    if (is_new && !error) remove_run_folder(paths, cluster);
}

Result<Leftovers> find_leftovers(const Paths& paths, const std::string& cluster) {
    Leftovers found;
    Fd lock(::open(lock_path(paths, cluster).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (lock.is_open()) {
        Signature signature = read_signature(lock.get());
        found.master_pid = signature.pid;
        found.stop_signal = signature.stop_signal;
    }
    std::error_code error;
    for (const auto& entry : entries_of(paths.cgroup(cluster), error)) {
        std::string name = entry.path().filename();
        // These serve nobody: the logger ends when the workers have, the controller is killed.
        if (name == "logger" || name == "controller") continue;
        if (std::error_code unknown; !entry.is_directory(unknown)) continue;
        auto pids = pids_in(entry.path());
        if (!pids) return tl::unexpected(pids.error());
        found.pids.insert(found.pids.end(), pids->begin(), pids->end());
    }
    if (error && error.value() != ENOENT)
        return fail_errno(error.value(), fmt::format("read cgroup {}", paths.cgroup(cluster)));
    std::error_code ignored;
    found.pins = fs::exists(paths.bpffs(cluster), ignored);
    return found;
}

std::string Leftovers::text(const std::string& cluster, const std::string& why) const {
    std::string who;
    for (int pid : pids) who += fmt::format("{}{}", who.empty() ? "" : ", ", pid);
    return fmt::format(
        "the master of \"{}\"{} is dead, but {} of its processes serve on (pid {}), and cannot be "
        "taken over: {}: end them with \"drover stop {}\", then run it again",
        cluster, master_pid > 0 ? fmt::format(" (pid {})", master_pid) : "", pids.size(), who, why,
        cluster);
}

Result<void> clean_leftovers(const Paths& paths, const std::string& cluster,
                             std::chrono::milliseconds patience) {
    using std::chrono::steady_clock;
    if (auto cgroup = Cgroup::open(paths.cgroup(cluster))) {
        auto found = find_leftovers(paths, cluster);
        if (!found) return tl::unexpected(found.error());
        for (int pid : found->pids) ::kill(pid, found->stop_signal);
        auto deadline = steady_clock::now() + patience;
        constexpr std::chrono::milliseconds kLook{10};
        while (cgroup->is_populated() && steady_clock::now() < deadline)
            std::this_thread::sleep_for(kLook);
        if (cgroup->is_populated()) cgroup->kill();
        deadline = steady_clock::now() + patience;
        while (cgroup->is_populated() && steady_clock::now() < deadline)
            std::this_thread::sleep_for(kLook);
        if (auto removed = cgroup->remove(); !removed) return removed;
        ::rmdir(paths.cgroup_root.c_str());
    }
    if (auto removed = steer::remove_pins(paths.bpffs(cluster)); !removed) return removed;
    ::rmdir(paths.bpffs_root.c_str());
    steer::remove_stale_locks(paths.port_locks());
    remove_run_folder(paths, cluster);
    return {};
}

}  // namespace drover::supervisor
