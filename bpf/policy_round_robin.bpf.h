/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * round-robin: each active slot in its turn. Exact: over any run of k * count connections with an
 * unchanged active set every worker gets k.
 */
#ifndef DROVER_POLICY_ROUND_ROBIN_BPF_H
#define DROVER_POLICY_ROUND_ROBIN_BPF_H

#include "policy_view.bpf.h"

static __always_inline __u32 policy_round_robin(const struct policy_view *view)
{
    return (__u32)(view->turn % view->count);
}

#endif
