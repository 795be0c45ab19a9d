/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * least-busy: the active slot whose worker has the least to do, by what can be seen at the moment
 * of the SYN and without the worker's help:
 *
 *     live connections, those in its queue included
 *   + handshakes under way (the listener's own count: it falls by itself, also under a SYN flood)
 *   + age:   how long ago it last finished a connection. Less than one connection, so it decides
 *            between equals: of two workers with one connection each, the one that has been at it
 *            for longer is the one that is likelier to be at it for long. Idle keep-alive
 *            connections age as well, but all workers' do, and an age stops counting at 8 ms.
 *   + delay: each millisecond that a queue has not moved counts as one connection, up to 32. A
 *            worker that is stuck gets no more, long before it is called stalled.
 *
 * Where the kernel does not let programs look at listeners (lockdown), live connections and age
 * remain.
 */
#ifndef DROVER_POLICY_LEAST_BUSY_BPF_H
#define DROVER_POLICY_LEAST_BUSY_BPF_H

#include "policy_view.bpf.h"

#ifdef __bpf__
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "kernel_types.bpf.h"

static __always_inline __u32 listener_young(__u64 listener)
{
    struct inet_connection_sock *sk = (struct inet_connection_sock *)listener;
    int young = 0;

    if (listener)
        bpf_core_read(&young, sizeof(young), &sk->icsk_accept_queue.young.counter);
    return young > 0 ? young : 0;
}

static __always_inline __u32 listener_queued(__u64 listener)
{
    struct sock *sk = (struct sock *)listener;
    __u32 queued = 0;

    if (listener)
        bpf_core_read(&queued, sizeof(queued), &sk->sk_ack_backlog);
    return queued;
}
#else
/* Natively a listener is a pointer to this. */
struct policy_listener {
    __u32 young;
    __u32 queued;
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

#define LEAST_BUSY_EXACT 16

#define BUSY_CONNECTION 1024u              /* the score of one connection */
#define BUSY_MOST_YOUNG 65535u             /* a listener that is just closing may show anything */
#define BUSY_AGE_UNIT (8u << 10)           /* ns: 8 µs; 1,000 of them count */
#define BUSY_MOST_AGE 1000u                /* below one connection */
#define BUSY_DELAY_UNIT 1000000u           /* ns: 1 ms counts as one connection */
#define BUSY_MOST_DELAY (32u * BUSY_CONNECTION)

static __always_inline __u64 least_busy_score(const struct policy_view *view, __u32 slot)
{
    const struct drover_slot *counts = &view->slots[slot];
    __u64 listener = *(const volatile __u64 *)&view->listeners[slot];
    __u64 live = live_of(view, slot), young = listener_young(listener);
    __u64 since, age, delay, score;

    if (young > BUSY_MOST_YOUNG)
        young = BUSY_MOST_YOUNG;
    score = (live + young + 1) * BUSY_CONNECTION;
    if (!live)
        return score;
    since = *(const volatile __u64 *)&counts->progress_at;
    since = view->now > since ? view->now - since : 0;
    age = since / BUSY_AGE_UNIT;
    score += age < BUSY_MOST_AGE ? age : BUSY_MOST_AGE;
    if (since < BUSY_DELAY_UNIT || !listener_queued(listener))
        return score;
    delay = since / (BUSY_DELAY_UNIT / BUSY_CONNECTION);
    return score + (delay < BUSY_MOST_DELAY ? delay : BUSY_MOST_DELAY);
}

static __always_inline __u32 policy_least_busy(const struct policy_view *view)
{
    return least_of(view, LEAST_BUSY_EXACT, least_busy_score);
}

#endif
