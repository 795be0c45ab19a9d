/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * The few fields of the kernel's own types that usage.bpf.c reads, as in kernel_types.bpf.h.
 */
#ifndef DROVER_USAGE_TYPES_BPF_H
#define DROVER_USAGE_TYPES_BPF_H

#include <linux/types.h>

#define RELOCATED __attribute__((preserve_access_index))

struct kernfs_node {
    __u64 id;
} RELOCATED;

struct cgroup;

struct cgroup_subsys_state {
    struct cgroup *cgroup;
    struct cgroup_subsys_state *parent;
    void *rstat_cpu; /* from 6.16 on */
} RELOCATED;

struct task_cputime {
    unsigned long long sum_exec_runtime; /* ns */
} RELOCATED;

struct cgroup_base_stat {
    struct task_cputime cputime;
} RELOCATED;

enum cgroup_subsys_id {
    memory_cgrp_id = 1, /* the running kernel's number is another */
};

struct cgroup {
    struct cgroup_subsys_state self;
    struct kernfs_node *kn;
    struct cgroup_subsys_state *subsys[1];
    struct cgroup_base_stat bstat;
} RELOCATED;

typedef struct {
    long counter;
} RELOCATED atomic_long_t;

struct page_counter {
    atomic_long_t usage; /* pages */
} RELOCATED;

struct mem_cgroup {
    struct cgroup_subsys_state css;
    struct page_counter memory;
} RELOCATED;

/* What of a process is in memory is counted by kind; MM_SWAPENTS, number 2, is not in memory. */
enum {
    MM_FILEPAGES = 0,
    MM_ANONPAGES = 1,
    MM_SHMEMPAGES = 3,
    NR_MM_COUNTERS = 4,
};

struct percpu_counter {
    __s64 count;
    __s32 *counters;
} RELOCATED;

struct mm_struct {
    struct percpu_counter rss_stat[NR_MM_COUNTERS];
} RELOCATED;

struct mm_rss_stat {
    atomic_long_t count[NR_MM_COUNTERS];
} RELOCATED;

struct mm_struct___v6_1 {
    struct mm_rss_stat rss_stat;
} RELOCATED;

struct bpf_array {
    void *pptrs[1]; /* of a per-CPU array */
} RELOCATED;

struct css_set {
    struct cgroup *dfl_cgrp;
} RELOCATED;

struct task_struct {
    int pid;
    int tgid;
    struct mm_struct *mm;
    struct css_set *cgroups;
} RELOCATED;

struct seq_file;

struct bpf_iter_meta {
    struct seq_file *seq;
    __u64 seq_num;
} RELOCATED;

struct bpf_iter__cgroup {
    struct bpf_iter_meta *meta;
    struct cgroup *cgroup;
} RELOCATED;

struct bpf_iter__task {
    struct bpf_iter_meta *meta;
    struct task_struct *task;
} RELOCATED;

#endif
