// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Two programs that differ in the type of the map they select from, and in nothing else. Both give
 * the connections to the members in turn. See select_map.cc.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#define MEMBERS 8

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* The same sizes in both: what drover's `listeners` map has. */
struct {
    __uint(type, BPF_MAP_TYPE_SOCKMAP);
    __uint(max_entries, 32 * 512);
    __type(key, __u32);
    __type(value, __u64);
} sockmap SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
    __uint(max_entries, 32 * 512);
    __type(key, __u32);
    __type(value, __u64);
} sockarray SEC(".maps");

__u32 turn;

/* SK_DROP where the selection fails: the bench then sees a refused connection and stops, instead of
 * measuring the kernel's own hash unawares. */
#define SELECT_IN_TURN(ctx, map)                                          \
    ({                                                                    \
        __u32 index = __sync_fetch_and_add(&turn, 1) & (MEMBERS - 1);     \
        bpf_sk_select_reuseport(ctx, map, &index, 0) ? SK_DROP : SK_PASS; \
    })

SEC("sk_reuseport/migrate")
int from_sockmap(struct sk_reuseport_md* ctx) {
    return SELECT_IN_TURN(ctx, &sockmap);
}

SEC("sk_reuseport/migrate")
int from_sockarray(struct sk_reuseport_md* ctx) {
    return SELECT_IN_TURN(ctx, &sockarray);
}
