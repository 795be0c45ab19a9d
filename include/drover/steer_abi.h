/* SPDX-License-Identifier: MIT
 *
 * The contract between the BPF programs and the master: the one header that both compilers read.
 *
 * Everything here lives in maps that outlive the master, so a change of any layout is a change of
 * DROVER_ABI_VERSION. Structs have no implicit padding; their sizes are asserted below.
 */
#ifndef DROVER_STEER_ABI_H
#define DROVER_STEER_ABI_H

#include <linux/types.h>

#define DROVER_ABI_VERSION 2u

/* The version of what policy.bpf.h shares with the programs of its authors: a change of any of that
 * is a change of the number. No suffix: it becomes part of a name. */
#define DROVER_POLICY_VERSION 1

/* Slots: the index of a worker in the steering maps. More slots than workers, because during an
 * overlap two slots serve one instance. The last one is the keeper's. Powers of two: the programs
 * bound their indices by masks. */
#define DROVER_MAX_SLOTS 512u
#define DROVER_KEEPER_SLOT (DROVER_MAX_SLOTS - 1u)
#define DROVER_MAX_WORKERS 256u

/* Groups: one per (address, port, family) that the workers listen on. */
#define DROVER_MAX_GROUPS 32u
#define DROVER_MAX_PORTS 64u

/* Connections that are pinned to a worker at one time: a probe of each worker. */
#define DROVER_MAX_PINS 512u

/* Index of a listener in the `listeners` map. */
#define DROVER_LISTENER_INDEX(group, slot) ((group) * DROVER_MAX_SLOTS + (slot))

/* Turns of a schedule, see drover_active_set. */
#define DROVER_MAX_TURNS 1024u

/* A worker's weight is a number of hundredths. */
#define DROVER_WEIGHT_ONE 100u
#define DROVER_MAX_WEIGHT (100u * DROVER_WEIGHT_ONE)

#define DROVER_NOT_SERIAL 0xffu

/* Entries of a table of the policy `source` that are used: a prime, as the way it is filled wants
 * it; why this one is said in userspace/steer/maglev.h. Two tables a group, as with active sets. */
#define DROVER_SOURCE_TABLE_SIZE 16381u
#define DROVER_SOURCE_TABLE_ROOM 16384u

/* Families, as the kernel numbers them; spelled out because BPF code includes no libc header. */
#define DROVER_AF_INET 2u
#define DROVER_AF_INET6 10u

enum drover_policy {
    DROVER_POLICY_HASH = 0,
    DROVER_POLICY_ROUND_ROBIN = 1,
    DROVER_POLICY_LEAST_CONN = 2,
    DROVER_POLICY_LEAST_BUSY = 3,
    DROVER_POLICY_SOURCE = 4,
    DROVER_POLICY_CUSTOM = 5, /* the user's own program; where there is none, as least-busy */
    DROVER_POLICY_COUNT
};

/* The programs in `drover_programs`, which call one another. */
enum drover_program {
    DROVER_PROGRAM_POLICY = 0,  /* the user's own policy; empty where there is none */
    DROVER_PROGRAM_DELIVER = 1, /* goes on with its answer: deliver_chosen() in steer.bpf.c */
    DROVER_PROGRAM_COUNT
};

/* What became of one run of the steering program. Index of the per-CPU `decisions` map is
 * group * DROVER_REASON_COUNT + reason. */
enum drover_reason {
    DROVER_PICKED = 0,   /* the policy's choice took the connection */
    DROVER_FALLBACK = 1, /* the choice had just closed, or was none: another active slot took it */
    DROVER_KEEPER = 2,   /* no active slot could: it waits with the keeper */
    DROVER_DROPPED = 3,  /* nobody could take it: refused */
    DROVER_MOVED = 4,    /* a waiting connection went over to another listener */
    DROVER_STRAY = 5,    /* not a SYN: the last ACK of a SYN cookie, or a packet that came late;
                            chosen as by the policy, but it takes no turn */
    DROVER_PINNED = 6,   /* a probe went to the worker that it was meant for, or nowhere */
    DROVER_REASON_COUNT
};

/* Which group a listener belongs to. IPv4 addresses stand in addr[0], the rest is 0. Addresses in
 * network order, the port in host order. */
struct drover_group_key {
    __u32 addr[4];
    __u16 port;
    __u16 family;
};

/* The slots of a group that may get new connections now: dense, in no order. And the same slots by
 * weight, each as often as its weight says, well mixed: the schedule of the policies that go by
 * turn or by chance. With equal weights that is the slots once.
 *
 * Two sets a group; `current` in drover_group holds the version that counts, and version v lives in
 * sets[v & 1]. The master zeroes the version of the set that it is about to write, fills it, sets
 * its version, then `current`. The program compares the version again after it has read: if the
 * set was rewritten meanwhile it reads anew. So no decision sees half an update, and an update
 * costs no system call. */
struct drover_active_set {
    __u32 version; /* 0: being written */
    __u32 count;   /* at most DROVER_MAX_SLOTS - 1 */
    __u32 turns;   /* of the schedule: at least count, at most DROVER_MAX_TURNS - 1 */
    __u32 reserved;
    __u16 slots[DROVER_MAX_SLOTS];
    __u16 schedule[DROVER_MAX_TURNS];
};

/* Bucket of a client address → slot. Table v & 1 of a group belongs to the active set of version
 * v. */
struct drover_source_table {
    __u16 slots[DROVER_SOURCE_TABLE_ROOM];
};

/* A group's listeners by slot, as addresses in the kernel: read-only, to look at their queues. 0:
 * none, or this kernel does not let programs look. The lowest bit, which no address has, marks one
 * that has closed. */
#define DROVER_LISTENER_CLOSED 1u

struct drover_listener_row {
    __u64 socks[DROVER_MAX_SLOTS];
};

struct drover_group {
    __u32 current; /* version of the set that counts; written by the master alone */
    struct drover_group_key key; /* whose group it is; family 0: nobody's, or it is not said here */
    __u32 reserved[10];
    __u64 turn; /* round-robin's counter, on a cache line of its own */
    __u64 reserved2[7];
    struct drover_active_set sets[2];
};

/* One worker's counts, a cache line each. The programs add; the master reads, resets on reuse and
 * corrects in reconciliation. */
struct drover_slot {
    __s64 live;              /* connections established and not yet closing, the queue included */
    __u64 established_total; /* handshakes completed for this worker */
    __u64 moved_in_total;    /* waiting connections that came from another listener */
    __u64 moved_out_total;   /* waiting connections that went to another listener */
    __u64 closed_total;      /* connections that stopped counting as live */
    __u32 worker;            /* id of the owner; 0: free */
    __u16 weight;            /* in hundredths, at least 1 */
    __u8 serial;             /* how often it was seen with a queue and no more than one connection
                                out of it; DROVER_NOT_SERIAL: it was seen with more */
    __u8 doubts;             /* how often with more since then */
    __u64 progress_at;       /* when it last finished a connection, or got its only one: ns of the
                                monotonic clock */
    __u32 queued;            /* connections that wait in its listeners, when measure last ran */
    __u32 pace;              /* usual time between two of its progresses, in units of 1,024 ns */
};

/* Whether a worker is busy, as least-busy has seen it. */
struct drover_look {
    __u64 busy_since; /* since when it was seen so, without a sleep in between; ns, 0: it waited */
    __u64 thread;     /* that was seen to wait for connections last, or 0: its address */
    __u64 sleeps;     /* how often that had slept in its life, when it was seen busy */
    __u64 reserved;
};

/* Whose a listener or a connection is (tags.bpf.h). The worker id tells a late close of the slot's former
 * owner from one of the present owner. */
struct drover_tag {
    __u32 slot;
    __u32 worker;
};

struct drover_config {
    __u32 worker_level;     /* depth of the workers' cgroups below the root of the hierarchy */
    __u32 reads_kernel;     /* 1: programs may look at listeners' queues (CAP_PERFMON, no lockdown) */
    __u32 named_ports_only; /* 1: only ports with DROVER_PORT_NAMED are shared (--port was given) */
};

/* What the master sets while the programs run. */
struct drover_control {
    __u32 policy; /* enum drover_policy */
    __u32 pins;   /* entries in `pins`; while it is 0 no connection is looked up there */
    __u32 prefix_v4; /* policy source: bits of a client's address that count */
    __u32 prefix_v6;
    __u32 watched; /* 1: the master watches the queues; set by steer with DROVER_EVENT_QUEUED,
                      cleared by the master when there is nothing to be seen any more */
    __u32 hurried; /* the same for DROVER_EVENT_BUSY */
    __u8 likely_groups[DROVER_MAX_GROUPS]; /* by port modulo DROVER_MAX_GROUPS: the group to look at
                                              first, by its key; written by who makes a group */
    __u32 reserved[2];
};

/* Both ends of a connection as its packets name them: addresses in network order, an IPv4 one in
 * word 0 and the rest 0; ports in host order; the family is the packets' own, also where an IPv6
 * socket listens for both. */
struct drover_pin_key {
    __u32 client[4];
    __u32 server[4];
    __u16 client_port;
    __u16 server_port;
    __u32 family;
};

/* What the master gives measure to work on. */
struct drover_measure {
    __u32 groups; /* bit g: look at group g */
    __u32 slots;  /* look at the slots below this */
};

struct drover_totals {
    __u64 events_lost_total; /* events that found the ring full */
    __u64 moves_total;       /* waiting connections that were moved */
};

/* Flags of a port in the `ports` map. */
#define DROVER_PORT_NAMED 1u /* named by --port: may be bound below 1024 by an unprivileged worker */
#define DROVER_PORT_OWNED 2u /* the master holds its lock: binds need no further check */

enum drover_event_kind {
    DROVER_EVENT_BIND = 1,   /* a worker is binding a port that the cluster does not own yet */
    DROVER_EVENT_LISTEN = 2, /* a worker's socket began to listen */
    DROVER_EVENT_CLOSE = 3,  /* a worker's listener closed */
    DROVER_EVENT_DENIED = 4, /* a worker tried to attach or detach a reuseport program */
    DROVER_EVENT_PARKED = 5, /* a connection waits with a keeper of that port */
    DROVER_EVENT_BUSY = 7,   /* least-busy had to choose a worker that has connections already */
    DROVER_EVENT_QUEUED = 6, /* connections come again: somebody may have to wait */
};

/* What became of a listener in DROVER_EVENT_LISTEN. */
enum drover_listen_result {
    DROVER_LISTEN_STEERED = 0,  /* it is in its slot */
    DROVER_LISTEN_EXTRA = 1,    /* the worker has another listener in this group already */
    DROVER_LISTEN_NO_GROUP = 2, /* more groups than DROVER_MAX_GROUPS */
    DROVER_LISTEN_FAILED = 3,   /* the map refused it; `error` says why */
};

struct drover_event {
    __u64 cookie; /* of the socket */
    struct drover_group_key key;
    __u32 kind;
    __u32 slot;
    __u32 worker;
    __u32 group;
    __u32 result;
    __s32 error; /* negative errno */
    __u32 option; /* DROVER_EVENT_DENIED: the socket option's number */
    __u32 reserved[2];
};

/* What bpf/usage.bpf.c says, one after the other; nothing of it is kept in a map. */
#define DROVER_USAGE_UNKNOWN (~0ull)

struct drover_cgroup_usage { /* of a child of the cluster's cgroup */
    __u64 cgroup; /* its id */
    __u64 cpu_ns;
    __u64 pages; /* or DROVER_USAGE_UNKNOWN, where the kernel does not count a cgroup's memory */
};

struct drover_process_usage { /* of a process in such a child */
    __u64 cgroup;
    __u64 pages; /* that are in memory */
};

#ifdef __cplusplus
#define DROVER_ASSERT_SIZE(type, size) static_assert(sizeof(type) == (size), #type " changed size")
#else
#define DROVER_ASSERT_SIZE(type, size) \
    _Static_assert(sizeof(type) == (size), #type " changed size")
#endif

DROVER_ASSERT_SIZE(struct drover_group_key, 20);
DROVER_ASSERT_SIZE(struct drover_active_set, 16 + 2 * (DROVER_MAX_SLOTS + DROVER_MAX_TURNS));
DROVER_ASSERT_SIZE(struct drover_group,
                   128 + 2 * (16 + 2 * (DROVER_MAX_SLOTS + DROVER_MAX_TURNS)));
DROVER_ASSERT_SIZE(struct drover_slot, 64);
DROVER_ASSERT_SIZE(struct drover_tag, 8);
DROVER_ASSERT_SIZE(struct drover_control, 64);
DROVER_ASSERT_SIZE(struct drover_pin_key, 40);
DROVER_ASSERT_SIZE(struct drover_look, 32);
DROVER_ASSERT_SIZE(struct drover_measure, 8);
DROVER_ASSERT_SIZE(struct drover_totals, 16);
DROVER_ASSERT_SIZE(struct drover_event, 64);
DROVER_ASSERT_SIZE(struct drover_cgroup_usage, 24);
DROVER_ASSERT_SIZE(struct drover_process_usage, 16);

#endif
