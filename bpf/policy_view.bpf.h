/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * What a policy sees, and all that it sees. Policies are pure functions
 *     policy(view) → slot, one of view->active
 * so that they also compile natively and are unit-tested without a kernel.
 *
 * They are called with 1 <= count < DROVER_MAX_SLOTS and count <= turns < DROVER_MAX_TURNS. The
 * masks on indices are for the verifier, which does not know that.
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
    const __u16 *schedule;           /* the same slots, each as often as its weight says */
    __u32 turns;                     /* length of the schedule */
    struct drover_slot *slots;       /* every slot's counts, by slot */
    const __u64 *listeners;          /* every slot's listener, for listener_*(); 0: not known */
    struct drover_look *looks;       /* every slot's, for awaited.bpf.h */
    __u32 hash;                      /* of the connection's addresses and ports */
    __u32 random;                    /* new in each call */
    __u64 turn;                      /* 0, 1, 2, … : one more with each SYN of the group */
    __u64 now;                       /* ns of the monotonic clock */
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

/* An index below 2 * count as one below count. Without a branch, and with an empty asm so that clang
 * makes none: in a loop the paths would multiply, and the verifier takes four times as long. */
static __always_inline __u32 wrapped(__u32 index, __u32 count)
{
    __u32 is_past = (__u32)((__s32)(count - 1 - index) >> 31); /* all bits, or none */

    asm volatile("" : "+r"(is_past));
    return index - (count & is_past);
}

static __always_inline __u32 candidate(const struct policy_view *view, __u32 index)
{
    return view->active[index & (DROVER_MAX_SLOTS - 1)] & (DROVER_MAX_SLOTS - 1);
}

/* The empty asm as above: clang knows a remainder's bound, the verifier does not ("math between
 * map_value pointer and register with unbounded min value"). */
static __always_inline __u32 at_turn(const struct policy_view *view, __u32 turn)
{
    asm volatile("" : "+r"(turn));
    return view->schedule[turn & (DROVER_MAX_TURNS - 1)] & (DROVER_MAX_SLOTS - 1);
}

/* Connections that a worker has or will have to serve. A count may be off by a little, even below 0,
 * until it is reconciled. */
static __always_inline __u64 live_in(const struct drover_slot *counts)
{
    __s64 live = *(const volatile __s64 *)&counts->live;

    return live > 0 ? live : 0;
}

static __always_inline __u64 live_of(const struct policy_view *view, __u32 slot)
{
    return live_in(&view->slots[slot]);
}

static __always_inline __u64 weight_of(const struct policy_view *view, __u32 slot)
{
    return view->slots[slot].weight;
}

/* Looks at all candidates, and takes the one with the least score for its weight; up to `exact` of
 * them. Above, the best of LEAST_OF_SAMPLES random ones: the cost per SYN stays flat, and the
 * balance is nearly that of looking at all. A score may have a part that is dear to find out: `more`,
 * which is asked for only where the score without it is less than that of all before.
 *
 * Both begin at a place that differs from call to call, so that equals share: several SYNs may be
 * decided before the first of their handshakes is done and counted.
 *
 * Scores are below 2^48 and not 0, so that of two idle workers the heavier is taken. None is below
 * `lowest`: where all are looked at and weigh the same, nobody is after who has that. */
#define LEAST_OF_SAMPLES 4

typedef __u64 (*policy_score)(const struct policy_view *view, __u32 slot);

static __always_inline __u64 no_more(__attribute__((unused)) const struct policy_view *view,
                                     __attribute__((unused)) __u32 slot)
{
    return 0;
}

/* The best so far. */
struct least {
    __u32 slot;
    __u64 score;
    __u64 weight;
};

static __always_inline void compare(const struct policy_view *view, __u32 slot, policy_score score,
                                    policy_score more, struct least *least)
{
    __u64 its = score(view, slot), its_weight = weight_of(view, slot);

    if (its * least->weight >= least->score * its_weight)
        return;
    its += more(view, slot);
    if (its * least->weight >= least->score * its_weight)
        return;
    least->slot = slot;
    least->score = its;
    least->weight = its_weight;
}

#define LEAST_OF_NONE {0, 1ull << 48, 1} /* worse than any */

/* Whether nobody can be better. As many turns as candidates: they weigh the same. */
static __always_inline int is_unbeaten(const struct policy_view *view, const struct least *least,
                                       __u64 lowest)
{
    return least->score == lowest && view->turns == view->count;
}

static __always_inline __u32 least_of_all(const struct policy_view *view, __u32 exact, __u64 lowest,
                                          policy_score score, policy_score more)
{
    __u32 start = scale_to(view->random, view->count);
    struct least least = LEAST_OF_NONE;

    for (__u32 i = 0; i < exact; i++) {
        if (i >= view->count)
            break;
        compare(view, candidate(view, wrapped(start + i, view->count)), score, more, &least);
        if (is_unbeaten(view, &least, lowest))
            break;
    }
    return least.slot;
}

static __always_inline __u32 least_of_some(const struct policy_view *view, policy_score score,
                                           policy_score more)
{
    __u32 random = view->random;
    struct least least = LEAST_OF_NONE;

    for (__u32 i = 0; i < LEAST_OF_SAMPLES; i++) {
        compare(view, candidate(view, scale_to(random, view->count)), score, more, &least);
        random = random * 1664525u + 1013904223u; /* the next value of a linear congruence */
    }
    return least.slot;
}

static __always_inline __u32 least_of(const struct policy_view *view, __u32 exact, __u64 lowest,
                                      policy_score score, policy_score more)
{
    if (view->count <= exact)
        return least_of_all(view, exact, lowest, score, more);
    return least_of_some(view, score, more);
}

#endif
