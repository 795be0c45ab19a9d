// SPDX-License-Identifier: MIT
#include "supervisor/health.h"

#include <algorithm>

namespace drover::supervisor {

namespace {

constexpr int kGoodOnes = 2;      // in a row, and it is healthy again
constexpr int kMost = 1'000'000;  // failures that are counted

}  // namespace

HealthChange note_check(Health& health, bool is_good, int allowed) {
    if (is_good) {
        health.failures = 0;
        health.replace_at = 0;
        health.was_ever_good = true;
        health.successes = std::min(health.successes + 1, kGoodOnes);
        if (!health.is_unhealthy || health.successes < kGoodOnes) return HealthChange::none;
        health.is_unhealthy = false;
        return HealthChange::healthy;
    }
    health.successes = 0;
    health.failures = std::min(health.failures + 1, kMost);
    if (health.is_unhealthy || health.failures < allowed) return HealthChange::none;
    health.is_unhealthy = true;
    return HealthChange::unhealthy;
}

bool all_fail(const Census& census) {
    return census.checked > 1 && census.unhealthy == census.checked;
}

// While all of them fail at their last look, they may all be about to become unhealthy.
bool may_take_out(const Census& census) {
    return census.failing < census.checked && 2 * (census.out + 1) <= census.checked;
}

bool is_to_be_replaced(const Health& health, const Census& census, int allowed) {
    if (!health.is_unhealthy) return false;
    bool is_common = census.checked > 1 && census.failing == census.checked;
    int due = health.replace_at > 0 ? health.replace_at : allowed + 1;
    return !is_common && health.failures >= due;
}

void note_replacement(Health& health) {
    health.replace_at = 2 * std::max(health.failures, 1);
}

std::chrono::milliseconds until_check(std::chrono::milliseconds now,
                                      std::chrono::milliseconds interval, int instance,
                                      int instances) {
    using std::chrono::milliseconds;
    auto place = interval * (instance % std::max(instances, 1)) / std::max(instances, 1);
    auto since = (now - place) % interval;  // since its last turn
    if (since < milliseconds(0)) since += interval;
    return interval - since;
}

}  // namespace drover::supervisor
