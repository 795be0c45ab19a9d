// SPDX-License-Identifier: MIT
//
// What follows from health checks (--health): results in, decisions out. Pure.
//
//     --health-failures in a row → unhealthy: out of the active set, but never more than half of
//                                  the workers at once, and nobody while all of them fail
//     one more failure           → replaced, by one that answers its own check first
//     two good ones in a row     → healthy again
//
// Where all workers fail, what they depend on is broken, and a new worker would fare no better. So
// all of them serve, none is replaced, and it is told once. A cluster's only worker cannot be told
// from that: it serves on, and its replacement has to show that it is better.
#pragma once

#include <chrono>

namespace drover::supervisor {

// One worker's.
struct Health {
    int failures = 0;  // in a row
    int successes = 0;
    bool was_ever_good = false;
    bool is_unhealthy = false;
    int replace_at = 0;  // that many failures in a row and it is to be replaced; 0: as above
};

enum class HealthChange { none, unhealthy, healthy };

// Notes one result. `allowed` is --health-failures, at least 1.
HealthChange note_check(Health& health, bool is_good, int allowed);

// The workers that serve or would, but for their health; the one that it is about among them.
struct Census {
    int checked = 0;
    int failing = 0;  // their last check failed
    int unhealthy = 0;
    int out = 0;  // taken out of the active set for it
};

// Whether the cause is not the workers': all are unhealthy.
bool all_fail(const Census& census);
// Whether one more may be taken out.
bool may_take_out(const Census& census);
// Whether the worker is to be replaced now.
bool is_to_be_replaced(const Health& health, const Census& census, int allowed);
// It was begun. Should it not succeed, the next attempt comes after twice as many failures.
void note_replacement(Health& health);

// Until an instance's next check. Those of all instances are spread evenly over the interval, by a
// clock that they share. More than 0, at most the interval.
std::chrono::milliseconds until_check(std::chrono::milliseconds now,
                                      std::chrono::milliseconds interval, int instance,
                                      int instances);

}  // namespace drover::supervisor
