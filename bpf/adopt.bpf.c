// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * How an unmodified server's socket becomes a member of the cluster.
 *
 *     bind()   → share_port(): SO_REUSEPORT is set on the worker's own socket, and it is tagged
 *     listen() → adopt_listener(): the socket enters its worker's slot in its group
 *     close()  → forget_listener(): the master hears of it; the kernel has emptied the slot
 *
 * A socket is in its slot before listen() returns: no file descriptor is searched for, and there is
 * no race. Whether the slot gets traffic is the master's decision alone (the active set).
 *
 * Nothing here refuses a worker what it would be allowed without drover, but for one thing: it may
 * not attach or detach reuseport programs, which would undo the steering of all workers.
 */
#include "maps.bpf.h"

#include <bpf/bpf_endian.h>

#include "adopt.bpf.h"
#include "tags.bpf.h"

#define SOL_SOCKET 1
#define SOCK_STREAM 1
#define IPPROTO_TCP 6
#define SO_REUSEPORT 15
#define SO_ATTACH_REUSEPORT_CBPF 51
#define SO_ATTACH_REUSEPORT_EBPF 52
#define SO_DETACH_REUSEPORT_BPF 68

/* Verdicts of a bind hook. */
#define ALLOW 1
#define ALLOW_LOW_PORT 3 /* and do not ask for CAP_NET_BIND_SERVICE */

/* Verdicts of a setsockopt hook. */
#define REFUSE 0

static __always_inline struct drover_event *new_event(__u32 kind, const struct drover_tag *tag)
{
    struct drover_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

    if (!event) {
        __sync_fetch_and_add(&totals.events_lost_total, 1);
        return 0;
    }
    __builtin_memset(event, 0, sizeof(*event));
    event->kind = kind;
    event->slot = tag->slot;
    event->worker = tag->worker;
    return event;
}

/* The tag of the worker that is running now, or none where it is not one of ours. */
static __always_inline struct drover_tag *current_tag(void)
{
    __u64 cgroup = bpf_get_current_ancestor_cgroup_id(config.worker_level);
    struct drover_tag *tag = bpf_map_lookup_elem(&cgroup_tags, &cgroup);

    if (tag)
        return tag;
    /* In a cgroup namespace the master cannot know the true depth. */
    cgroup = bpf_get_current_cgroup_id();
    return bpf_map_lookup_elem(&cgroup_tags, &cgroup);
}

static __always_inline int share_port(struct bpf_sock_addr *ctx, const struct drover_group_key *at)
{
    __u32 port = at->port;
    struct drover_tag *tag;
    struct drover_event *event;
    __u32 *flags;
    int on = 1;

    if (ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP)
        return ALLOW;
    if (port == 0) /* the kernel will choose: every worker has a port of its own */
        return ALLOW;
    flags = bpf_map_lookup_elem(&ports, &port);
    if (config.named_ports_only && (!flags || !(*flags & DROVER_PORT_NAMED)))
        return ALLOW;
    tag = current_tag();
    if (!tag)
        return ALLOW;
    if (tag_socket(ctx->sk, tag))
        return ALLOW; /* out of memory: the worker binds as if it were alone */
    bpf_setsockopt(ctx, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
    if (!flags || !(*flags & DROVER_PORT_OWNED)) {
        event = new_event(DROVER_EVENT_BIND, tag);
        if (event) {
            event->key = *at;
            bpf_ringbuf_submit(event, 0);
        }
    }
    return flags && (*flags & DROVER_PORT_NAMED) ? ALLOW_LOW_PORT : ALLOW;
}

SEC("cgroup/bind4")
int bind4(struct bpf_sock_addr *ctx)
{
    struct drover_group_key at = {
        .addr = {ctx->user_ip4},
        .port = bpf_ntohs((__u16)ctx->user_port),
        .family = DROVER_AF_INET,
    };

    return share_port(ctx, &at);
}

SEC("cgroup/bind6")
int bind6(struct bpf_sock_addr *ctx)
{
    struct drover_group_key at = {
        .addr = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]},
        .port = bpf_ntohs((__u16)ctx->user_port),
        .family = DROVER_AF_INET6,
    };

    return share_port(ctx, &at);
}

SEC("cgroup/setsockopt")
int guard_setsockopt(struct bpf_sockopt *ctx)
{
    struct drover_event *event;
    struct drover_tag *tag;

    /* The kernel is to take the worker's own value, not a copy of ours that it would allocate. */
    ctx->optlen = 0;
    if (ctx->level != SOL_SOCKET)
        return ALLOW;
    switch (ctx->optname) {
    case SO_ATTACH_REUSEPORT_CBPF:
    case SO_ATTACH_REUSEPORT_EBPF:
    case SO_DETACH_REUSEPORT_BPF:
        break;
    default:
        return ALLOW;
    }
    tag = current_tag();
    if (!tag)
        return ALLOW;
    event = new_event(DROVER_EVENT_DENIED, tag);
    if (event) {
        event->option = ctx->optname;
        bpf_ringbuf_submit(event, 0);
    }
    return REFUSE; /* the worker sees EPERM */
}

static __always_inline void key_of(struct bpf_sock_ops *ctx, struct drover_group_key *key)
{
    __u32 ip4 = ctx->local_ip4;
    __u32 ip6 = ctx->local_ip6[0];

    /* Both loaded, then chosen: clang would choose the address to load from, and the verifier
     * rejects that ("dereference of modified ctx ptr"). */
    asm volatile("" : "+r"(ip4), "+r"(ip6));
    key->family = ctx->family;
    key->port = ctx->local_port;
    if (key->family == DROVER_AF_INET) {
        key->addr[0] = ip4;
    } else {
        key->addr[0] = ip6;
        key->addr[1] = ctx->local_ip6[1];
        key->addr[2] = ctx->local_ip6[2];
        key->addr[3] = ctx->local_ip6[3];
    }
}

/* So that steer finds it at once. */
static __always_inline void show_group(__u32 index, const struct drover_group_key *key)
{
    struct drover_group *group = &groups[index & (DROVER_MAX_GROUPS - 1)];

    group->key = *key;
    control.likely_groups[key->port & (DROVER_MAX_GROUPS - 1)] = index;
}

/* Finds the group of the key, or makes it. Returns its index, or -1 where there is no room. */
static __always_inline int group_of(const struct drover_group_key *key)
{
    __u32 *known, index;

    known = bpf_map_lookup_elem(&group_index, key);
    if (known)
        return *known & (DROVER_MAX_GROUPS - 1);
    if (bpf_map_pop_elem(&free_groups, &index))
        return -1;
    if (!bpf_map_update_elem(&group_index, key, &index, BPF_NOEXIST)) {
        show_group(index, key);
        return index & (DROVER_MAX_GROUPS - 1);
    }
    /* Another worker's listen() made it between the look-up and here. */
    bpf_map_push_elem(&free_groups, &index, BPF_ANY);
    known = bpf_map_lookup_elem(&group_index, key);
    return known ? *known & (DROVER_MAX_GROUPS - 1) : -1;
}

/* The place for the listener's address, for steer to look at its queue; 0 where there is none. */
static __always_inline __u64 *place_of(__u32 row, __u32 slot)
{
    struct drover_listener_row *listeners;

    if (!config.reads_kernel)
        return 0;
    listeners = bpf_map_lookup_elem(&listener_rows, &row);
    return listeners ? &listeners->socks[slot & (DROVER_MAX_SLOTS - 1)] : 0;
}

static __always_inline void show_listener(__u32 row, __u32 slot, struct bpf_sock *sk)
{
    __u64 *place = place_of(row, slot);

    if (place)
        *place = (__u64)bpf_skc_to_tcp_sock(sk);
}

/* Whether it is the one that was there before, and listens again after a shutdown(): it has kept its
 * place in the map. (Without a look into the kernel this is not known, and does not matter.) */
static __always_inline int is_back(__u32 row, __u32 slot, struct bpf_sock *sk)
{
    __u64 *place = place_of(row, slot);

    /* Reckoned from the number's side: the verifier forbids it from the pointer's. */
    return place && (*place & DROVER_LISTENER_CLOSED) &&
           *place - DROVER_LISTENER_CLOSED == (__u64)bpf_skc_to_tcp_sock(sk);
}

__noinline int adopt_listener(struct bpf_sock_ops *ctx)
{
    struct drover_group_key key = {};
    struct drover_event *event;
    struct drover_tag *tag;
    struct bpf_sock *sk = ctx->sk;
    __u32 result = DROVER_LISTEN_STEERED, index, row;
    __u64 cookie;
    long error = 0;
    int group;

    if (!sk)
        return 0;
    tag = tag_of_listener(sk);
    if (!tag)
        return 0; /* a port that is not shared */
    key_of(ctx, &key);
    cookie = bpf_get_socket_cookie(ctx);
    group = group_of(&key);
    if (group < 0) {
        result = DROVER_LISTEN_NO_GROUP;
    } else {
        index = DROVER_LISTENER_INDEX(group, tag->slot & (DROVER_MAX_SLOTS - 1));
        bpf_map_update_elem(&listener_tags, &cookie, tag, BPF_ANY);
        error = bpf_sock_map_update(ctx, &listeners, &index, BPF_NOEXIST);
        row = group;
        if (error && is_back(row, tag->slot, sk))
            error = 0;
        if (!error)
            show_listener(row, tag->slot, sk);
        else
            result = error == -17 /* EEXIST */ ? DROVER_LISTEN_EXTRA : DROVER_LISTEN_FAILED;
    }
    /* From here on the end of this listener, and of each connection it accepts, is called back. */
    bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
    event = new_event(DROVER_EVENT_LISTEN, tag);
    if (event) {
        event->cookie = cookie;
        event->key = key;
        event->group = group;
        event->result = result;
        event->error = error;
        bpf_ringbuf_submit(event, 0);
    }
    return 0;
}

/* The listener's queue is gone: nobody may look at it any more. */
static __always_inline void hide_listener(const struct drover_group_key *key, __u32 slot,
                                          struct bpf_sock *sk)
{
    __u32 *row = bpf_map_lookup_elem(&group_index, key);
    __u64 *place = row ? place_of(*row, slot) : 0;

    /* Not of another one: of several listeners of a worker just one is steered. */
    if (place && *place == (__u64)bpf_skc_to_tcp_sock(sk))
        *place |= DROVER_LISTENER_CLOSED;
}

__noinline int forget_listener(struct bpf_sock_ops *ctx)
{
    struct drover_group_key key = {};
    struct drover_event *event;
    struct drover_tag *tag;
    struct bpf_sock *sk = ctx->sk;

    if (!sk)
        return 0;
    tag = tag_of_listener(sk);
    if (!tag)
        return 0;
    key_of(ctx, &key);
    hide_listener(&key, tag->slot, sk);
    event = new_event(DROVER_EVENT_CLOSE, tag);
    if (event) {
        event->cookie = bpf_get_socket_cookie(ctx);
        event->key = key;
        bpf_ringbuf_submit(event, 0);
    }
    return 0;
}

/* A handshake that began with the keeper may be done when there is a worker again, and the keeper's
 * queue has been moved already: the connection would wait there for ever. */
__noinline int tell_parked(struct bpf_sock_ops *ctx)
{
    struct drover_tag tag = {.slot = DROVER_KEEPER_SLOT};
    struct drover_event *event = new_event(DROVER_EVENT_PARKED, &tag);

    if (!event)
        return 0;
    event->key.port = ctx->local_port;
    bpf_ringbuf_submit(event, 0);
    return 0;
}
