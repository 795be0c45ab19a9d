/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * The few fields of the kernel's own types that programs read. The loader finds their true places
 * by the running kernel's BTF (CO-RE); the names are the kernel's.
 */
#ifndef DROVER_KERNEL_TYPES_BPF_H
#define DROVER_KERNEL_TYPES_BPF_H

#include <linux/types.h>

#define RELOCATED __attribute__((preserve_access_index))

struct task_struct {
    unsigned long nvcsw; /* how often it slept */
} RELOCATED;

struct list_head {
    struct list_head *next;
} RELOCATED;

struct wait_queue_head {
    struct list_head head;
} RELOCATED;

/* One that waits: a thread (private: itself), or an epoll instance that is told (private: 0). */
struct wait_queue_entry {
    void *private;
    struct list_head entry;
} RELOCATED;

struct eventpoll {
    struct wait_queue_head wq;        /* threads in epoll_wait() */
    struct wait_queue_head poll_wait; /* other epoll instances that this one is in */
} RELOCATED;

struct epitem {
    struct eventpoll *ep;
} RELOCATED;

struct eppoll_entry {
    struct epitem *base;
    struct wait_queue_entry wait;
} RELOCATED;

struct socket_wq {
    struct wait_queue_head wait;
} RELOCATED;

struct kernfs_node {
    __u64 id; /* of a cgroup: its inode number */
} RELOCATED;

struct cgroup {
    struct kernfs_node *kn;
} RELOCATED;

struct sock_cgroup_data {
    struct cgroup *cgroup; /* of version 2, in which the socket was made */
} RELOCATED;

struct sock {
    __u32 sk_ack_backlog; /* connections that wait for accept() */
    struct socket_wq *sk_wq;
    struct sock_cgroup_data sk_cgrp_data;
} RELOCATED;

typedef struct {
    int counter;
} RELOCATED atomic_t;

struct request_sock_queue {
    atomic_t young; /* handshakes begun and not yet repeated */
} RELOCATED;

struct inet_connection_sock {
    struct request_sock_queue icsk_accept_queue;
} RELOCATED;

#endif
