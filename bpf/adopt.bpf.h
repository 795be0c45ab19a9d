/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * What account's one sock_ops program calls of adopt's: a cgroup runs every sock_ops program that
 * is attached to it on every event of every connection, so there is just one.
 */
#ifndef DROVER_ADOPT_BPF_H
#define DROVER_ADOPT_BPF_H

#include <linux/bpf.h>

/* A socket of a worker began to listen: into its slot with it. Returns 0. */
int adopt_listener(struct bpf_sock_ops *ctx);

/* A listener of a worker closed: tell the master. Returns 0. */
int forget_listener(struct bpf_sock_ops *ctx);

/* A connection is waiting with the keeper: tell the master, which may know a worker by now. */
int tell_parked(struct bpf_sock_ops *ctx);

#endif
