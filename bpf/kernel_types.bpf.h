/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * The few fields of the kernel's own types that programs read. The loader finds their true places
 * by the running kernel's BTF (CO-RE); the names are the kernel's.
 */
#ifndef DROVER_KERNEL_TYPES_BPF_H
#define DROVER_KERNEL_TYPES_BPF_H

#include <linux/types.h>

#define RELOCATED __attribute__((preserve_access_index))

struct sock {
    __u32 sk_ack_backlog; /* connections that wait for accept() */
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
