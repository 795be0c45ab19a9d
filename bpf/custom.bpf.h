/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * custom: a policy of the user's own, behind a tail call.
 *
 *     steer: ask_custom() → drover_views → the user's program → deliver_chosen in steer.bpf.c
 *
 * What it may know is copied for it (include/drover/policy.bpf.h says what), so it sees none of the
 * layouts of drover's own maps, and a candidate that it chooses is one of the set that it was shown,
 * whatever the master writes meanwhile.
 *
 * One view per CPU is enough: the kernel runs steering programs with bottom halves off, so one run
 * ends before the next begins on the same CPU.
 */
#ifndef DROVER_CUSTOM_BPF_H
#define DROVER_CUSTOM_BPF_H

#include "client.bpf.h"
#include "listener.bpf.h"
#include "maps.bpf.h"

/* An answer that is none: stands there until the user's program gives its own. */
#define CUSTOM_NO_ANSWER DROVER_MAX_SLOTS

struct showing {
    const struct drover_active_set *set;
    const struct drover_listener_row *listeners;
    struct drover_view *view;
};

static long show_candidate(__u32 index, struct showing *showing)
{
    __u32 place = index & (DROVER_MAX_SLOTS - 1);
    __u32 slot = *(volatile __u16 *)&showing->set->slots[place] & (DROVER_MAX_SLOTS - 1);
    struct drover_candidate *candidate = &showing->view->candidates[place];
    __s64 live = *(volatile __s64 *)&slots[slot].live;

    candidate->slot = slot;
    candidate->live = live > 0 ? live : 0;
    candidate->weight = slots[slot].weight;
    candidate->instance = instances[slot];
    candidate->handshakes = 0;
    candidate->queued = 0;
    if (config.reads_kernel) {
        candidate->handshakes = listener_young(showing->listeners->socks[slot]);
        candidate->queued = listener_queued(showing->listeners->socks[slot]);
    }
    return 0;
}

/* Shows the candidates of the set that is in force. Returns how many there are; 0 also where the
 * master has changed the set twice meanwhile, which is too rare to try again. */
static __always_inline __u32 show_candidates(__u32 index, struct drover_view *view)
{
    struct drover_group *group = &groups[index & (DROVER_MAX_GROUPS - 1)];
    __u32 version = *(volatile __u32 *)&group->current;
    __u32 half = version & 1;
    struct showing showing = {
        .set = &group->sets[half],
        .listeners = bpf_map_lookup_elem(&listener_rows, &index),
        .view = view,
    };
    __u32 count = *(volatile __u32 *)&group->sets[half].count & (DROVER_MAX_SLOTS - 1);

    if (!showing.listeners)
        return 0;
    bpf_loop(count, show_candidate, &showing, 0);
    if (*(volatile __u32 *)&group->sets[half].version != version)
        return 0;
    view->half = half;
    view->count = count;
    return count;
}

static __always_inline void show_client(struct sk_reuseport_md *ctx, struct bpf_sock *migrating,
                                        struct drover_view *view)
{
    struct client client = {};

    read_client(ctx, migrating, &client);
    view->family = client.is_v6 ? DROVER_AF_INET6 : DROVER_AF_INET;
    for (int i = 0; i < 4; i++)
        view->client[i] = client.addr[i];
}

/* Hands over to the user's program. Comes back where there is none, or nobody to choose among. */
static __always_inline void ask_custom(struct sk_reuseport_md *ctx, struct bpf_sock *migrating,
                                       __u32 group, __u32 reason)
{
    __u32 zero = 0;
    struct drover_view *view = bpf_map_lookup_elem(&drover_views, &zero);

    if (!view || !show_candidates(group, view))
        return;
    view->group = group;
    view->chosen = CUSTOM_NO_ANSWER;
    view->hash = ctx->hash;
    view->random = bpf_get_prandom_u32();
    view->port = ctx->sk->src_port;
    view->is_moved = migrating != 0;
    /* A packet that is no SYN takes no turn: it may be a stray one. */
    view->turn = reason == DROVER_STRAY
                     ? groups[group & (DROVER_MAX_GROUPS - 1)].turn
                     : __sync_fetch_and_add(&groups[group & (DROVER_MAX_GROUPS - 1)].turn, 1);
    show_client(ctx, migrating, view);
    bpf_tail_call(ctx, &drover_programs, DROVER_PROGRAM_POLICY);
}

#endif
