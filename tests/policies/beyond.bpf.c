// SPDX-License-Identifier: MIT
/*
 * Wrong: an index that no candidate has.
 */
#include <drover/policy.bpf.h>

DROVER_POLICY(const struct drover_view* view) {
    return view->count;
}
