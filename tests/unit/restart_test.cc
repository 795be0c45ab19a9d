// SPDX-License-Identifier: MIT
//
// judge(): whether an instance gets a new worker, and when. Each rule of the header once, then the
// arithmetic of the waiting times and the limit.
#include "supervisor/restart.h"

#include <doctest/doctest.h>

#include <vector>

using namespace drover::supervisor;
using namespace std::chrono_literals;

namespace {

const SteadyTime kStart = SteadyTime{} + 1000h;
constexpr RestartLimit kNoLimit{1'000'000, Duration{60'000}};

ExitFacts crash_before_ready() {
    return {};
}

ExitFacts crash_after(std::chrono::milliseconds since_ready) {
    ExitFacts facts;
    facts.was_ready = true;
    facts.since_ready = since_ready;
    return facts;
}

// The delays of `count` failed starts in a row, `apart` from each other.
std::vector<long> delays(int count, double random, std::chrono::milliseconds apart,
                         const RestartLimit& limit = kNoLimit) {
    std::vector<long> all;
    RestartHistory history;
    for (int i = 0; i < count; i++) {
        auto judgement = judge(Restart::always, limit, crash_before_ready(), history,
                               kStart + i * apart, random);
        REQUIRE(judgement.verdict == Verdict::backoff);
        all.push_back(judgement.delay.count());
    }
    return all;
}

}  // namespace

TEST_CASE("restart: a worker that served for a second is replaced at once, and it is no failure") {
    RestartHistory history;
    for (auto served : {1000ms, 5000ms, 86'400'000ms}) {
        auto judgement = judge(Restart::always, {}, crash_after(served), history, kStart, 0.5);
        CHECK(judgement.verdict == Verdict::replace);
    }
    CHECK(history.failed_starts.empty());
}

TEST_CASE("restart: an exit before ready, or within a second of it, is a failed start") {
    RestartHistory history;
    CHECK(judge(Restart::always, {}, crash_before_ready(), history, kStart, 0).verdict ==
          Verdict::backoff);
    CHECK(judge(Restart::always, {}, crash_after(0ms), history, kStart, 0).verdict ==
          Verdict::backoff);
    CHECK(judge(Restart::always, {}, crash_after(999ms), history, kStart, 0).verdict ==
          Verdict::backoff);
    CHECK(history.failed_starts.size() == 3);
}

TEST_CASE("restart: a clean exit counts like any other with --restart always") {
    RestartHistory history;
    ExitFacts early;
    early.succeeded = true;
    CHECK(judge(Restart::always, {}, early, history, kStart, 0).verdict == Verdict::backoff);
    ExitFacts late = crash_after(2000ms);
    late.succeeded = true;
    CHECK(judge(Restart::always, {}, late, history, kStart, 0).verdict == Verdict::replace);
}

TEST_CASE("restart: on-failure replaces after a failure, and lets a clean exit be") {
    RestartHistory history;
    ExitFacts clean = crash_after(2000ms);
    clean.succeeded = true;
    CHECK(judge(Restart::on_failure, {}, clean, history, kStart, 0).verdict == Verdict::stopped);
    CHECK(judge(Restart::on_failure, {}, crash_after(2000ms), history, kStart, 0).verdict ==
          Verdict::replace);
    CHECK(history.failed_starts.empty());
    CHECK(judge(Restart::on_failure, {}, crash_before_ready(), history, kStart, 0).verdict ==
          Verdict::backoff);
}

TEST_CASE("restart: never means never, whatever the exit was") {
    RestartHistory history;
    ExitFacts clean;
    clean.succeeded = true;
    for (const ExitFacts& facts : {clean, crash_before_ready(), crash_after(5000ms)})
        CHECK(judge(Restart::never, {}, facts, history, kStart, 0).verdict == Verdict::stopped);
    CHECK(history.failed_starts.empty());
}

TEST_CASE("restart: a worker that drover ended for good stays ended, in every mode") {
    RestartHistory history;
    ExitFacts facts = crash_after(5000ms);
    facts.was_wanted = true;
    for (Restart mode : {Restart::always, Restart::on_failure, Restart::never})
        CHECK(judge(mode, {}, facts, history, kStart, 0).verdict == Verdict::stopped);
    // Ended, then killed by its signal, or before it was ready: ended all the same.
    facts = {};
    facts.was_wanted = true;
    facts.conflict = true;
    CHECK(judge(Restart::always, {}, facts, history, kStart, 0).verdict == Verdict::stopped);
    CHECK(history.failed_starts.empty());
}

TEST_CASE("restart: a worker that drover ended to start another is replaced, in every mode") {
    RestartHistory history;
    ExitFacts facts;
    facts.replace_wanted = true;
    facts.succeeded = true;
    for (Restart mode : {Restart::always, Restart::on_failure, Restart::never})
        CHECK(judge(mode, {}, facts, history, kStart, 0).verdict == Verdict::replace);
    CHECK(history.failed_starts.empty());
}

TEST_CASE("restart: a conflict fails the instance at once") {
    for (Restart mode : {Restart::always, Restart::on_failure, Restart::never}) {
        RestartHistory history;
        ExitFacts facts;
        facts.conflict = true;
        CHECK(judge(mode, {}, facts, history, kStart, 0).verdict == Verdict::failed);
    }
}

TEST_CASE(
    "restart: a program that could never be run fails at once, one that once ran is retried") {
    RestartHistory history;
    ExitFacts facts;
    facts.exec_failed = true;
    CHECK(judge(Restart::always, {}, facts, history, kStart, 0).verdict == Verdict::failed);
    history.was_ever_online = true;  // it may be in the middle of being replaced on disk
    CHECK(judge(Restart::always, {}, facts, history, kStart, 0).verdict == Verdict::backoff);
    CHECK(history.failed_starts.size() == 1);
}

TEST_CASE("restart: the wait doubles from 100 ms to 10 s") {
    CHECK(delays(9, 1.0, 1ms) ==
          std::vector<long>{100, 200, 400, 800, 1600, 3200, 6400, 10'000, 10'000});
}

TEST_CASE("restart: jitter takes at most a quarter of the wait away") {
    CHECK(delays(8, 0.0, 1ms) == std::vector<long>{75, 150, 300, 600, 1200, 2400, 4800, 7500});
    for (int i = 0; i <= 100; i++) {
        long delay = delays(4, i / 100.0, 1ms).back();
        CHECK(delay >= 600);
        CHECK(delay <= 800);
    }
}

TEST_CASE("restart: the wait stays at its longest however often the start has failed") {
    RestartLimit generous{1000, Duration{24 * 3600 * 1000}};
    auto all = delays(200, 1.0, 10s, generous);
    for (size_t i = 7; i < all.size(); i++) CHECK_MESSAGE(all[i] == 10'000, "failed start ", i + 1);
}

TEST_CASE("restart: the limit gives the instance up") {
    RestartHistory history;
    RestartLimit limit{5, Duration{60'000}};
    for (int i = 0; i < 4; i++)
        CHECK(judge(Restart::always, limit, crash_before_ready(), history, kStart + i * 1s, 0.5)
                  .verdict == Verdict::backoff);
    CHECK(judge(Restart::always, limit, crash_before_ready(), history, kStart + 4s, 0.5).verdict ==
          Verdict::failed);
    CHECK(history.failed_starts.size() == 5);  // what the restart-limit event says
}

TEST_CASE("restart: a limit of one gives up at the first failed start") {
    RestartHistory history;
    CHECK(judge(Restart::always, {1, Duration{60'000}}, crash_before_ready(), history, kStart, 0.5)
              .verdict == Verdict::failed);
}

TEST_CASE("restart: failed starts older than the limit's time are forgotten") {
    RestartHistory history;
    RestartLimit limit{3, Duration{60'000}};
    auto fails_at = [&](std::chrono::milliseconds when) {
        return judge(Restart::always, limit, crash_before_ready(), history, kStart + when, 1.0);
    };
    CHECK(fails_at(0s).delay == 100ms);
    CHECK(fails_at(1s).delay == 200ms);
    // Both are forgotten: the wait is the first one again.
    auto third = fails_at(61'001ms);
    CHECK(third.verdict == Verdict::backoff);
    CHECK(third.delay == 100ms);
    CHECK(fails_at(62s).verdict == Verdict::backoff);
    CHECK(fails_at(63s).verdict == Verdict::failed);
}

TEST_CASE("restart: failed starts as old as the limit's time still count") {
    RestartHistory history;
    RestartLimit limit{2, Duration{60'000}};
    judge(Restart::always, limit, crash_before_ready(), history, kStart, 0.5);
    CHECK(judge(Restart::always, limit, crash_before_ready(), history, kStart + 60s, 0.5).verdict ==
          Verdict::failed);
}

TEST_CASE("restart: a good run between failures does not make the failures forgotten") {
    RestartHistory history;
    RestartLimit limit{2, Duration{60'000}};
    judge(Restart::always, limit, crash_before_ready(), history, kStart, 0.5);
    judge(Restart::always, limit, crash_after(1500ms), history, kStart + 2s, 0.5);
    CHECK(judge(Restart::always, limit, crash_before_ready(), history, kStart + 3s, 0.5).verdict ==
          Verdict::failed);
}
