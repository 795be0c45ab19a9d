// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * What the workers use, CPU and memory, of all of them at once: the master reads from these
 * iterators as from a file. It is an object of its own, because drover runs where it does not load,
 * too; userspace/steer/usage.h says what then.
 *
 *   cgroups    each worker's CPU time, as in its cpu.stat; and where the memory controller is on for
 *              it, its memory, as in memory.current
 *   processes  else: what of each process is in memory, as in /proc/PID/statm
 */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include <drover/steer_abi.h>

#include "usage_types.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define MOST_CPUS 8192
#define MOST_LEVELS 16

/* The id of the cluster's cgroup, whose children are the workers' cgroups. */
const volatile __u64 cluster SEC(".rodata") = 0;

/* Up to 6.15 / from 6.16 on. The call of the other one is dead code, which the verifier leaves out. */
extern void cgroup_rstat_flush(struct cgroup *cgrp) __ksym __weak;
extern void css_rstat_flush(struct cgroup_subsys_state *css) __ksym __weak;

/* All that counts is where it is, see offset_of_cpu(). */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} landmark SEC(".maps");

static __always_inline int is_workers(const struct cgroup *cgrp)
{
    return BPF_CORE_READ(cgrp, self.parent, cgroup, kn, id) == cluster;
}

/* A worker may make cgroups below its own. None: it is no worker's. */
static __always_inline const struct cgroup *worker_above(const struct cgroup *cgrp)
{
    for (int level = 0; level < MOST_LEVELS && cgrp; level++) {
        if (is_workers(cgrp))
            return cgrp;
        cgrp = BPF_CORE_READ(cgrp, self.parent, cgroup);
    }
    return 0;
}

/* What each CPU has counted since the last time is added up. */
static __always_inline void flush(struct cgroup *cgrp)
{
    if (bpf_core_field_exists(cgrp->self.rstat_cpu))
        css_rstat_flush(&cgrp->self);
    else
        cgroup_rstat_flush(cgrp);
}

static __always_inline __u64 pages_of_cgroup(const struct cgroup *cgrp)
{
    const struct cgroup_subsys_state *css = 0;
    const struct mem_cgroup *memcg;
    __u64 place;

    if (!bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
        return DROVER_USAGE_UNKNOWN;
    place = bpf_core_field_offset(struct cgroup, subsys) +
            bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id) * sizeof(css);
    bpf_probe_read_kernel(&css, sizeof(css), (const void *)cgrp + place);
    if (!css) /* the controller is off, or v1 has it */
        return DROVER_USAGE_UNKNOWN;
    memcg = (const void *)css - bpf_core_field_offset(struct mem_cgroup, css);
    return BPF_CORE_READ(memcg, memory.usage.counter);
}

SEC("iter.s/cgroup")
int cgroups(struct bpf_iter__cgroup *ctx)
{
    struct cgroup *cgrp = ctx->cgroup;
    struct drover_cgroup_usage usage = {};

    if (!cgrp) /* that was all */
        return 0;
    if (ctx->meta->seq_num == 0) /* the cluster's own: with all that is below it */
        flush(cgrp);
    if (!is_workers(cgrp))
        return 0;
    usage.cgroup = BPF_CORE_READ(cgrp, kn, id);
    usage.cpu_ns = BPF_CORE_READ(cgrp, bstat.cputime.sum_exec_runtime);
    usage.pages = pages_of_cgroup(cgrp);
    bpf_seq_write(ctx->meta->seq, &usage, sizeof(usage));
    return 0;
}

/* The verifier refuses to calculate with most pointers ("pointer arithmetic prohibited"). */
static __always_inline __u64 as_number(const void *pointer)
{
    __u64 number = 0;

    bpf_probe_read_kernel(&number, sizeof(number), &pointer);
    return number;
}

/* A per-CPU pointer of the kernel's plus this is where that CPU has its own. The kernel tells programs
 * where that is for maps alone, but the distance is the same for all. 0: there is no such CPU. */
static __always_inline __u64 offset_of_cpu(__u32 cpu)
{
    const struct bpf_array *array = (const struct bpf_array *)as_number(&landmark);
    __u32 first = 0;
    const void *place = bpf_map_lookup_percpu_elem(&landmark, &first, cpu);

    return place ? as_number(place) - (__u64)BPF_CORE_READ(array, pptrs[0]) : 0;
}

struct sum {
    const struct mm_struct *mm;
    __s64 pages;
};

static __always_inline __s64 part_of(const __s32 *counters, __u64 offset)
{
    __s32 part = 0;

    bpf_probe_read_kernel(&part, sizeof(part), (const void *)counters + offset);
    return part;
}

static long add_cpu(__u32 cpu, struct sum *sum)
{
    const struct mm_struct *mm = sum->mm;
    __u64 offset = offset_of_cpu(cpu);

    if (!offset)
        return 1; /* the last one was before */
    sum->pages += part_of(BPF_CORE_READ(mm, rss_stat[MM_FILEPAGES].counters), offset);
    sum->pages += part_of(BPF_CORE_READ(mm, rss_stat[MM_ANONPAGES].counters), offset);
    sum->pages += part_of(BPF_CORE_READ(mm, rss_stat[MM_SHMEMPAGES].counters), offset);
    return 0;
}

/* From 6.2 on each CPU has a part of the count, many megabytes in all on a machine with many. */
static __always_inline __s64 sum_of_cpus(const struct mm_struct *mm)
{
    struct sum sum = {.mm = mm, .pages = 0};

    sum.pages += BPF_CORE_READ(mm, rss_stat[MM_FILEPAGES].count);
    sum.pages += BPF_CORE_READ(mm, rss_stat[MM_ANONPAGES].count);
    sum.pages += BPF_CORE_READ(mm, rss_stat[MM_SHMEMPAGES].count);
    bpf_loop(MOST_CPUS, add_cpu, &sum, 0);
    return sum.pages;
}

/* Up to 6.1. */
static __always_inline __s64 sum_of_kinds(const struct mm_struct___v6_1 *mm)
{
    return BPF_CORE_READ(mm, rss_stat.count[MM_FILEPAGES].counter) +
           BPF_CORE_READ(mm, rss_stat.count[MM_ANONPAGES].counter) +
           BPF_CORE_READ(mm, rss_stat.count[MM_SHMEMPAGES].counter);
}

SEC("iter/task")
int processes(struct bpf_iter__task *ctx)
{
    struct task_struct *task = ctx->task;
    struct drover_process_usage usage = {};
    const struct mm_struct___v6_1 *old;
    const struct mm_struct *mm;
    const struct cgroup *cgrp;
    __s64 pages;

    if (!task || task->pid != task->tgid)
        return 0;
    cgrp = worker_above(BPF_CORE_READ(task, cgroups, dfl_cgrp));
    mm = BPF_CORE_READ(task, mm);
    if (!mm || !cgrp)
        return 0;
    old = (const struct mm_struct___v6_1 *)mm;
    if (bpf_core_field_exists(old->rss_stat.count))
        pages = sum_of_kinds(old);
    else
        pages = sum_of_cpus(mm);
    /* Where it ended or became another program meanwhile, this may have been anything. */
    if (BPF_CORE_READ(task, mm) != mm)
        return 0;
    usage.cgroup = BPF_CORE_READ(cgrp, kn, id);
    usage.pages = pages > 0 ? pages : 0;
    bpf_seq_write(ctx->meta->seq, &usage, sizeof(usage));
    return 0;
}
