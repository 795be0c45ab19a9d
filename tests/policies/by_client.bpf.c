// SPDX-License-Identifier: MIT
/*
 * 127.0.0.N goes to instance N, and what waited there, should that be gone, to instance N - 1.
 * Others get no answer of ours.
 */
#include <bpf/bpf_endian.h>
#include <drover/policy.bpf.h>

DROVER_POLICY(const struct drover_view* view) {
    __u32 address = bpf_ntohl(view->client[0]);
    __u32 wanted = address - 0x7f000000 - view->is_moved;

    if (view->family != DROVER_AF_INET) return view->count;
    drover_for_each(i, view) {
        if (drover_instance(view, i) == wanted) return i;
    }
    return view->count;
}
