// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Exact counts of each worker's live connections, without the worker's help.
 *
 *     handshake done                     → live + 1
 *     first of FIN_WAIT1, LAST_ACK, CLOSE → live − 1
 *
 * A connection that waits in the accept queue counts: it is load that the worker has still to do. One
 * by TCP Fast Open does so from its SYN on, because its request may be served from then on.
 *
 * Whether it is counted stands in the callbacks that it asks for, see IS_COUNTED. Its state does not
 * tell: a handshake that fails ends in the state in which a fast-open connection may end.
 *
 * Each connection counts for its listener's worker (tags.bpf.h); one that was moved while it waited, for
 * the tag in `moved` instead.
 */
#include "maps.bpf.h"

#include "adopt.bpf.h"
#include "tags.bpf.h"

/* States of a socket, as the kernel numbers them. */
enum {
    STATE_FIN_WAIT1 = 4,
    STATE_CLOSE = 7,
    STATE_LAST_ACK = 9,
    STATE_LISTEN = 10,
};

/* That its changes of state are called back a connection has from its listener, where that has a tag.
 * With the other one it is marked: time-outs are rare, and nothing is done about them. */
#define IS_TAGGED BPF_SOCK_OPS_STATE_CB_FLAG
#define IS_COUNTED BPF_SOCK_OPS_RTO_CB_FLAG

#define MOST_PACE (1u << 24) /* 17 s */

/* Adds to the counts of the tag's slot, and returns 1. Or 0 where the slot has another owner by now: a
 * late end of a connection of the former owner is not the present one's. */
static __always_inline int count_begin(const struct drover_tag *tag)
{
    struct drover_slot *slot = &slots[tag->slot & (DROVER_MAX_SLOTS - 1)];

    if (slot->worker != tag->worker)
        return 0;
    if (__sync_fetch_and_add(&slot->live, 1) <= 0)
        slot->progress_at = bpf_ktime_get_ns();
    __sync_fetch_and_add(&slot->established_total, 1);
    return 1;
}

/* The worker has finished a connection. Its pace is followed in small steps up and down: about the
 * median, so that the one long request in a hundred does not show in it. */
static __always_inline void note_progress(struct drover_slot *slot)
{
    __u64 now = bpf_ktime_get_ns();
    __u64 took = now > slot->progress_at ? (now - slot->progress_at) >> 10 : 0;
    __u32 pace = slot->pace;

    slot->progress_at = now;
    if (!pace)
        slot->pace = took < MOST_PACE ? took + 1 : MOST_PACE;
    else if (took > pace && pace < MOST_PACE)
        slot->pace = pace + (pace >> 3) + 1;
    else if (took < pace)
        slot->pace = pace - (pace >> 3);
}

static __always_inline void count_end(const struct drover_tag *tag)
{
    struct drover_slot *slot = &slots[tag->slot & (DROVER_MAX_SLOTS - 1)];

    if (slot->worker != tag->worker)
        return;
    __sync_fetch_and_add(&slot->live, -1);
    __sync_fetch_and_add(&slot->closed_total, 1);
    note_progress(slot);
}

static __always_inline void connection_begins(struct bpf_sock_ops *ctx)
{
    struct bpf_sock *sk = ctx->sk;
    struct drover_tag *tag;

    if (!sk || !(ctx->bpf_sock_ops_cb_flags & IS_TAGGED))
        return; /* a connection to a port that is not shared */
    tag = tag_of_connection(sk);
    if (!tag)
        return;
    if (count_begin(tag))
        bpf_sock_ops_cb_flags_set(ctx, IS_TAGGED | IS_COUNTED);
    if (tag->slot == DROVER_KEEPER_SLOT)
        tell_parked(ctx);
}

static __always_inline void connection_ends(struct bpf_sock_ops *ctx)
{
    struct drover_tag *tag, *elsewhere;
    struct bpf_sock *sk = ctx->sk;
    __u64 cookie;

    if (!sk || !(ctx->bpf_sock_ops_cb_flags & IS_COUNTED))
        return;
    /* The further steps of its end are no news: each call would cost about 80 ns. */
    bpf_sock_ops_cb_flags_set(ctx, 0);
    if (totals.moves_total) {
        cookie = bpf_get_socket_cookie(ctx);
        elsewhere = bpf_map_lookup_elem(&moved, &cookie);
        if (elsewhere) {
            count_end(elsewhere);
            bpf_map_delete_elem(&moved, &cookie);
            return;
        }
    }
    tag = tag_of_connection(sk);
    if (tag)
        count_end(tag);
}

SEC("sockops")
int account(struct bpf_sock_ops *ctx)
{
    __u32 from, to;

    switch (ctx->op) {
    case BPF_SOCK_OPS_TCP_LISTEN_CB:
        adopt_listener(ctx);
        return 1;
    case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
        connection_begins(ctx);
        return 1;
    case BPF_SOCK_OPS_STATE_CB:
        from = ctx->args[0];
        to = ctx->args[1];
        if (from == STATE_LISTEN) {
            forget_listener(ctx);
            return 1;
        }
        if (to == STATE_FIN_WAIT1 || to == STATE_LAST_ACK || to == STATE_CLOSE)
            connection_ends(ctx);
        return 1;
    default:
        return 1;
    }
}
