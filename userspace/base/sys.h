// SPDX-License-Identifier: MIT
//
// System calls that glibc does not wrap. Each returns what the kernel returns, or -1 with errno.
#pragma once

#include <cstdint>

namespace drover::sys {

// Forks like fork(2), but the child begins in the cgroup whose folder is open as `cgroup_fd` (-1:
// the parent's), and `*pidfd`, if given, becomes a close-on-exec pidfd of it. `flags` are further
// CLONE_* flags. For single-threaded programs: the child may only make async-signal-safe calls.
int fork_into_cgroup(int cgroup_fd, int* pidfd, uint64_t flags);

int pidfd_open(int pid);
int pidfd_getfd(int pidfd, int fd);
int pidfd_send_signal(int pidfd, int signal);

}  // namespace drover::sys
