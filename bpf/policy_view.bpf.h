/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * What a policy sees, and all that it sees. Policies are pure functions
 *     pick(view) → index into view->active, below view->count
 * so that they also compile natively and are unit-tested without a kernel.
 *
 * They are called with 1 <= count < DROVER_MAX_SLOTS. The masks on indices are for the verifier,
 * which does not know that.
 */
#ifndef DROVER_POLICY_VIEW_BPF_H
#define DROVER_POLICY_VIEW_BPF_H

#include <drover/steer_abi.h>

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

struct policy_view {
    const __u16 *active;             /* the candidates' slots, dense */
    __u32 count;                     /* how many */
    const struct drover_slot *slots; /* every slot's counts, by slot */
    __u32 hash;                      /* of the connection's addresses and ports */
    __u32 random;                    /* new in each call */
    __u64 turn;                      /* 0, 1, 2, … : one more with each SYN of the group */
};

/* Maps a 32-bit random value or hash evenly to 0 … count - 1, without a division.
 *
 * The empty asm hides from clang that the result is below count: it would drop the masks on
 * indices, and the verifier of 6.1 does not see the bound by itself ("R4 unbounded memory
 * access"). */
static __always_inline __u32 scale_to(__u32 value, __u32 count)
{
    __u32 scaled = (__u32)(((__u64)value * count) >> 32);

    asm volatile("" : "+r"(scaled));
    return scaled;
}

static __always_inline __s64 live_at(const struct policy_view *view, __u32 index)
{
    __u32 slot = view->active[index & (DROVER_MAX_SLOTS - 1)] & (DROVER_MAX_SLOTS - 1);

    return *(const volatile __s64 *)&view->slots[slot].live;
}

#endif
