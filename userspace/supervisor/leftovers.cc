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
#include <thread>

#include "base/cgroup.h"
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
    std::error_code ignored;
    fs::remove_all(paths.run(cluster), ignored);
    ::rmdir(paths.run_root.c_str());  // when this was the last cluster
}

Leftovers find_leftovers(const Paths& paths, const std::string& cluster) {
    Leftovers found;
    Fd lock(::open(lock_path(paths, cluster).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (lock.is_open()) {
        Signature signature = read_signature(lock.get());
        found.master_pid = signature.pid;
        found.stop_signal = signature.stop_signal;
    }
    if (auto cgroup = Cgroup::open(paths.cgroup(cluster)))
        for (const std::string& name : cgroup->children()) {
            auto child = Cgroup::open(cgroup->path() + "/" + name);
            // These serve nobody: the logger ends when the workers have, the controller is killed.
            if (!child || name == "logger" || name == "controller") continue;
            for (int pid : child->pids()) found.pids.push_back(pid);
        }
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
        Leftovers found = find_leftovers(paths, cluster);
        for (int pid : found.pids) ::kill(pid, found.stop_signal);
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
