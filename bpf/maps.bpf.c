// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * The variables that maps.bpf.h declares.
 */
#include "maps.bpf.h"

const volatile struct drover_config config SEC(".rodata") = {};

struct drover_control control SEC(".data.control") = {.policy = DROVER_POLICY_LEAST_CONN};
struct drover_group groups[DROVER_MAX_GROUPS] SEC(".data.groups") = {};
struct drover_slot slots[DROVER_MAX_SLOTS] SEC(".data.slots") = {};
__u16 instances[DROVER_MAX_SLOTS] SEC(".data.instances") = {};
struct drover_look looks[DROVER_MAX_SLOTS] SEC(".data.looks") = {};
struct drover_totals totals SEC(".data.totals") = {};
