// SPDX-License-Identifier: MIT
/*
 * The example of a policy of one's own: the worker with the fewest connections for its weight.
 *
 *     clang -O2 -g -target bpf -mcpu=v3 -c least_live.bpf.c -o least_live.bpf.o
 */
#include <drover/policy.bpf.h>

DROVER_POLICY(const struct drover_view* view) {
    __u64 least = ~0ull;
    __u32 best = 0;

    drover_for_each(i, view) {
        __u64 connections = drover_live(view, i) + drover_handshakes(view, i) + 1;
        __u64 load = connections * 1000000 / drover_weight(view, i);

        if (load < least) {
            least = load;
            best = i;
        }
    }
    return best;
}
