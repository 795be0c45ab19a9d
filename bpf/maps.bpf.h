/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * Every map and every variable that the programs share: who writes it, who reads it.
 *
 * Maps are weak, so that each program's file can include this one and the linker makes them one;
 * variables are defined in maps.bpf.c. A variable in a .data section of its own is a map too: the
 * master has `groups` and `slots` in its memory and reads and writes them without a system call.
 */
#ifndef DROVER_MAPS_BPF_H
#define DROVER_MAPS_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include <drover/policy.bpf.h> /* with the maps drover_views and drover_programs */
#include <drover/steer_abi.h>

/* Configuration: set between open and load, read-only from then on. One variable: bpftool 7.1 does
 * not lay out several extern ones of a section ("Something is wrong for .rodata's variable"). */
extern const volatile struct drover_config config SEC(".rodata");

/* Run-time state. */

/* Written by the master, read by steer, which sets `watched` and `hurried`; `likely_groups` also by
 * adopt. */
extern struct drover_control control SEC(".data.control");
/* Per group: active sets by the master, read by steer; the turn counter by steer; the key by who makes
 * the group. */
extern struct drover_group groups[DROVER_MAX_GROUPS] SEC(".data.groups");
/* Per slot: the owner by the master; the counts by account and steer. */
extern struct drover_slot slots[DROVER_MAX_SLOTS] SEC(".data.slots");
/* Per slot: the owner's instance. Written by the master; read by steer, for policies of users. */
extern __u16 instances[DROVER_MAX_SLOTS] SEC(".data.instances");
/* Per slot: what was seen of its worker; steer's own. */
extern struct drover_look looks[DROVER_MAX_SLOTS] SEC(".data.looks");
/* Events that found the ring full (added by adopt, read by the master, which then rescans), and
 * connections ever entered into `moved` (added by steer, read by account: while none was, the end
 * of a connection needs no look-up there). */
extern struct drover_totals totals SEC(".data.totals");

/* group key → group index. Entered by adopt (or the master, for --port ADDR:PORT), removed by the
 * master when the last listener is gone; read by steer where the likely group is not the one. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, DROVER_MAX_GROUPS);
    __type(key, struct drover_group_key);
    __type(value, __u32);
} group_index __weak SEC(".maps");

/* Group indices that no key uses: filled by the master, taken by adopt. */
struct {
    __uint(type, BPF_MAP_TYPE_QUEUE);
    __uint(max_entries, DROVER_MAX_GROUPS);
    __type(value, __u32);
} free_groups __weak SEC(".maps");

/* DROVER_LISTENER_INDEX(group, slot) → listening socket. Entered by adopt in the listen callback,
 * emptied by the kernel when the socket closes; steer selects from it. Value size 8: user space
 * reads the socket's cookie. */
struct {
    __uint(type, BPF_MAP_TYPE_SOCKMAP);
    __uint(max_entries, DROVER_MAX_GROUPS* DROVER_MAX_SLOTS);
    __type(key, __u32);
    __type(value, __u64);
} listeners __weak SEC(".maps");

/* Worker's cgroup id → its tag. Written by the master before the worker starts; read by adopt and
 * account. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, DROVER_MAX_SLOTS);
    __type(key, __u64);
    __type(value, struct drover_tag);
} cgroup_tags __weak SEC(".maps");

/* port (host order) → DROVER_PORT_* flags. Written by the master, read by adopt. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, DROVER_MAX_PORTS);
    __type(key, __u32);
    __type(value, __u32);
} ports __weak SEC(".maps");

/* Cookie of a listener → its tag, for steer, which cannot reach socket storage. Entered by adopt,
 * removed by the master. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, DROVER_MAX_GROUPS* DROVER_MAX_SLOTS);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u64);
    __type(value, struct drover_tag);
} listener_tags __weak SEC(".maps");

/* The tag of each socket that a worker has bound to a shared port, where its connections are known as
 * the worker's by their cgroup. Written and read by adopt. */
struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct drover_tag);
} listener_marks __weak SEC(".maps");

/* The same where they are not; and, by BPF_F_CLONE, of each of their connections. Written by adopt,
 * read by adopt and account. */
struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
    __type(key, int);
    __type(value, struct drover_tag);
} tags __weak SEC(".maps");

/* Cookie of a connection that was moved while it waited → the tag it counts for now; by its cgroup, or
 * its own tag, it is still its first listener's. Entered by steer, removed by account at its end. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 65536);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u64);
    __type(value, struct drover_tag);
} moved __weak SEC(".maps");

/* Both ends of a connection → the slot that must get it: probes of one worker through the shared
 * port. Entered by the master before it connects and removed when it is done; read by steer. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, DROVER_MAX_PINS);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct drover_pin_key);
    __type(value, __u32);
} pins __weak SEC(".maps");

/* group → its listeners as the kernel knows them. Written by adopt, read by steer. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, DROVER_MAX_GROUPS);
    __type(key, __u32);
    __type(value, struct drover_listener_row);
} listener_rows __weak SEC(".maps");

/* group * 2 + half → table. Written by the master while the policy is `source`, read by steer. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, DROVER_MAX_GROUPS * 2);
    __type(key, __u32);
    __type(value, struct drover_source_table);
} source_tables __weak SEC(".maps");

/* Index group * DROVER_REASON_COUNT + reason → count. Added to by steer, read by the master. Per
 * CPU, so that counting does not bounce a cache line between CPUs. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, DROVER_MAX_GROUPS* DROVER_REASON_COUNT);
    __type(key, __u32);
    __type(value, __u64);
} decisions __weak SEC(".maps");

/* What the master should know: struct drover_event. */
struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 256 * 1024);
} events __weak SEC(".maps");

#endif
