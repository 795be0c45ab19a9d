/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * least-conn: the active slot with the fewest live connections.
 *
 * Up to LEAST_CONN_EXACT workers every one is looked at. Above, the best of LEAST_CONN_SAMPLES
 * random ones: the cost per SYN stays flat, and the balance is nearly that of looking at all.
 *
 * Both begin at a place that differs from call to call, so that equals share: several SYNs may be
 * decided before the first of their handshakes is done and counted.
 */
#ifndef DROVER_POLICY_LEAST_CONN_BPF_H
#define DROVER_POLICY_LEAST_CONN_BPF_H

#include "policy_view.bpf.h"

#define LEAST_CONN_EXACT 32
#define LEAST_CONN_SAMPLES 4

static __always_inline __u32 least_conn_exact(const struct policy_view *view)
{
    __u32 start = scale_to(view->random, view->count);
    __u32 best = start;
    __s64 fewest = live_at(view, start);

    for (__u32 i = 1; i < LEAST_CONN_EXACT; i++) {
        __u32 index = start + i;
        __s64 live;

        if (i >= view->count)
            break;
        /* Subtracted, not set to 0: constants would give the verifier a path for each value
         * ("BPF program is too large"). */
        if (index >= view->count)
            index -= view->count;
        live = live_at(view, index);
        if (live < fewest) {
            fewest = live;
            best = index;
        }
    }
    return best;
}

static __always_inline __u32 least_conn_sampled(const struct policy_view *view)
{
    __u32 random = view->random;
    __u32 best = scale_to(random, view->count);
    __s64 fewest = live_at(view, best);

    for (__u32 i = 1; i < LEAST_CONN_SAMPLES; i++) {
        __u32 index;
        __s64 live;

        random = random * 1664525u + 1013904223u; /* the next value of a linear congruence */
        index = scale_to(random, view->count);
        live = live_at(view, index);
        if (live < fewest) {
            fewest = live;
            best = index;
        }
    }
    return best;
}

static __always_inline __u32 policy_least_conn(const struct policy_view *view)
{
    if (view->count <= LEAST_CONN_EXACT)
        return least_conn_exact(view);
    return least_conn_sampled(view);
}

#endif
