// SPDX-License-Identifier: MIT
//
// Signs of life, on the supervisor's rig: probes, the watchdog, load, "I stop", stalls; weights.
#include "supervisor_rig.h"

using namespace drover;
using namespace drover::supervisor;
using namespace drover::supervisor::test;
using namespace std::chrono_literals;

namespace {

Config probed(Ready ready, const std::string& path = "") {
    Config config = config_of(1);
    config.ready = ready;
    config.ready_path = path;
    return config;
}

void answer(Rig& rig, WorkerId id, Result<void> result) {
    CHECK(rig.effects.probed.erase(id) == 1);
    rig.supervisor->on_probed(id, result);
}

Config watched(Duration patience) {
    Config config = config_of(1);
    config.watchdog = patience;
    return config;
}

}  // namespace

TEST_CASE("signs: with --ready http a worker that listens is asked, and ready when it answers") {
    Rig rig(probed(Ready::http, "/health"));
    rig.supervisor->on_exec(1);
    CHECK(rig.count("probe 1 /health") == 0);
    rig.listens(1);
    CHECK(rig.count("probe 1 /health") == 1);
    CHECK(rig.is(1, State::listening));
    answer(rig, 1, {});
    CHECK(rig.is(1, State::ready));
    CHECK(rig.active() == "1");
}

TEST_CASE("signs: a probe that fails is told as the reason, and tried again") {
    Rig rig(probed(Ready::tcp));
    rig.becomes_ready(1);
    answer(rig, 1, fail("http-status", "GET /: status 503"));
    CHECK(rig.is(1, State::listening));
    CHECK(rig.worker(1)->reason == "not ready: GET /: status 503");
    CHECK(rig.until([&] { return rig.count("probe 1 ") == 2; }));
    answer(rig, 1, {});
    CHECK(rig.is(1, State::ready));
    CHECK_FALSE(rig.worker(1)->reason.has_value());
}

TEST_CASE("signs: a worker that never answers is late, and the last answer says why") {
    Config config = probed(Ready::http, "/");
    config.ready_timeout = 20ms;
    Rig rig(config);
    rig.becomes_ready(1);
    answer(rig, 1, fail("http-status", "GET /: status 500"));
    CHECK(rig.until([&] { return rig.is(1, State::draining); }));
    CHECK(rig.worker(1)->reason == "not ready within 20 ms (not ready: GET /: status 500)");
}

TEST_CASE("signs: an answer for a worker that shall end by now changes nothing") {
    Rig rig(probed(Ready::tcp));
    rig.becomes_ready(1);
    auto stopped = rig.stop(1);
    answer(rig, 1, {});
    CHECK(rig.is(1, State::draining));
    CHECK(rig.active().empty());
    rig.exits(1);
    CHECK(stopped->ok());
}

TEST_CASE("signs: a worker that closed its listener is asked anew when it listens again") {
    Rig rig(probed(Ready::tcp));
    rig.becomes_ready(1);
    answer(rig, 1, {});
    rig.supervisor->on_listener_closed(1, kHttp);
    CHECK(rig.is(1, State::online));
    rig.listens(1);
    CHECK(rig.count("probe 1 ") == 2);
    CHECK(rig.active().empty());
    answer(rig, 1, {});
    CHECK(rig.active() == "1");
}

TEST_CASE("signs: a worker without a sign of life is killed and replaced") {
    ReadyRig rig(watched(20ms));
    CHECK(rig.until([&] { return rig.called("kill 1"); }));
    CHECK(rig.called("deactivate 1"));
    CHECK(rig.worker(1)->reason == "gave no sign of life for 20 ms");
    rig.dies(1);
    auto exit = std::get<ExitData>(rig.events_of(EventKind::exit).back().data).exit;
    CHECK(exit.reason == ExitReason::unhealthy);
    CHECK(rig.until([&] { return rig.called("spawn 2"); }));
}

TEST_CASE("signs: a worker that gives signs of life lives") {
    ReadyRig rig(watched(200ms));
    for (int i = 0; i < 30; i++) {
        rig.supervisor->on_alive(1);
        rig.turn(10ms);
    }
    CHECK(rig.is(1, State::ready));
}

TEST_CASE("signs: a worker may wish for another interval") {
    ReadyRig rig(watched(kFar));
    rig.supervisor->on_watchdog_interval(1, 20ms);
    CHECK(rig.until([&] { return rig.called("kill 1"); }));
    rig.dies(1);
}

TEST_CASE("signs: without --watchdog nobody waits for signs of life") {
    ReadyRig rig(1);
    rig.supervisor->on_watchdog_interval(1, 1ms);
    rig.turn(20ms);
    CHECK(rig.is(1, State::ready));
}

TEST_CASE("signs: a worker that is drained needs to give no signs of life") {
    ReadyRig rig(watched(20ms));
    rig.effects.busy = {1};
    auto stopped = rig.stop(1);
    rig.turn(50ms);
    CHECK_FALSE(rig.called("kill 1"));
    rig.exits(1);
    CHECK(stopped->ok());
}

TEST_CASE("signs: a worker that says it stops gets no traffic and no signal, and is replaced") {
    ReadyRig rig(1);
    rig.supervisor->on_stopping(1);
    CHECK(rig.active().empty());
    CHECK(rig.is(1, State::draining));
    rig.turn(60ms);
    CHECK_FALSE(rig.called("signal 1 15"));
    rig.exits(1);
    CHECK(rig.until([&] { return rig.called("spawn 2"); }));
}

TEST_CASE(
    "signs: a worker that says it stops and does not gets its signal after the drain's time") {
    Config config = config_of(1);
    config.drain_timeout = 10ms;
    ReadyRig rig(config);
    rig.supervisor->on_stopping(1);
    CHECK(rig.until([&] { return rig.called("signal 1 15"); }));
}

TEST_CASE("signs: the load that a worker reports is in its status") {
    ReadyRig rig(1);
    CHECK_FALSE(rig.worker(1)->load.has_value());
    rig.supervisor->on_load(1, 0.75);
    CHECK(rig.worker(1)->load == 0.75);
}

TEST_CASE("signs: the policy shared cannot be taken or left while the cluster runs") {
    ReadyRig rig(1);
    auto set = rig.ask([&](Done done) { rig.supervisor->policy(Policy::shared, done); });
    CHECK(set->code() == "bad-state");
    CHECK(rig.supervisor->status().policy == "least-busy");
}

TEST_CASE("stall: a worker that takes no connections gets none, and its queue is moved") {
    ReadyRig rig(2);
    rig.supervisor->on_stalled(1, 7);
    CHECK(rig.calls() == "deactivate 1, rescue 1");
    CHECK(rig.worker(1)->flags == std::vector<std::string>{"stalled"});
    CHECK(rig.is(1, State::ready));
    CHECK(std::get<StalledData>(rig.events_of(EventKind::stalled).back().data).queued == 7);
    rig.supervisor->on_rescued(1, uint64_t{7});
    CHECK(std::get<RescuedData>(rig.events_of(EventKind::rescued).back().data).moved == 7);
    rig.supervisor->on_recovered(1);
    CHECK(rig.active() == "1 2");
    CHECK(rig.worker(1)->flags.empty());
    CHECK(rig.events_of(EventKind::recovered).size() == 1);
}

TEST_CASE("stall: as long as connections wait for a stalled worker they are moved, told once") {
    ReadyRig rig(2);
    rig.supervisor->on_stalled(1, 7);
    rig.supervisor->on_rescued(1, fail("not-frozen", "it could not be stopped"));
    rig.supervisor->on_stalled(1, 7);
    rig.supervisor->on_rescued(1, fail("bad-state", "it is being relieved already"));
    CHECK(rig.events_of(EventKind::error).empty());
    rig.supervisor->on_stalled(1, 7);
    CHECK(rig.count("rescue 1") == 3);
    CHECK(rig.events_of(EventKind::stalled).size() == 1);
    rig.supervisor->on_rescued(1, fail("io", "no file can be opened"));
    CHECK(rig.events_of(EventKind::error).size() == 1);
}

TEST_CASE(
    "stall: a worker is relieved once at a time; who asks meanwhile waits for that one's end") {
    ReadyRig rig(2);
    rig.supervisor->on_stalled(1, 7);
    rig.supervisor->on_stalled(1, 7);
    auto asked = rig.ask([&](Done done) { rig.supervisor->rescue(1, std::move(done)); });
    CHECK(rig.count("rescue 1") == 1);
    CHECK_FALSE(asked->ok());
    rig.supervisor->on_rescued(1, uint64_t{7});
    CHECK(asked->ok());
    CHECK(rig.events_of(EventKind::error).empty());
    rig.supervisor->on_stalled(1, 7);
    CHECK(rig.count("rescue 1") == 2);
}

TEST_CASE("stall: the last worker that serves is only reported") {
    ReadyRig rig(2);
    rig.supervisor->on_stalled(1, 1);
    rig.supervisor->on_stalled(2, 1);
    CHECK(rig.calls() == "deactivate 1, rescue 1");
    CHECK(rig.active() == "2");
    CHECK(rig.worker(2)->flags == std::vector<std::string>{"stalled"});
    rig.supervisor->on_recovered(2);
    CHECK(rig.active() == "2");
}

TEST_CASE("stall: a held worker that recovers stays held, one that is resumed stays stalled") {
    ReadyRig rig(3);
    rig.supervisor->on_stalled(1, 1);
    auto drained = rig.drain(1);
    rig.supervisor->on_recovered(1);
    CHECK(rig.active() == "2 3");
    CHECK(rig.until([&] { return drained->ok(); }));
    rig.supervisor->on_stalled(1, 1);
    auto resumed = rig.resume(1);
    CHECK(resumed->ok());
    CHECK(rig.active() == "2 3");
    rig.supervisor->on_recovered(1);
    CHECK(rig.active() == "1 2 3");
}

TEST_CASE("stall: a worker that hangs for --stall-kill is killed and replaced") {
    Config config = config_of(2);
    config.stall_kill = 20ms;
    ReadyRig rig(config);
    rig.supervisor->on_stalled(1, 1);
    CHECK(rig.until([&] { return rig.called("kill 1"); }));
    rig.dies(1);
    CHECK(std::get<ExitData>(rig.events_of(EventKind::exit).back().data).exit.reason ==
          ExitReason::stalled);
    CHECK(rig.until([&] { return rig.called("spawn 3"); }));
}

TEST_CASE("stall: without --stall-kill, or when it recovers in time, nobody is killed") {
    Config config = config_of(2);
    config.stall_kill = 40ms;
    ReadyRig rig(config);
    rig.supervisor->on_stalled(1, 1);
    rig.turn(10ms);
    rig.supervisor->on_recovered(1);
    rig.turn(80ms);
    CHECK_FALSE(rig.called("kill 1"));
    ReadyRig patient(2);
    patient.supervisor->on_stalled(1, 1);
    patient.turn(80ms);
    CHECK_FALSE(patient.called("kill 1"));
}

TEST_CASE("stall: a stalled worker that dies is replaced by one that is not") {
    ReadyRig rig(2);
    rig.supervisor->on_stalled(1, 1);
    rig.dies(1);
    REQUIRE(rig.until([&] { return rig.worker(3).has_value(); }));
    rig.becomes_ready(3);
    CHECK(rig.active() == "2 3");
    CHECK(rig.worker(3)->flags.empty());
}

TEST_CASE("stall: a rescue that is asked for is answered with what became of it") {
    ReadyRig rig(2);
    auto rescued = rig.ask([&](Done done) { rig.supervisor->rescue(1, done); });
    CHECK(rig.called("rescue 1"));
    CHECK_FALSE(rescued->came());
    rig.supervisor->on_rescued(1, uint64_t{0});
    CHECK(rescued->ok());
    CHECK(rig.events_of(EventKind::rescued).empty());  // nothing was moved
    auto refused = rig.ask([&](Done done) { rig.supervisor->rescue(1, done); });
    rig.supervisor->on_rescued(1, fail("not-frozen", "it could not be stopped"));
    CHECK(refused->code() == "not-frozen");
    CHECK(rig.ask([&](Done done) { rig.supervisor->rescue(9, done); })->code() == "no-such-worker");
    auto gone = rig.ask([&](Done done) { rig.supervisor->rescue(1, done); });
    rig.dies(1);
    CHECK(gone->code() == "no-such-worker");
}

TEST_CASE("weight: it is the instance's, whatever worker it has") {
    ReadyRig rig(2);
    auto set = rig.ask([&](Done done) { rig.supervisor->weight(1, 3, done); });
    CHECK(set->ok());
    CHECK(rig.calls() == "weight 1 3");
    CHECK(rig.worker(1)->weight == 3);
    rig.effects.calls.clear();
    rig.dies(1);
    REQUIRE(rig.until([&] { return rig.called("spawn 3"); }));
    CHECK(rig.called("weight 3 3"));
    CHECK(rig.worker(3)->weight == 3);
    CHECK(rig.ask([&](Done done) { rig.supervisor->weight(2, 0, done); })->code() == "bad-value");
    CHECK(rig.ask([&](Done done) { rig.supervisor->weight(2, 101, done); })->code() == "bad-value");
    CHECK(rig.ask([&](Done done) { rig.supervisor->weight(9, 1, done); })->code() ==
          "no-such-worker");
}
