/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * Whose is this socket?
 *
 * A connection is in the cgroup in which its listener was made, nearly always its worker's: so it needs
 * no tag of its own, which would cost more than all else that is done for it (to allocate and free it,
 * once for each). Only where the cgroup does not tell, a listener has its tag in `tags`, which each of
 * its connections gets a copy of.
 */
#ifndef DROVER_TAGS_BPF_H
#define DROVER_TAGS_BPF_H

#include "kernel_types.bpf.h"
#include "maps.bpf.h"

/* The tag of the worker in whose cgroup the socket was made, or none. */
static __always_inline struct drover_tag *tag_of_cgroup(struct bpf_sock *sk)
{
    struct tcp_sock *tcp;
    __u64 cgroup;

    if (!config.reads_kernel)
        return 0;
    tcp = bpf_skc_to_tcp_sock(sk);
    if (!tcp)
        return 0;
    cgroup = ((struct sock *)tcp)->sk_cgrp_data.cgroup->kn->id;
    return bpf_map_lookup_elem(&cgroup_tags, &cgroup);
}

/* Tags a socket that is going to listen. Returns 0, or -1 where there is no memory for it. */
static __always_inline int tag_socket(struct bpf_sock *sk, struct drover_tag *tag)
{
    struct drover_tag *told = tag_of_cgroup(sk);

    if (told && told->worker == tag->worker)
        tag = bpf_sk_storage_get(&listener_marks, sk, tag, BPF_SK_STORAGE_GET_F_CREATE);
    else
        tag = bpf_sk_storage_get(&tags, sk, tag, BPF_SK_STORAGE_GET_F_CREATE);
    return tag ? 0 : -1;
}

/* None where its port is not shared. */
static __always_inline struct drover_tag *tag_of_listener(struct bpf_sock *sk)
{
    struct drover_tag *tag = bpf_sk_storage_get(&listener_marks, sk, 0, 0);

    return tag ? tag : bpf_sk_storage_get(&tags, sk, 0, 0);
}

/* Of one whose listener has a tag. */
static __always_inline struct drover_tag *tag_of_connection(struct bpf_sock *sk)
{
    struct drover_tag *tag = bpf_sk_storage_get(&tags, sk, 0, 0);

    return tag ? tag : tag_of_cgroup(sk);
}

#endif
