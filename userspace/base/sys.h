// SPDX-License-Identifier: MIT
//
// System calls that glibc does not wrap, or that want more than one line. Each returns what the
// kernel returns, or -1 with errno.
#pragma once

#include <cstdint>

namespace drover::sys {

// The cgroup that a new process is to be in: its folder, open (-1: the parent's).
//
// `late`: the child goes there itself instead of being born there. That takes milliseconds and a
// lock of the whole system's, but works for a parent in a cgroup that was once killed
// (cgroup.kill): what such a parent forks into another cgroup the kernel kills at birth (seen
// on 6.18).
struct CgroupEntry {
    int fd = -1;
    bool late = false;
};

// Finds out, by a child that does nothing, whether `late` is needed to get into the cgroup.
bool must_enter_late(int cgroup_fd);

// Forks like fork(2), but the child begins in the cgroup, and `*pidfd`, if given, becomes a
// close-on-exec pidfd of it. `flags` are further CLONE_* flags. For single-threaded programs: the
// child may only make async-signal-safe calls.
int fork_into_cgroup(CgroupEntry cgroup, int* pidfd, uint64_t flags);

// flock(2), exclusively, without waiting: -1 with EWOULDBLOCK where somebody else has the lock.
int try_lock(int fd);

int pidfd_open(int pid);
int pidfd_getfd(int pidfd, int fd);
int pidfd_send_signal(int pidfd, int signal);

}  // namespace drover::sys
