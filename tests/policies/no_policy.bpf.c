// SPDX-License-Identifier: MIT
/*
 * Wrong: a BPF program, but no policy.
 */
#include <drover/policy.bpf.h>

SEC("sk_reuseport")
int mine(__attribute__((unused)) struct sk_reuseport_md* ctx) {
    return SK_PASS;
}
