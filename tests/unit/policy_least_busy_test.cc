// SPDX-License-Identifier: MIT
//
// The policy least-busy, compiled natively: what counts as work, and for how much.
#include "policy_least_busy.bpf.h"

#include <doctest/doctest.h>

#include <array>
#include <cstdlib>
#include <map>
#include <random>
#include <vector>

#include "policy_bench.h"

using drover::test::Bench;
using drover::test::kPace;

namespace {

constexpr __u64 kPaceNs = kPace * 1024ull;
constexpr __u64 kMillisecond = 1'000'000;
constexpr __u64 kHour = 3600 * 1000 * kMillisecond;
constexpr __u32 kNone = UINT32_MAX;

// The one that is chosen whatever the chance, else kNone.
__u32 always(Bench& bench) {
    __u32 first = kNone;
    for (int i = 0; i < 60; i++) {
        bench.view.random = bench.any();
        __u32 index = bench.index_of(policy_least_busy(&bench.view));
        if (i == 0) first = index;
        if (index != first) return kNone;
    }
    return first;
}

// How often each is chosen in so many decisions that change nothing.
std::vector<int> choices(Bench& bench, int decisions) {
    std::vector<int> hits(bench.view.count);
    std::mt19937 random(23);
    for (int i = 0; i < decisions; i++) {
        bench.view.random = static_cast<__u32>(random());
        hits.at(bench.index_of(policy_least_busy(&bench.view)))++;
    }
    return hits;
}

bool is_even(const std::vector<int>& hits, int each) {
    for (int hit : hits)
        if (hit < each * 8 / 10 || hit > each * 12 / 10) return false;
    return true;
}

// A worker with so many connections that last finished one that long ago.
void set(Bench& bench, __u32 index, __s64 live, __u64 since = 0, __u32 queued = 0) {
    bench.live(index) = live;
    bench.slot(index).progress_at = bench.view.now - since;
    bench.queue(index) = {0, queued, LISTENER_UNSEEN, 0};
}

// Nobody has been seen to serve several connections at once yet.
void nobody_is_wide(Bench& bench) {
    for (drover_slot& slot : bench.slots) slot.serial = 0;
}

// A connection begins, as account.bpf.c counts it.
void begin(Bench& bench, __u32 slot) {
    if (bench.slots[slot].live++ <= 0) bench.slots[slot].progress_at = bench.view.now;
}

}  // namespace

TEST_CASE("least-busy: up to 16 workers the only least one is found at each place, always") {
    for (__u32 count : {1u, 2u, 15u, 16u}) {
        Bench bench(count);
        for (__u32 place = 0; place < count; place++) {
            for (__u32 i = 0; i < count; i++) set(bench, i, i == place ? 3 : 4);
            REQUIRE(always(bench) == place);
        }
    }
}

TEST_CASE("least-busy: 1,024 long-lived connections over 8 workers are 128 each") {
    Bench bench(8);
    for (int i = 0; i < 1024; i++) {
        bench.view.random = bench.any();
        bench.view.now += kMillisecond / 10;
        begin(bench, policy_least_busy(&bench.view));
    }
    for (__u32 i = 0; i < 8; i++) CHECK(bench.live(i) == 128);
}

TEST_CASE("least-busy: connections that stay are shared by weight, exactly") {
    for (const auto& weights : {std::vector<__u32>{100, 200, 400}, {25, 50, 100}}) {
        Bench bench(3, weights);
        for (__u32 i = 0; i < 3; i++) set(bench, i, 0);
        for (int i = 0; i < 7000; i++) {
            bench.view.random = bench.any();
            begin(bench, policy_least_busy(&bench.view));
        }
        CHECK(bench.live(0) == 1000);
        CHECK(bench.live(1) == 2000);
        CHECK(bench.live(2) == 4000);
    }
}

TEST_CASE("least-busy: by weight also while time passes, to one or two connections") {
    Bench bench(3, {100, 200, 400});
    for (int i = 0; i < 7000; i++) {
        bench.view.random = bench.any();
        bench.view.now += kMillisecond;
        begin(bench, policy_least_busy(&bench.view));
    }
    CHECK(std::abs(bench.live(0) - 1000) <= 2);
    CHECK(std::abs(bench.live(1) - 2000) <= 2);
    CHECK(std::abs(bench.live(2) - 4000) <= 2);
}

TEST_CASE("least-busy: of idle workers the heaviest is taken") {
    Bench bench(5, {100, 100, 101, 1, 100});
    CHECK(always(bench) == 2);
}

TEST_CASE("least-busy: handshakes under way count like connections") {
    Bench bench(2);
    set(bench, 1, 3);
    bench.queue(0).young = 2;
    CHECK(always(bench) == 0);
    bench.queue(0).young = 4;
    CHECK(always(bench) == 1);
    bench.queue(0).young = 3;
    CHECK(is_even(choices(bench, 2000), 1000));

    // Both together.
    set(bench, 0, 1);
    bench.queue(0).young = 1;
    CHECK(always(bench) == 0);
    bench.queue(0).young = 3;
    CHECK(always(bench) == 1);
}

TEST_CASE("least-busy: a burst before the first handshake is done is spread evenly") {
    Bench bench(8);
    for (int i = 0; i < 64; i++) {
        bench.view.random = bench.any();
        bench.queues[policy_least_busy(&bench.view)].young++;
    }
    for (__u32 i = 0; i < 8; i++) CHECK(bench.queue(i).young == 8);
}

TEST_CASE("least-busy: of equals it is the one with the latest progress") {
    constexpr __u32 kWorkers = 7;
    Bench bench(kWorkers);
    nobody_is_wide(bench);
    for (__u32 latest = 0; latest < kWorkers; latest++) {
        for (__u32 i = 0; i < kWorkers; i++)
            set(bench, i, 1, (i + kWorkers - latest) % kWorkers * kMillisecond + 20'000);
        REQUIRE(always(bench) == latest);
    }
}

TEST_CASE("least-busy: the age is never worth a connection") {
    Bench bench(2);
    set(bench, 0, 1, kHour);
    set(bench, 1, 2, 0);
    CHECK(always(bench) == 0);
    set(bench, 1, 1, kHour);
    set(bench, 0, 0);
    CHECK(always(bench) == 0);
}

TEST_CASE("least-busy: an age beyond 8 ms counts no more") {
    Bench bench(3);
    nobody_is_wide(bench);
    for (__u64 young : {1ull, 4ull, 7ull}) {  // before, it does
        set(bench, 0, 1, (young + 1) * kMillisecond);
        set(bench, 1, 1, young * kMillisecond);
        set(bench, 2, 1, kHour);
        CHECK(always(bench) == 1);
    }
    set(bench, 0, 1, 9 * kMillisecond);
    set(bench, 1, 1, kHour);
    set(bench, 2, 1, 1000 * kHour);
    CHECK(is_even(choices(bench, 3000), 1000));
}

TEST_CASE("least-busy: the age of workers that serve several at once does not count") {
    Bench bench(3);
    for (__u32 i = 0; i < 3; i++) set(bench, i, 25, i * kMillisecond);
    CHECK(is_even(choices(bench, 3000), 1000));
}

TEST_CASE("least-busy: workers with idle keep-alive connections share evenly, whatever their age") {
    constexpr __u32 kWorkers = 8;
    Bench bench(kWorkers);
    for (__u32 i = 0; i < kWorkers; i++) set(bench, i, 10, (i * i + 1) * 10 * kMillisecond);
    CHECK(is_even(choices(bench, kWorkers * 1000), 1000));
}

TEST_CASE("least-busy: an idle worker's last progress does not matter") {
    Bench bench(3);
    set(bench, 0, 0, 0);
    set(bench, 1, 0, kHour);
    bench.slot(2).progress_at = 0;  // it never had a connection
    CHECK(is_even(choices(bench, 3000), 1000));
}

TEST_CASE("least-busy: each pace that a queue stands beyond two repels a connection, up to 32") {
    for (__u64 paces : {1, 2, 5, 9, 31, 32, 33, 100, 500, 1'000'000}) {
        __s64 repelled = paces < 32 ? static_cast<__s64>(paces) : 32;
        INFO("paces ", paces);
        __u64 since = (2 + paces) * kPaceNs;
        Bench bench(2);
        // The other one is as old, but nobody waits there.
        set(bench, 0, 2, since, /*queued=*/1);
        set(bench, 1, 2 + repelled - 1, since);
        CHECK(always(bench) == 1);
        set(bench, 1, 2 + repelled + 1, since);
        CHECK(always(bench) == 0);
    }
}

TEST_CASE("least-busy: with a queue but within two paces there is no delay") {
    Bench bench(2);
    set(bench, 0, 3, 2 * kPaceNs, /*queued=*/2);
    set(bench, 1, 4);
    CHECK(always(bench) == 0);
    set(bench, 0, 3, 4 * kPaceNs, 2);  // now the queue has stood
    CHECK(always(bench) == 1);
}

TEST_CASE("least-busy: a slow worker's usual time is no delay") {
    Bench bench(2);
    bench.slot(0).pace = 100 * kPace;
    set(bench, 0, 3, 100 * kPaceNs, /*queued=*/2);
    set(bench, 1, 4);
    CHECK(always(bench) == 0);
    bench.slot(0).pace = 0;  // it has finished none yet: nothing is known
    CHECK(always(bench) == 0);
}

TEST_CASE("least-busy: without a queue there is no delay with who serves several at once") {
    Bench bench(2);
    set(bench, 0, 3, 30 * kPaceNs);
    set(bench, 1, 4);
    CHECK(always(bench) == 0);
}

TEST_CASE("least-busy: who serves one at a time is at something long, also without a queue") {
    Bench bench(2);
    bench.slot(0).serial = BUSY_SEEN_SERIAL;
    set(bench, 0, 1, 30 * kPaceNs);
    set(bench, 1, 8);
    CHECK(always(bench) == 1);
    // But for no more than eight: the guess may be wrong.
    set(bench, 1, 10);
    CHECK(always(bench) == 0);
}

TEST_CASE("least-busy: that a worker serves one at a time is believed when it was seen often") {
    Bench bench(1);
    bench.slot(0).serial = 0;
    set(bench, 0, 3, 0, /*queued=*/2);
    for (__u32 i = 0; i < BUSY_SEEN_SERIAL; i++) {
        CHECK(bench.slot(0).serial == i);
        (void)policy_least_busy(&bench.view);
    }
    (void)policy_least_busy(&bench.view);
    CHECK(bench.slot(0).serial == BUSY_SEEN_SERIAL);
    // Without a queue nothing is seen.
    bench.slot(0).serial = 0;
    set(bench, 0, 1);
    (void)policy_least_busy(&bench.view);
    CHECK(bench.slot(0).serial == 0);
}

TEST_CASE("least-busy: two connections out of the queue, often, show that it serves several") {
    Bench bench(1);
    bench.slot(0).serial = BUSY_SEEN_SERIAL;
    // Now and then it may be one that is just being moved.
    for (__u32 i = 0; i < 10 * BUSY_MOST_DOUBTS; i++) {
        set(bench, 0, 4, 30 * kPaceNs, /*queued=*/i % BUSY_MOST_DOUBTS == 0 ? 3 : 2);
        (void)policy_least_busy(&bench.view);
        CHECK(bench.slot(0).serial == BUSY_SEEN_SERIAL);
    }
    set(bench, 0, 4, 30 * kPaceNs, /*queued=*/2);
    (void)policy_least_busy(&bench.view);
    CHECK(bench.slot(0).serial == DROVER_NOT_SERIAL);
    set(bench, 0, 3, 30 * kPaceNs, /*queued=*/2);
    (void)policy_least_busy(&bench.view);
    CHECK(bench.slot(0).serial == DROVER_NOT_SERIAL);
}

TEST_CASE("least-busy: of equals it is one that waits, at each place, and whatever it served") {
    constexpr __u32 kWorkers = 5;
    for (__s64 live : {0, 1, 30}) {
        Bench bench(kWorkers);
        for (__u32 idle = 0; idle < kWorkers; idle++) {
            for (__u32 i = 0; i < kWorkers; i++) {
                set(bench, i, live, i == idle ? kHour : 0);
                bench.queue(i).look = i == idle ? LISTENER_AWAITED : LISTENER_BUSY;
            }
            CHECK(always(bench) == idle);
        }
    }
}

TEST_CASE("least-busy: being busy is less than a connection, until a worker takes long") {
    Bench bench(2);
    set(bench, 0, 1);
    bench.queue(0).look = LISTENER_BUSY;
    set(bench, 1, 2);
    bench.queue(1).look = LISTENER_AWAITED;
    CHECK(always(bench) == 0);
    bench.view.now += 2 * kPaceNs;
    CHECK(always(bench) == 0);
    bench.view.now += 2 * kPaceNs;  // two paces beyond what is usual
    CHECK(always(bench) == 1);
    // For each pace one more, up to eight.
    set(bench, 1, 8);
    bench.queue(1).look = LISTENER_AWAITED;
    CHECK(always(bench) == 0);
    bench.view.now += kHour;
    CHECK(always(bench) == 1);
    set(bench, 1, 11);
    CHECK(always(bench) == 0);
}

TEST_CASE("least-busy: who has waited, slept or finished one meanwhile is at something new") {
    enum { kWaited, kSlept, kFinished };
    for (int meanwhile : {kWaited, kSlept, kFinished}) {
        Bench bench(2);
        set(bench, 0, 1);
        bench.queue(0).look = LISTENER_BUSY;
        set(bench, 1, 3);
        CHECK(always(bench) == 0);
        bench.view.now += 10 * kPaceNs;
        CHECK(always(bench) == 1);
        if (meanwhile == kWaited) {
            bench.queue(0).look = LISTENER_AWAITED;
            CHECK(always(bench) == 0);
            bench.queue(0).look = LISTENER_BUSY;
        }
        if (meanwhile == kSlept) bench.queue(0).sleeps++;
        if (meanwhile == kFinished) bench.slot(0).progress_at = bench.view.now;
        CHECK(always(bench) == 0);
    }
}

TEST_CASE("least-busy: one that works without any connection is passed by, too") {
    Bench bench(2);
    bench.slot(0).progress_at = bench.slot(1).progress_at = 0;
    bench.queue(0).look = LISTENER_BUSY;
    bench.queue(1).look = LISTENER_AWAITED;
    CHECK(always(bench) == 1);
    // For long: even though the other one has connections.
    bench.view.now += kHour;
    set(bench, 1, 3);
    bench.queue(1).look = LISTENER_AWAITED;
    CHECK(always(bench) == 1);
}

TEST_CASE(
    "least-busy: a queue stands still for as long as nothing was finished, seen busy or not") {
    Bench bench(2);
    set(bench, 0, 2, 20 * kPaceNs, /*queued=*/1);
    bench.queue(0).look = LISTENER_BUSY;
    set(bench, 1, 15);
    bench.queue(1).look = LISTENER_AWAITED;
    CHECK(always(bench) == 1);
}

TEST_CASE("least-busy: a closing listener that shows garbage as handshakes is bounded") {
    Bench bench(2);
    bench.queue(0).young = 0xFFFFFFFF;
    set(bench, 1, 100);
    CHECK(always(bench) == 1);
    // As 128 connections: it neither comes round to few, nor overflows with the largest weight.
    set(bench, 1, BUSY_MOST_YOUNG - 1);
    CHECK(always(bench) == 1);
    set(bench, 1, BUSY_MOST_YOUNG + 2);
    CHECK(always(bench) == 0);

    Bench heavy(2, {DROVER_MAX_WEIGHT, DROVER_MAX_WEIGHT});
    set(heavy, 0, 1'000'000'000, kHour, 1);
    set(heavy, 1, 1'000'000'000, kHour, 1);
    heavy.queue(0).young = 0xFFFFFFFF;
    CHECK(always(heavy) == 1);
}

TEST_CASE("least-busy: in a SYN flood the connections decide, not who has more of it") {
    Bench bench(2);
    set(bench, 0, 20);
    bench.queue(0).young = 3'000;
    bench.queue(1).young = 4'000;
    CHECK(always(bench) == 1);
}

TEST_CASE("least-busy: where listeners are not known, live connections and age remain") {
    Bench bench(2);
    bench.listeners.fill(0);
    nobody_is_wide(bench);
    set(bench, 1, 1);
    bench.queue(0) = {1000, 1000, LISTENER_BUSY, 0};  // there to be seen, but nobody looks
    CHECK(always(bench) == 0);

    set(bench, 0, 1, 30 * kMillisecond, /*queued=*/9);
    set(bench, 1, 2);
    CHECK(always(bench) == 0);
    set(bench, 1, 1);
    CHECK(always(bench) == 1);  // the age
}

TEST_CASE("least-busy: progress later than now, as the clock was read before it, is no age") {
    Bench bench(2);
    nobody_is_wide(bench);
    set(bench, 0, 1);
    bench.slot(0).progress_at = bench.view.now + 5000;
    set(bench, 1, 1, kMillisecond / 2);
    CHECK(always(bench) == 0);
    bench.queue(0).queued = 50;  // nor a delay
    set(bench, 1, 2);
    CHECK(always(bench) == 0);
}

TEST_CASE("least-busy: a count below 0 is as good as none, not better") {
    Bench bench(2);
    set(bench, 0, -7, kHour);
    set(bench, 1, 0);
    CHECK(is_even(choices(bench, 2000), 1000));
    set(bench, 1, 1);
    CHECK(always(bench) == 0);
    // Handshakes are not taken off it.
    bench.queue(0).young = 2;
    CHECK(always(bench) == 1);
}

TEST_CASE("least-busy: above 16 workers the busiest is taken only where all samples are it") {
    Bench bench(100);
    for (__u32 i = 0; i < 100; i++) set(bench, i, i == 17 ? 1000 : 1);
    CHECK(choices(bench, 100'000)[17] < 20);  // 100,000 / 100^4 is none; one sample would be 1,000
}

TEST_CASE("least-busy: 17 workers are sampled, and each is chosen now and then") {
    Bench bench(17);
    set(bench, 0, 0);
    for (__u32 i = 1; i < bench.view.count; i++) set(bench, i, 1);
    // The only idle one would always be found where all were looked at; of four samples it is one
    // in 21 %.
    auto hits = choices(bench, 17'000);
    CHECK(hits[0] > 17'000 * 15 / 100);
    CHECK(hits[0] < 17'000 * 30 / 100);
    for (__u32 i = 1; i < bench.view.count; i++) CHECK_MESSAGE(hits[i] > 500, "index ", i);
}

TEST_CASE("least-busy: above 16 workers 100,000 connections over 100 workers are nearly even") {
    Bench bench(100);
    std::mt19937 random(5);
    for (int i = 0; i < 100'000; i++) {
        bench.view.random = static_cast<__u32>(random());
        begin(bench, policy_least_busy(&bench.view));
    }
    for (__u32 i = 0; i < 100; i++) CHECK(std::abs(bench.live(i) - 1000) < 10);
}
