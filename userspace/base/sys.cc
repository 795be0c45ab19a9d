// SPDX-License-Identifier: MIT
#include "base/sys.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

namespace drover::sys {

int fork_into_cgroup(CgroupEntry cgroup, int* pidfd, uint64_t flags) {
    clone_args args{};
    args.flags = flags;
    args.exit_signal = SIGCHLD;
    if (pidfd != nullptr) {
        args.flags |= CLONE_PIDFD;
        args.pidfd = reinterpret_cast<uint64_t>(pidfd);
    }
    if (cgroup.fd >= 0 && !cgroup.late) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = static_cast<uint64_t>(cgroup.fd);
    }
    int pid = static_cast<int>(::syscall(SYS_clone3, &args, sizeof(args)));
    if (pid == 0 && cgroup.fd >= 0 && cgroup.late) {
        int procs = ::openat(cgroup.fd, "cgroup.procs", O_WRONLY | O_CLOEXEC);
        if (procs < 0 || ::write(procs, "0", 1) != 1) ::_exit(127);
        ::close(procs);
    }
    return pid;
}

bool must_enter_late(int cgroup_fd) {
    int pid = fork_into_cgroup({cgroup_fd, false}, nullptr, 0);
    if (pid == 0) ::_exit(0);
    if (pid < 0) return true;
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFSIGNALED(status);
}

int try_lock(int fd) {
    int result = 0;
    do result = ::flock(fd, LOCK_EX | LOCK_NB);
    while (result != 0 && errno == EINTR);
    return result;
}

int pidfd_open(int pid) {
    return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
}

int pidfd_getfd(int pidfd, int fd) {
    return static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd, fd, 0));
}

int pidfd_send_signal(int pidfd, int signal) {
    return static_cast<int>(::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0));
}

}  // namespace drover::sys
