// SPDX-License-Identifier: MIT
//
// Signs of life, on the supervisor's rig: probes, the watchdog, load, "I stop".
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
    CHECK(rig.supervisor->status().policy == "least-conn");
}
