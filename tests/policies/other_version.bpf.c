// SPDX-License-Identifier: MIT
/*
 * Wrong: as if it had been compiled with the header of another drover.
 */
#include <drover/policy.bpf.h>

#undef DROVER_POLICY_VERSION
#define DROVER_POLICY_VERSION 999

DROVER_POLICY(__attribute__((unused)) const struct drover_view* view) {
    return 0;
}
