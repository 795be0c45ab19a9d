// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * START HERE for the data path: which worker gets this connection?
 *
 *     group → pinned? → active set → policy → deliver
 *
 * Where the policy is a program of the user's own, the way leaves this one at `policy` (custom.bpf.h)
 * and comes back in deliver_chosen().
 *
 * The kernel runs steer() for each SYN that reaches a port of the cluster (and for SYN cookies' last
 * ACKs, for late packets that belong to no connection, and for waiting connections whose listener
 * goes away). It names one listener, and the kernel puts the connection into that one's queue.
 *
 * It never passes without a selection: the kernel would then fall back to its hash over all sockets
 * of the group, those included that must not get traffic.
 */
#include "maps.bpf.h"

#include <bpf/bpf_endian.h>

#include "client.bpf.h"
#include "custom.bpf.h"
#include "policy_hash.bpf.h"
#include "policy_least_busy.bpf.h"
#include "policy_least_conn.bpf.h"
#include "policy_round_robin.bpf.h"
#include "policy_source.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* States of a socket, as the kernel numbers them. */
#define STATE_ESTABLISHED 1
#define STATE_CLOSE_WAIT 8

/* Other active slots that are tried when the policy's choice has just closed. Enough that a reload
 * or crash of a few workers at once finds a living one; beyond it the keeper holds the connection. */
#define FALLBACK_TRIES 8

/* How often a decision is made anew because the master wrote the active set meanwhile. It writes
 * some hundred bytes in each change of a worker's life; two changes in a row within one decision
 * are rare, four do not happen. */
#define REREAD_TRIES 4

static __always_inline void count_decision(__u32 group, __u32 reason)
{
    __u32 index = group * DROVER_REASON_COUNT + reason;
    __u64 *count = bpf_map_lookup_elem(&decisions, &index);

    if (count)
        *count += 1;
}

static __always_inline int is_same_key(const struct drover_group_key *one,
                                       const struct drover_group_key *other)
{
    return one->port == other->port && one->family == other->family &&
           one->addr[0] == other->addr[0] && one->addr[1] == other->addr[1] &&
           one->addr[2] == other->addr[2] && one->addr[3] == other->addr[3];
}

/* The group that this run is about: the likely one by a look at what is read anyway, or the one in the
 * map. Returns 0, or -1 where the group is none of the cluster's. */
static __always_inline int find_group(struct sk_reuseport_md *ctx, struct bpf_sock *migrating,
                                      __u32 *group)
{
    struct drover_group_key key = {};
    struct bpf_sock *sk = ctx->sk;
    __u32 port = sk->src_port, likely, *index;

    /* A closed listener has its address still, but no port: a handshake that it began has it. The
     * empty asm, or clang would choose the pointer to load from, which the verifier does not allow
     * ("same insn cannot be used with different pointers"). */
    asm volatile("" : "+r"(port));
    if (migrating)
        port = migrating->src_port;
    key.family = sk->family;
    key.port = port;
    if (key.family == DROVER_AF_INET) {
        key.addr[0] = sk->src_ip4;
    } else {
        key.addr[0] = sk->src_ip6[0];
        key.addr[1] = sk->src_ip6[1];
        key.addr[2] = sk->src_ip6[2];
        key.addr[3] = sk->src_ip6[3];
    }
    likely = control.likely_groups[key.port & (DROVER_MAX_GROUPS - 1)] & (DROVER_MAX_GROUPS - 1);
    if (is_same_key(&groups[likely].key, &key)) {
        *group = likely;
        return 0;
    }
    index = bpf_map_lookup_elem(&group_index, &key);
    if (!index)
        return -1;
    *group = *index & (DROVER_MAX_GROUPS - 1);
    return 0;
}

/* True for a packet that asks for a new connection: SYN without ACK. */
static __always_inline int is_syn(struct sk_reuseport_md *ctx)
{
    const __u8 *tcp = ctx->data;
    const __u8 *end = ctx->data_end;

    if (tcp + 14 > end)
        return 0;
    return (tcp[13] & 0x12) == 0x02;
}

/* What a run is for, and what it is counted as if all goes well. */
static __always_inline __u32 reason_of(struct sk_reuseport_md *ctx, struct bpf_sock *migrating)
{
    if (migrating)
        return DROVER_MOVED;
    return is_syn(ctx) ? DROVER_PICKED : DROVER_STRAY;
}

/* The entry of the policy `source` for that client. */
static __always_inline __u32 pick_by_source(__u32 group, __u32 half, __u32 bucket)
{
    __u32 index = (group * 2 + (half & 1)) & (DROVER_MAX_GROUPS * 2 - 1);
    struct drover_source_table *table = bpf_map_lookup_elem(&source_tables, &index);

    if (!table)
        return 0;
    return table->slots[bucket & (DROVER_SOURCE_TABLE_ROOM - 1)] & (DROVER_MAX_SLOTS - 1);
}

/* Asks the policy. Returns a slot. `hash` is the client's bucket where the policy is `source`. A
 * function of its own that the verifier checks once by itself: inlined into the loop below, the
 * paths through it would multiply. */
__noinline __u32 pick(__u32 group, __u32 half, __u32 hash, __u32 random, __u64 turn)
{
    const struct drover_active_set *set =
        &groups[group & (DROVER_MAX_GROUPS - 1)].sets[half & 1];
    __u32 row = group & (DROVER_MAX_GROUPS - 1);
    struct drover_listener_row *listeners = bpf_map_lookup_elem(&listener_rows, &row);
    struct policy_view view = {
        .active = set->slots,
        .count = *(volatile __u32 *)&set->count & (DROVER_MAX_SLOTS - 1),
        .schedule = set->schedule,
        .turns = *(volatile __u32 *)&set->turns & (DROVER_MAX_TURNS - 1),
        .slots = slots,
        .looks = looks,
        .hash = hash,
        .random = random,
        .turn = turn,
    };

    if (view.count == 0 || view.turns == 0 || !listeners)
        return 0;
    view.listeners = listeners->socks;
    switch (control.policy) {
    case DROVER_POLICY_HASH:
        return policy_hash(&view);
    case DROVER_POLICY_ROUND_ROBIN:
        return policy_round_robin(&view);
    case DROVER_POLICY_LEAST_CONN:
        return policy_least_conn(&view);
    case DROVER_POLICY_SOURCE:
        return pick_by_source(group, half, hash);
    default:
        view.now = bpf_ktime_get_ns();
        return policy_least_busy(&view);
    }
}

/* The number that the policy goes by: the client's bucket, or the kernel's hash of the connection. */
static __always_inline __u32 hash_of(struct sk_reuseport_md *ctx, struct bpf_sock *migrating)
{
    struct client client = {};

    if (control.policy != DROVER_POLICY_SOURCE)
        return ctx->hash;
    if (read_client(ctx, migrating, &client))
        return scale_to(ctx->hash, DROVER_SOURCE_TABLE_SIZE);
    return source_bucket(client.addr, client.is_v6, control.prefix_v4, control.prefix_v6);
}

/* What was chosen: the slot, the size of the active set (0: there is nobody, and no slot), and which
 * half of the group's two sets it is. */
struct choice {
    __u32 slot;
    __u32 count;
    __u32 half;
};

/* Asks the policy for a slot of the set that is in force. A packet that is no SYN is asked for, too: it
 * may be the last ACK of a SYN cookie, and its connection is the choice's. But it takes no turn, or a
 * stray packet could; any turn will do for it. */
static __always_inline void choose(__u32 index, __u32 hash, __u32 reason, struct choice *choice)
{
    struct drover_group *group = &groups[index & (DROVER_MAX_GROUPS - 1)];
    __u32 random = bpf_get_prandom_u32();
    __u64 turn = random;

    if (reason != DROVER_STRAY && control.policy == DROVER_POLICY_ROUND_ROBIN)
        turn = __sync_fetch_and_add(&group->turn, 1);

    for (int try = 0; try < REREAD_TRIES; try++) {
        __u32 version = *(volatile __u32 *)&group->current;
        struct drover_active_set *set = &group->sets[version & 1];

        choice->half = version & 1;
        choice->count = *(volatile __u32 *)&set->count & (DROVER_MAX_SLOTS - 1);
        if (choice->count)
            choice->slot = pick(index, choice->half, hash, random, turn);
        if (*(volatile __u32 *)&set->version == version)
            return;
    }
    choice->count = 0;
}

/* Has the master watch the queues from the first connection on that may have to wait. Once: until the
 * master has seen for a while that nothing waits, nobody tells it again. */
static __always_inline void tell_queued(__u32 slot)
{
    struct drover_event *event;

    if (control.watched)
        return;
    event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
    if (!event) {
        __sync_fetch_and_add(&totals.events_lost_total, 1);
        return;
    }
    control.watched = 1;
    __builtin_memset(event, 0, sizeof(*event));
    event->kind = DROVER_EVENT_QUEUED;
    event->slot = slot;
    bpf_ringbuf_submit(event, 0);
}

/* Has the master look whether this connection has to wait while another worker becomes idle. Only
 * under least-busy: the others are meant to be blind to load, or to know no queues. */
static __always_inline void tell_busy(__u32 slot)
{
    struct drover_event *event;

    if (control.hurried || control.policy != DROVER_POLICY_LEAST_BUSY)
        return;
    if (*(volatile __s64 *)&slots[slot & (DROVER_MAX_SLOTS - 1)].live <= 0)
        return;
    event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
    if (!event)
        return;
    control.hurried = 1;
    __builtin_memset(event, 0, sizeof(*event));
    event->kind = DROVER_EVENT_BUSY;
    event->slot = slot;
    bpf_ringbuf_submit(event, 0);
}

static __always_inline int select_slot(struct sk_reuseport_md *ctx, __u32 group, __u32 slot)
{
    __u32 index = DROVER_LISTENER_INDEX(group, slot & (DROVER_MAX_SLOTS - 1));

    return bpf_sk_select_reuseport(ctx, &listeners, &index, 0);
}

/* A waiting connection moves from its closing listener to another slot, and its count with it. The
 * socket storage cannot be reached from here, so the new tag is remembered by cookie until the
 * connection ends. In any other state its handshake is not done: it is not counted yet, and gets
 * its new listener's tag by itself. */
static __always_inline void move_count(struct bpf_sock *listener, struct bpf_sock *connection,
                                       __u32 to)
{
    __u32 state = connection->state;
    struct drover_slot *source, *target = &slots[to & (DROVER_MAX_SLOTS - 1)];
    struct drover_tag tag = {}, *from;
    __u64 cookie;

    if (state != STATE_ESTABLISHED && state != STATE_CLOSE_WAIT)
        return;
    cookie = bpf_get_socket_cookie(listener);
    from = bpf_map_lookup_elem(&listener_tags, &cookie);
    if (!from)
        return;
    tag.slot = to;
    tag.worker = target->worker;
    cookie = bpf_get_socket_cookie(connection);
    if (bpf_map_update_elem(&moved, &cookie, &tag, BPF_ANY))
        return; /* full: the count stays where it was, and ends there */
    __sync_fetch_and_add(&totals.moves_total, 1);
    source = &slots[from->slot & (DROVER_MAX_SLOTS - 1)];
    if (source->worker == from->worker) {
        __sync_fetch_and_add(&source->live, -1);
        __sync_fetch_and_add(&source->moved_out_total, 1);
    }
    if (__sync_fetch_and_add(&target->live, 1) <= 0)
        target->progress_at = bpf_ktime_get_ns(); /* it has something to do from now on */
    __sync_fetch_and_add(&target->moved_in_total, 1);
}

/* Looks whether the packet belongs to a connection that the master pinned to a slot. Returns 0, or
 * -1. Packets other than the SYN are looked up too: the last ACK of a SYN cookie comes here. */
static __always_inline int find_pin(struct sk_reuseport_md *ctx, __u32 *slot)
{
    struct drover_pin_key key = {};
    __be16 ports[2];
    __u32 *pinned;
    long failed;

    if (!control.pins)
        return -1;
    if (ctx->eth_protocol == bpf_htons(ETH_P_IP)) {
        __u32 addresses[2];

        failed = bpf_skb_load_bytes_relative(ctx, 12, addresses, sizeof(addresses),
                                             BPF_HDR_START_NET);
        key.client[0] = addresses[0];
        key.server[0] = addresses[1];
        key.family = DROVER_AF_INET;
    } else {
        /* Source and destination stand one after the other, as in the key. */
        failed = bpf_skb_load_bytes_relative(ctx, 8, key.client, 2 * sizeof(key.client),
                                             BPF_HDR_START_NET);
        key.family = DROVER_AF_INET6;
    }
    if (failed || bpf_skb_load_bytes(ctx, 0, ports, sizeof(ports)))
        return -1;
    key.client_port = bpf_ntohs(ports[0]);
    key.server_port = bpf_ntohs(ports[1]);
    pinned = bpf_map_lookup_elem(&pins, &key);
    if (!pinned)
        return -1;
    *slot = *pinned;
    return 0;
}

/* To this one worker or to none: whether it answers is what the master asks. */
static __always_inline int deliver_pinned(struct sk_reuseport_md *ctx, __u32 group, __u32 slot)
{
    count_decision(group, DROVER_PINNED);
    return select_slot(ctx, group, slot) ? SK_DROP : SK_PASS;
}

/* The one place that selects a socket by policy and counts. Tries the policy's choice, then the
 * other active slots, then the keeper; refuses only when none of them is there. `reason` is what is
 * counted when the choice takes the connection. */
static __always_inline int deliver(struct sk_reuseport_md *ctx, struct bpf_sock *migrating,
                                   __u32 group, __u32 reason, const struct choice *choice)
{
    __u32 slot, place;

    if (choice->count) {
        slot = choice->slot;
        if (!select_slot(ctx, group, slot))
            goto selected;
        /* The choice closed a moment ago and the master has not heard of it yet. */
        if (reason == DROVER_PICKED)
            reason = DROVER_FALLBACK;
        /* From a random place on: the neighbour would get all of the closed one's share. */
        place = scale_to(bpf_get_prandom_u32(), choice->count);
        for (int try = 0; try < FALLBACK_TRIES; try++) {
            place = wrapped(place + 1, choice->count);
            slot = groups[group].sets[choice->half].slots[place & (DROVER_MAX_SLOTS - 1)];
            if (!select_slot(ctx, group, slot))
                goto selected;
        }
    }
    slot = DROVER_KEEPER_SLOT;
    if (!select_slot(ctx, group, slot)) {
        if (reason == DROVER_PICKED || reason == DROVER_FALLBACK)
            reason = DROVER_KEEPER;
        goto selected;
    }
    /* No worker and no keeper: the cluster is ending, or its keeper is between two listens. */
    count_decision(group, DROVER_DROPPED);
    return SK_DROP;

selected:
    count_decision(group, reason);
    if (reason != DROVER_STRAY && slot != DROVER_KEEPER_SLOT)
        tell_queued(slot);
    if (reason == DROVER_PICKED)
        tell_busy(slot);
    if (migrating)
        move_count(ctx->sk, migrating, slot);
    return SK_PASS;
}

SEC("sk_reuseport/migrate")
int steer(struct sk_reuseport_md *ctx)
{
    struct bpf_sock *migrating = ctx->migrating_sk;
    struct choice choice = {};
    __u32 group, reason, slot;

    /* Loaded once: clang would load it again after the null check, and the verifier does not
     * carry the check over ("R1 type=sock_or_null expected=sock"). */
    asm volatile("" : "+r"(migrating));
    if (find_group(ctx, migrating, &group))
        return SK_DROP; /* attached to a group that the cluster gave up: nobody listens there */
    if (!migrating && !find_pin(ctx, &slot))
        return deliver_pinned(ctx, group, slot);
    reason = reason_of(ctx, migrating);
    if (control.policy == DROVER_POLICY_CUSTOM)
        ask_custom(ctx, migrating, group, reason);
    choose(group, hash_of(ctx, migrating), reason, &choice);
    return deliver(ctx, migrating, group, reason, &choice);
}

/* The user's own policy has answered. */
SEC("sk_reuseport/migrate")
int deliver_chosen(struct sk_reuseport_md *ctx)
{
    struct bpf_sock *migrating = ctx->migrating_sk;
    __u32 zero = 0, reason, group, index;
    struct choice choice = {};
    struct drover_view *view;

    asm volatile("" : "+r"(migrating)); /* as above */
    view = bpf_map_lookup_elem(&drover_views, &zero);
    if (!view)
        return SK_DROP; /* cannot be: an array has its element 0 */
    group = view->group & (DROVER_MAX_GROUPS - 1);
    index = view->chosen;
    reason = reason_of(ctx, migrating);
    if (index < view->count) {
        choice.slot = view->candidates[index & (DROVER_MAX_SLOTS - 1)].slot;
        choice.count = view->count & (DROVER_MAX_SLOTS - 1);
        choice.half = view->half & 1;
    } else {
        /* None of the candidates: as if there were no such policy. */
        if (reason == DROVER_PICKED)
            reason = DROVER_FALLBACK;
        choose(group, ctx->hash, reason, &choice);
    }
    return deliver(ctx, migrating, group, reason, &choice);
}
