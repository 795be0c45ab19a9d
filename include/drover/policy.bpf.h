/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * For authors of policies: which worker gets the next connection is decided by a function of yours,
 * in the kernel. This is all there is to it:
 *
 *     #include <drover/policy.bpf.h>
 *
 *     DROVER_POLICY(const struct drover_view *view)
 *     {
 *         return drover_scale(view->random, view->count);
 *     }
 *
 *     clang -O2 -g -target bpf -mcpu=v3 -c my.bpf.c -o my.bpf.o
 *     sudo chown root my.bpf.o
 *     sudo drover run --policy my.bpf.o …
 *     sudo drover policy my.bpf.o             while it runs
 *
 * The object must be root's and writable by nobody else, as it becomes a part of the kernel.
 *
 * The function is called for each new connection, and for each waiting one that has to go
 * elsewhere, and returns the index of a candidate: 0 to view->count - 1. With any other number the
 * connection goes where least-busy would send it, and is counted as a `fallback`. It cannot lose
 * one, and it cannot send one to a worker that must get none.
 *
 * It runs under the kernel's verifier: every loop must end (drover_for_each does), and division by
 * 0 is 0. It may have maps of its own; these begin empty with each `drover policy`. Helpers that
 * the kernel gives to GPL-compatible programs alone, such as bpf_ktime_get_ns(), want this line:
 *
 *     char LICENSE[] SEC("license") = "Dual MIT/GPL";
 *
 * How it is called: drover's own program fills a struct drover_view, one per CPU, and tail-calls
 * the one that DROVER_POLICY makes; that one notes the answer and tail-calls drover back.
 */
#ifndef DROVER_POLICY_BPF_H
#define DROVER_POLICY_BPF_H

/* With -target bpf clang does not look into the folder in which Debian has <asm/types.h>: then the
 * same types without it. */
#if __has_include(<asm/types.h>)
#include <linux/types.h>
#elif !defined(_LINUX_TYPES_H)
#define _LINUX_TYPES_H
typedef signed char __s8;
typedef unsigned char __u8;
typedef short __s16;
typedef unsigned short __u16;
typedef int __s32;
typedef unsigned int __u32;
typedef long long __s64;
typedef unsigned long long __u64;
typedef __u16 __le16, __be16, __sum16;
typedef __u32 __le32, __be32, __wsum;
typedef __u64 __le64, __be64;
#define __aligned_u64 __u64 __attribute__((aligned(8)))
#endif

#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>

#include <drover/steer_abi.h>

/* A worker that may get the connection. What can be asked of it is below. */
struct drover_candidate {
    __u32 live;
    __u32 handshakes;
    __u32 queued;
    __u32 weight;
    __u32 instance;
    __u32 slot; /* drover's own */
};

struct drover_view {
    __u32 count;     /* candidates: at least 1 */
    __u32 hash;      /* of the connection's addresses and ports */
    __u32 random;    /* new for each connection */
    __u32 family;    /* of the client's address: DROVER_AF_INET or DROVER_AF_INET6 */
    __u32 client[4]; /* the address, in network order; an IPv4 one stands in client[0] */
    __u32 port;      /* of the cluster's that the client asked for, in host order */
    __u32 is_moved;  /* 1: it has waited already, with a worker that is gone or hangs,
                        or while none was ready */
    __u64 turn;      /* 0, 1, 2, … : one more for each connection to that address and port; with
                        SYN cookies a connection is asked for twice, and the second time stays */

    /* drover's own */
    __u32 group;
    __u32 half;
    __u32 chosen;
    __u32 at;
    struct drover_candidate candidates[DROVER_MAX_SLOTS];
};

/* Of the candidate with that index. Candidates stand in no order that stays; the instance, 0 to
 * N-1, is what a worker and its replacement have in common. */
#define DROVER_CANDIDATE(view, index) (&(view)->candidates[(index) & (DROVER_MAX_SLOTS - 1)])

/* Connections that it has: those that it serves and those that wait in its queue. */
static __always_inline __u32 drover_live(const struct drover_view* view, __u32 index) {
    return DROVER_CANDIDATE(view, index)->live;
}

/* Connections that are about to be its: they are not among the live ones yet. 0 where the kernel
 * does not let programs look (lockdown). */
static __always_inline __u32 drover_handshakes(const struct drover_view* view, __u32 index) {
    return DROVER_CANDIDATE(view, index)->handshakes;
}

/* Those of its live connections that it has not accepted yet. 0 as above. */
static __always_inline __u32 drover_queued(const struct drover_view* view, __u32 index) {
    return DROVER_CANDIDATE(view, index)->queued;
}

/* In hundredths (`drover weight`; slow start begins at a tenth of it): at least 1. */
static __always_inline __u32 drover_weight(const struct drover_view* view, __u32 index) {
    return DROVER_CANDIDATE(view, index)->weight;
}

static __always_inline __u32 drover_instance(const struct drover_view* view, __u32 index) {
    return DROVER_CANDIDATE(view, index)->instance;
}

/* Maps a 32-bit random value or hash evenly to 0 … count - 1. */
static __always_inline __u32 drover_scale(__u32 value, __u32 count) {
    return (__u32)(((__u64)value * count) >> 32);
}

/* The same number, of which the verifier knows nothing more. A loop could have kept any of the 512
 * numbers somewhere ("best = i"), and it would follow each of them through all further rounds. */
static __always_inline __u32 drover_forget(const struct drover_view* view, __u32 number) {
    volatile __u32* place = (volatile __u32*)&view->at;

    *place = number;
    return *place;
}

/* for (each candidate's index). The constant is for the verifier; `volatile`, or clang would make
 * one limit of the two, which the verifier does not see through. */
#define drover_for_each(index, view)                                                         \
    for (__u32 drover_i = 0, index;                                                          \
         drover_i < DROVER_MAX_SLOTS && drover_i < *(const volatile __u32*)&(view)->count && \
         (index = drover_forget(view, drover_i), 1);                                         \
         drover_i++)

/* The maps that a policy shares with drover, under the names by which the loader finds them. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct drover_view);
} drover_views __weak SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
    __uint(max_entries, DROVER_PROGRAM_COUNT);
    __type(key, __u32);
    __type(value, __u32);
} drover_programs __weak SEC(".maps");

/* The program's name carries the version of all this: drover_policy_1. */
#define DROVER_POLICY_NAME_(version) drover_policy_##version
#define DROVER_POLICY_NAME(version) DROVER_POLICY_NAME_(version)

/* It returns only where drover is not there any more: then there is nobody to take a connection. */
#define DROVER_POLICY(view)                                                       \
    static __always_inline __u32 drover_policy(view);                             \
    SEC("sk_reuseport/migrate")                                                   \
    int DROVER_POLICY_NAME(DROVER_POLICY_VERSION)(struct sk_reuseport_md * ctx) { \
        __u32 zero = 0;                                                           \
        struct drover_view* asked = bpf_map_lookup_elem(&drover_views, &zero);    \
                                                                                  \
        if (asked) asked->chosen = drover_policy(asked);                          \
        bpf_tail_call(ctx, &drover_programs, DROVER_PROGRAM_DELIVER);             \
        return SK_DROP;                                                           \
    }                                                                             \
    static __always_inline __u32 drover_policy(view)

DROVER_ASSERT_SIZE(struct drover_candidate, 24);
DROVER_ASSERT_SIZE(struct drover_view, 64 + 24 * DROVER_MAX_SLOTS);

#endif
