/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * least-conn: the active slot with the fewest live connections for its weight. Up to
 * LEAST_CONN_EXACT workers every one is looked at.
 */
#ifndef DROVER_POLICY_LEAST_CONN_BPF_H
#define DROVER_POLICY_LEAST_CONN_BPF_H

#include "policy_view.bpf.h"

#define LEAST_CONN_EXACT 32
#define LEAST_CONN_IDLE 1 /* the score of one without connections */

static __always_inline __u64 least_conn_score(const struct policy_view *view, __u32 slot)
{
    return live_of(view, slot) + LEAST_CONN_IDLE;
}

static __always_inline __u32 policy_least_conn(const struct policy_view *view)
{
    return least_of(view, LEAST_CONN_EXACT, LEAST_CONN_IDLE, least_conn_score, no_more);
}

#endif
