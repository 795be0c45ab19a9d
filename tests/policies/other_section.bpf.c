// SPDX-License-Identifier: MIT
/*
 * Wrong: a policy's name on a program of another kind.
 */
#include <drover/policy.bpf.h>

SEC("xdp")
int DROVER_POLICY_NAME(DROVER_POLICY_VERSION)(__attribute__((unused)) struct xdp_md* ctx) {
    return 0;
}
