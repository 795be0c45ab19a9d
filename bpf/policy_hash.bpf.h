/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * hash: the connection's addresses and ports choose. What the kernel does by itself, over the
 * active set alone and by weight; the baseline that the other policies are measured against.
 */
#ifndef DROVER_POLICY_HASH_BPF_H
#define DROVER_POLICY_HASH_BPF_H

#include "policy_view.bpf.h"

static __always_inline __u32 policy_hash(const struct policy_view *view)
{
    return at_turn(view, scale_to(view->hash, view->turns));
}

#endif
