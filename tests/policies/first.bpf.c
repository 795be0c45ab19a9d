// SPDX-License-Identifier: MIT
/*
 * Always the first candidate.
 */
#include <drover/policy.bpf.h>

DROVER_POLICY(__attribute__((unused)) const struct drover_view* view) {
    return 0;
}
