// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * How many connections wait for each worker, all at once and for the price of one system call: the
 * master runs this program when it is in a hurry. (The kernel's own list of sockets says the same,
 * but takes a hundred times as long.)
 */
#include "maps.bpf.h"

#include "listener.bpf.h"

/* Loops by callbacks: the verifier of a loop in a loop follows each path ("The sequence of 8193 jumps
 * is too complex"). */
struct round {
    __u32 groups;
    __u32 slots;
    const struct drover_listener_row *row;
};

static long forget_slot(__u32 slot, __attribute__((unused)) struct round *round)
{
    slots[slot & (DROVER_MAX_SLOTS - 1)].queued = 0;
    return 0;
}

static long measure_slot(__u32 slot, struct round *round)
{
    slot &= DROVER_MAX_SLOTS - 1;
    slots[slot].queued += listener_queued(round->row->socks[slot]);
    return 0;
}

static long measure_group(__u32 group, struct round *round)
{
    if (!(round->groups >> (group & 31) & 1))
        return 0;
    round->row = bpf_map_lookup_elem(&listener_rows, &group);
    if (round->row)
        bpf_loop(round->slots, measure_slot, round, 0);
    return 0;
}

SEC("syscall")
int measure(struct drover_measure *ctx)
{
    struct round round = {ctx->groups, ctx->slots, 0};

    if (!config.reads_kernel)
        return 1;
    if (round.slots > DROVER_MAX_SLOTS)
        round.slots = DROVER_MAX_SLOTS;
    bpf_loop(round.slots, forget_slot, &round, 0);
    bpf_loop(DROVER_MAX_GROUPS, measure_group, &round, 0);
    return 0;
}
