/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * What can be seen of a listener by its address in the kernel (drover_listener_row). A listener that
 * is just closing may show anything; nothing bad comes of looking. Compiled natively a listener is a
 * pointer to a struct policy_listener, for unit tests.
 */
#ifndef DROVER_LISTENER_BPF_H
#define DROVER_LISTENER_BPF_H

#include <drover/steer_abi.h>

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#ifdef __bpf__
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "kernel_types.bpf.h"
#include "maps.bpf.h"

static __always_inline __u32 listener_young(__u64 listener)
{
    struct inet_connection_sock *sk = (struct inet_connection_sock *)listener;
    int young = 0;

    if (config.reads_kernel && listener && !(listener & DROVER_LISTENER_CLOSED))
        bpf_core_read(&young, sizeof(young), &sk->icsk_accept_queue.young.counter);
    return young > 0 ? young : 0;
}

static __always_inline __u32 listener_queued(__u64 listener)
{
    struct sock *sk = (struct sock *)listener;
    __u32 queued = 0;

    if (config.reads_kernel && listener && !(listener & DROVER_LISTENER_CLOSED))
        bpf_core_read(&queued, sizeof(queued), &sk->sk_ack_backlog);
    return queued;
}
#else
struct policy_listener {
    __u32 young;
    __u32 queued;
    int look; /* these two: awaited.bpf.h */
    __u64 sleeps;
};

static __always_inline __u32 listener_young(__u64 listener)
{
    return listener ? ((const struct policy_listener *)listener)->young : 0;
}

static __always_inline __u32 listener_queued(__u64 listener)
{
    return listener ? ((const struct policy_listener *)listener)->queued : 0;
}
#endif

#endif
