// SPDX-License-Identifier: MIT
//
// Everything that needs memory or thought is prepared before the fork (Plan); the child then only
// makes system calls, in one visible order, until execve.
#include "worker/spawn.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "base/sys.h"
#include "worker/exec_error.h"

namespace drover::worker {

namespace {

struct Plan {
    std::vector<const char*> argv;
    std::vector<const char*> envp;
    std::array<char, 32> listen_pid{};  // filled in by the child, which alone knows its pid
    std::vector<std::string> candidates;
    std::vector<Fd> sources;   // duplicates, all numbered above every target
    std::vector<int> targets;  // the number of each source in the child
    Fd status;                 // write end of the status pipe, above every target too
    const SpawnRequest* request;
};

std::vector<const char*> pointers(const std::vector<std::string>& strings) {
    std::vector<const char*> result;
    for (const auto& string : strings) result.push_back(string.c_str());
    result.push_back(nullptr);
    return result;
}

Result<Fd> duplicate_above(int fd, int floor) {
    Fd duplicate(::fcntl(fd, F_DUPFD_CLOEXEC, floor));
    if (!duplicate.is_open()) return fail_errno(errno, fmt::format("duplicate fd {}", fd));
    return duplicate;
}

// Each source is duplicated to a number above all targets, so that no dup2 in the child can
// overwrite a source that a later one needs.
Result<void> plan_fds(Plan& plan, const SpawnRequest& request, int status) {
    Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    if (!null.is_open()) return fail_errno(errno, "open /dev/null");
    auto or_null = [&](int fd) { return fd >= 0 ? fd : null.get(); };
    std::vector<std::pair<int, int>> wanted = {{or_null(request.stdin_fd), 0},
                                               {or_null(request.stdout_fd), 1},
                                               {or_null(request.stderr_fd), 2}};
    wanted.insert(wanted.end(), request.fds.begin(), request.fds.end());
    int floor = 0;
    for (auto [source, target] : wanted) floor = std::max(floor, target + 1);

    for (auto [source, target] : wanted) {
        auto copy = duplicate_above(source, floor);
        if (!copy) return tl::unexpected<Error>(copy.error());
        plan.sources.push_back(std::move(*copy));
        plan.targets.push_back(target);
    }
    auto copy = duplicate_above(status, floor);
    if (!copy) return tl::unexpected<Error>(copy.error());
    plan.status = std::move(*copy);
    return {};
}

// A worker may open its output anew (/dev/stdout): that is checked against the pipe's owner. The
// owner may read it, too, which is why the master's own are not given away.
void give_pipe(int fd, const Identity& identity) {
    struct stat info {};
    if (fd <= STDERR_FILENO || ::fstat(fd, &info) != 0 || !S_ISFIFO(info.st_mode)) return;
    [[maybe_unused]] int given = ::fchown(fd, identity.uid, identity.gid);
}

// --- In the child: system calls only, no allocation, no return
// ------------------------------------

[[noreturn]] void give_up(const Plan& plan, Stage stage, int number, int candidate = 0) {
    ExecFailure failure{stage, number, candidate};
    [[maybe_unused]] auto written = ::write(plan.status.get(), &failure, sizeof(failure));
    ::_exit(127);
}

// By the system call itself: the C library's function refuses two signals that are its own, and
// programs that were started by posix_spawn() (make does) find these ignored. KILL and STOP refuse,
// which is right.
void reset_signals() {
    constexpr std::array<unsigned long, 4> kDefault{};  // handler, flags, restorer, mask
    for (int number = 1; number < NSIG; ++number)
        ::syscall(SYS_rt_sigaction, number, kDefault.data(), nullptr, sizeof(uint64_t));
}

void place_fds(const Plan& plan) {
    // First all are marked, then dup2 makes the targets, which are unmarked: nothing else survives.
    if (::close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) != 0) give_up(plan, Stage::fds, errno);
    for (size_t i = 0; i < plan.sources.size(); ++i)
        if (::dup2(plan.sources[i].get(), plan.targets[i]) < 0) give_up(plan, Stage::fds, errno);
}

void become(const Plan& plan, const Identity& identity) {
    // Bare system calls: the C library's would look for other threads to change as well.
    if (::syscall(SYS_setgroups, identity.groups.size(), identity.groups.data()) != 0 ||
        ::syscall(SYS_setresgid, identity.gid, identity.gid, identity.gid) != 0 ||
        ::syscall(SYS_setresuid, identity.uid, identity.uid, identity.uid) != 0)
        give_up(plan, Stage::user, errno);
    if (identity.uid != 0 && ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        give_up(plan, Stage::no_new_privs, errno);
}

[[noreturn]] void execute(const Plan& plan) {
    auto argv = const_cast<char* const*>(plan.argv.data());
    auto envp = const_cast<char* const*>(plan.envp.data());
    int number = ENOENT;
    int index = 0;
    for (const auto& candidate : plan.candidates) {
        ::execve(candidate.c_str(), argv, envp);
        bool is_elsewhere = errno == ENOENT || errno == ENOTDIR || errno == EACCES;
        if (!is_elsewhere) give_up(plan, Stage::exec, errno, index);
        if (errno == EACCES) number = EACCES;
        ++index;
    }
    give_up(plan, Stage::exec, number);
}

// Without printf, which may allocate.
void write_listen_pid(std::array<char, 32>& entry) {
    constexpr std::string_view kName = "LISTEN_PID=";
    std::copy(kName.begin(), kName.end(), entry.begin());
    std::to_chars(entry.data() + kName.size(), entry.data() + entry.size() - 1, ::getpid());
}

[[noreturn]] void run_child(Plan& plan) {
    const auto& request = *plan.request;
    ::setsid();
    reset_signals();
    write_listen_pid(plan.listen_pid);
    place_fds(plan);
    if (request.umask) ::umask(*request.umask);
    if (request.soft_nofile && !request.nofile) {
        rlimit limit{};
        if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) give_up(plan, Stage::nofile, errno);
        // Somebody may have lowered the hard one since.
        limit.rlim_cur = std::min<rlim_t>(*request.soft_nofile, limit.rlim_max);
        if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) give_up(plan, Stage::nofile, errno);
    }
    if (request.nofile) {
        // After the fds, which may lie above the new limit; before the user, who may not raise it.
        rlimit limit{*request.nofile, *request.nofile};
        if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) give_up(plan, Stage::nofile, errno);
    }
    if (request.identity) become(plan, *request.identity);
    // As the user: a folder that root may enter and the worker may not is found out here.
    if (!request.cwd.empty() && ::chdir(request.cwd.c_str()) != 0) give_up(plan, Stage::cwd, errno);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    execute(plan);
}

// --- In the parent again
// --------------------------------------------------------------------------

// With SIGCHLD ignored, as some parents leave it, the kernel reaps children by itself and their
// exit status is lost.
void stop_ignoring_children() {
    struct sigaction action {};
    if (::sigaction(SIGCHLD, nullptr, &action) != 0 || action.sa_handler != SIG_IGN) return;
    action.sa_handler = SIG_DFL;
    ::sigaction(SIGCHLD, &action, nullptr);
}

}  // namespace

Result<Process> spawn(const SpawnRequest& request) {
    if (request.command.empty() || request.command.front().empty())
        return fail("exec", "there is no command to start");
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno(errno, "make a pipe");
    Process process;
    process.exec_status.reset(ends[0]);
    Fd status(ends[1]);

    Plan plan;
    plan.request = &request;
    plan.argv = pointers(request.command);
    plan.envp = pointers(request.environment);
    for (const char*& entry : plan.envp)
        if (entry != nullptr && std::strcmp(entry, kListenPid) == 0) entry = plan.listen_pid.data();
    plan.candidates = program_candidates(request);
    if (auto planned = plan_fds(plan, request, status.get()); !planned)
        return wrap(planned.error(), "start " + request.command.front());
    status.reset();
    if (request.identity && request.identity->uid != 0) {
        give_pipe(request.stdin_fd, *request.identity);
        give_pipe(request.stdout_fd, *request.identity);
        give_pipe(request.stderr_fd, *request.identity);
    }
    stop_ignoring_children();

    // No signal may find the child while the master's handlers are still its own.
    sigset_t all, before;
    sigfillset(&all);
    ::sigprocmask(SIG_SETMASK, &all, &before);
    int pidfd = -1;
    int pid = sys::fork_into_cgroup(request.cgroup, &pidfd, 0);
    if (pid == 0) run_child(plan);
    int error = errno;
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    if (pid < 0) return fail_errno(error, fmt::format("start {}", request.command.front()));
    process.pid = pid;
    process.pidfd.reset(pidfd);
    return process;
}

std::optional<Error> read_exec_failure(int exec_status_fd, const SpawnRequest& request) {
    ExecFailure failure{};
    ssize_t size = 0;
    do size = ::read(exec_status_fd, &failure, sizeof(failure));
    while (size < 0 && errno == EINTR);
    if (size != static_cast<ssize_t>(sizeof(failure))) return {};
    const char* sudo_user = std::getenv("SUDO_USER");
    return describe_exec_failure(failure, request, sudo_user != nullptr ? sudo_user : "");
}

std::optional<Ended> reap(int pidfd) {
    siginfo_t info{};
    if (::waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED | WNOHANG | __WALL) != 0)
        return errno == ECHILD ? std::optional<Ended>(Ended{}) : std::nullopt;
    if (info.si_pid == 0) return {};
    Ended ended;
    if (info.si_code == CLD_EXITED)
        ended.code = info.si_status;
    else
        ended.signal = info.si_status;
    return ended;
}

}  // namespace drover::worker
