// SPDX-License-Identifier: MIT
#include "supervisor/restart.h"

#include <algorithm>
#include <cmath>

namespace drover::supervisor {

namespace {

constexpr std::chrono::milliseconds kSettled{1000};    // ready for this long: the start was good
constexpr std::chrono::milliseconds kFirstDelay{100};  // doubles with each failed start
constexpr std::chrono::milliseconds kLongestDelay{10'000};

}  // namespace

Judgement judge(Restart mode, const RestartLimit& limit, const ExitFacts& facts,
                RestartHistory& history, SteadyTime now, double random) {
    if (facts.was_wanted) return {Verdict::stopped};
    if (facts.replace_wanted) return {Verdict::replace};
    // Neither becomes better by itself: say so at once instead of trying again and again.
    if (facts.conflict) return {Verdict::failed};
    if (facts.exec_failed && !history.was_ever_online) return {Verdict::failed};
    if (mode == Restart::never) return {Verdict::stopped};
    if (mode == Restart::on_failure && facts.succeeded) return {Verdict::stopped};
    if (facts.was_ready && facts.since_ready >= kSettled) return {Verdict::replace};

    auto& failed = history.failed_starts;
    failed.push_back(now);
    while (!failed.empty() && now - failed.front() > limit.within) failed.pop_front();
    if (static_cast<int>(failed.size()) >= limit.count) return {Verdict::failed};
    // In floating point: a high limit doubles past what an integer holds.
    double doubled = static_cast<double>(kFirstDelay.count()) *
                     std::pow(2.0, static_cast<double>(failed.size()) - 1);
    double delay = std::min(static_cast<double>(kLongestDelay.count()), doubled);
    // Between three quarters of it and all of it, so that instances do not start in step.
    return {Verdict::backoff,
            std::chrono::milliseconds(std::llround(delay * (0.75 + 0.25 * random)))};
}

}  // namespace drover::supervisor
