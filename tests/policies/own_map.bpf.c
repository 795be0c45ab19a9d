// SPDX-License-Identifier: MIT
/*
 * Round-robin by a counter of its own.
 */
#include <drover/policy.bpf.h>

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} counter SEC(".maps");

DROVER_POLICY(const struct drover_view* view) {
    __u32 zero = 0;
    __u64* count = bpf_map_lookup_elem(&counter, &zero);

    return count ? __sync_fetch_and_add(count, 1) % view->count : 0;
}
