/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * round-robin: each active slot in its turn, as often as its weight says. Exact: over any run of
 * k * turns connections with an unchanged active set every worker gets k times its turns.
 */
#ifndef DROVER_POLICY_ROUND_ROBIN_BPF_H
#define DROVER_POLICY_ROUND_ROBIN_BPF_H

#include "policy_view.bpf.h"

static __always_inline __u32 policy_round_robin(const struct policy_view *view)
{
    return at_turn(view, (__u32)(view->turn % view->turns));
}

#endif
