// SPDX-License-Identifier: MIT
/*
 * Wrong: a loop that need not end. The verifier refuses it.
 */
#include <drover/policy.bpf.h>

DROVER_POLICY(const struct drover_view* view) {
    __u32 index;

    do index = bpf_get_prandom_u32();
    while (index >= view->count);
    return index;
}
