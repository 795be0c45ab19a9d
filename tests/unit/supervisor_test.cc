// SPDX-License-Identifier: MIT
//
// The supervisor's verbs and reactions, on the rig of supervisor_rig.h. Longer than other files for
// the number of its cases.
#include "supervisor_rig.h"

using namespace drover;
using namespace drover::supervisor;
using namespace drover::supervisor::test;
using namespace std::chrono_literals;

// --- Start, readiness -------------------------------------------------------------------

TEST_CASE("supervisor: N workers are started, one for each instance") {
    Rig rig(config_of(3));
    CHECK(rig.calls() == "spawn 1, spawn 2, spawn 3");
    CHECK(rig.effects.living == std::map<WorkerId, int>{{1, 0}, {2, 1}, {3, 2}});
    auto status = rig.supervisor->status();
    CHECK(status.cluster == "web");
    CHECK(status.wanted == 3);
    CHECK(status.ready == 0);
    CHECK(status.state == "degraded");
    CHECK(status.workers[1].pid == 1002);
    CHECK(status.workers[1].slot == 1);
    CHECK(rig.events_of(EventKind::fork).size() == 3);
}

TEST_CASE("supervisor: a worker gets traffic when it listens, not before") {
    Rig rig(config_of(1));
    rig.supervisor->on_exec(1);
    CHECK(rig.is(1, State::online));
    CHECK(rig.active().empty());
    rig.listens(1);
    CHECK(rig.is(1, State::ready));
    CHECK(rig.active() == "1");
    CHECK(rig.supervisor->status().state == "running");
    CHECK(rig.supervisor->status().ready == 1);
    CHECK(rig.story(1) ==
          "fork starting>online online listening online>listening listening>ready "
          "ready");
}

TEST_CASE("supervisor: a listen that is heard of before the exec counts") {
    Rig rig(config_of(1));
    rig.listens(1);
    CHECK(rig.is(1, State::starting));
    CHECK(rig.active().empty());
    rig.supervisor->on_exec(1);
    CHECK(rig.is(1, State::ready));
    CHECK(rig.active() == "1");
}

TEST_CASE("supervisor: a listen that is heard of before the exec may not be enough") {
    Config config = config_of(1);
    config.ports = {{80, ""}, {443, ""}};
    Rig rig(config);
    rig.listens(1);
    rig.supervisor->on_exec(1);
    CHECK(rig.is(1, State::listening));
    rig.listens(1, kHttps);
    CHECK(rig.is(1, State::ready));
}

TEST_CASE("supervisor: with --ready exec a worker is ready when it runs") {
    Config config = config_of(1);
    config.ready = Ready::exec;
    Rig rig(config);
    rig.supervisor->on_exec(1);
    CHECK(rig.is(1, State::ready));
    // And stays it, whatever it does with sockets.
    rig.listens(1);
    rig.supervisor->on_listener_closed(1, kHttp);
    CHECK(rig.is(1, State::ready));
}

TEST_CASE("supervisor: all named ports are needed") {
    Config config = config_of(1);
    config.ports = {{80, ""}, {443, "0.0.0.0"}};
    Rig rig(config);
    rig.supervisor->on_exec(1);
    rig.listens(1, kHttp);
    CHECK(rig.is(1, State::listening));
    CHECK(rig.active().empty());
    rig.listens(1, kHttps);
    CHECK(rig.is(1, State::ready));
}

TEST_CASE("supervisor: where no port is named, all that the ready peers have are needed") {
    Rig rig(config_of(2));
    rig.becomes_ready(1);  // its first port is enough: nobody is ready before it
    CHECK(rig.is(1, State::ready));
    rig.listens(1, kHttps);
    rig.becomes_ready(2);
    CHECK(rig.is(2, State::listening));
    rig.listens(2, kHttps);
    CHECK(rig.is(2, State::ready));
}

TEST_CASE("supervisor: who closes its listener leaves the active set, who listens again is back") {
    ReadyRig rig(2);
    rig.supervisor->on_listener_closed(1, kHttp);
    CHECK(rig.is(1, State::online));
    CHECK(rig.active() == "2");
    rig.listens(1);
    CHECK(rig.is(1, State::ready));
    CHECK(rig.active() == "1 2");
}

TEST_CASE("supervisor: a second listener on a port is trouble") {
    ReadyRig rig(1);
    rig.supervisor->on_listening(1, kHttp, true);
    auto errors = rig.events_of(EventKind::error);
    REQUIRE(errors.size() == 1);
    CHECK(std::get<ErrorData>(errors[0].data).code == "extra-listener");
    CHECK(rig.is(1, State::ready));
    // Told once, when none of them is left.
    rig.supervisor->on_listener_closed(1, kHttp);
    CHECK(rig.is(1, State::online));
}

TEST_CASE("supervisor: a worker that closes one of its ports goes on with the others") {
    ReadyRig rig(1);
    rig.listens(1, kHttps);
    rig.supervisor->on_listener_closed(1, kHttp);
    CHECK(rig.is(1, State::ready));
    rig.supervisor->on_listener_closed(1, kHttps);
    CHECK(rig.is(1, State::online));
}

TEST_CASE("supervisor: a worker that is not ready in time is ended and tried again") {
    Config config = config_of(1);
    config.ready_timeout = Duration{20};
    Rig rig(config);
    rig.supervisor->on_exec(1);
    CHECK(rig.until([&] { return rig.is(1, State::draining); }));
    CHECK(rig.called("signal 1 15"));
    rig.listens(1);  // too late
    CHECK(rig.active().empty());
    rig.exits(1);
    CHECK(rig.is(1, State::backoff));
    auto exit = std::get<ExitData>(rig.events_of(EventKind::exit).at(0).data).exit;
    CHECK(exit.reason == ExitReason::timeout);
    CHECK(rig.worker(1)->reason->find("not ready within 20 ms") != std::string::npos);
    CHECK(rig.until([&] { return rig.called("spawn 2"); }));
}

TEST_CASE("supervisor: a worker that is ready in time is left alone") {
    Config config = config_of(1);
    config.ready_timeout = Duration{20};
    ReadyRig rig(config);
    rig.turn(50ms);
    CHECK(rig.is(1, State::ready));
}

TEST_CASE("supervisor: with on-failure a worker that was late is tried again, even if it exits 0") {
    Config config = config_of(1);
    config.restart = Restart::on_failure;
    config.ready_timeout = Duration{20};
    Rig rig(config);
    rig.supervisor->on_exec(1);
    REQUIRE(rig.until([&] { return rig.is(1, State::draining); }));
    rig.exits(1, 0);
    CHECK(rig.is(1, State::backoff));
}

TEST_CASE("supervisor: a worker that is stopped while it starts is not also late") {
    Config config = config_of(1);
    config.ready_timeout = Duration{20};
    Rig rig(config);
    rig.stop(1);
    rig.turn(50ms);
    rig.exits(1, 1);
    CHECK(rig.is(1, State::stopped));
    auto exit = std::get<ExitData>(rig.events_of(EventKind::exit).at(0).data).exit;
    CHECK(exit.reason == ExitReason::stopped);
    CHECK(rig.count("signal 1 15") == 1);
}

TEST_CASE("supervisor: a worker that listens no more for too long is ended and replaced") {
    Config config = config_of(1);
    config.ready_timeout = Duration{20};
    ReadyRig rig(config);
    rig.supervisor->on_listener_closed(1, kHttp);
    CHECK(rig.until([&] { return rig.called("signal 1 15"); }));
    CHECK(rig.is(1, State::draining));
    rig.exits(1);
    CHECK(rig.until([&] { return rig.called("spawn 2"); }));
}

// --- Exits ------------------------------------------------------------------------------

TEST_CASE("supervisor: a worker that served for a second and died is replaced at once") {
    ReadyRig rig(2);
    rig.turn(1020ms);  // the one long wait: what "served" means
    rig.dies(1);
    CHECK(rig.calls() == "deactivate 1, release 1, spawn 3");
    CHECK(rig.effects.living == std::map<WorkerId, int>{{2, 1}, {3, 0}});
    rig.becomes_ready(3);
    CHECK(rig.active() == "2 3");
    auto worker = rig.worker(3);
    REQUIRE(worker);
    CHECK(worker->instance == 0);
    CHECK(worker->restarts_total == 1);
    REQUIRE(worker->last_exit);
    CHECK(worker->last_exit->signal == "KILL");
    CHECK(worker->last_exit->reason == ExitReason::crash);
    CHECK_FALSE(rig.worker(1));
}

TEST_CASE("supervisor: a failed start waits, then is tried again with a new id") {
    Rig rig(config_of(2));
    rig.becomes_ready(2);
    rig.exits(1, 3);
    auto waiting = rig.worker(1);
    REQUIRE(waiting);
    CHECK(waiting->state == State::backoff);
    CHECK(waiting->retry_at);
    CHECK_FALSE(waiting->pid);
    CHECK_FALSE(waiting->slot);
    CHECK(*waiting->reason == "exit status 3");
    CHECK(rig.called("release 1"));
    CHECK_FALSE(rig.called("spawn 3"));
    CHECK(rig.until([&] { return rig.called("spawn 3"); }));
    CHECK(rig.effects.living == std::map<WorkerId, int>{{2, 1}, {3, 0}});
    CHECK(rig.worker(3)->restarts_total == 1);
    CHECK_FALSE(rig.worker(1));
}

TEST_CASE("supervisor: after too many failed starts the instance has failed, the cluster goes on") {
    Config config = config_of(2);
    config.max_restarts = {2, Duration{60'000}};
    Rig rig(config);
    rig.becomes_ready(2);
    rig.exits(1, 1);
    REQUIRE(rig.until([&] { return rig.called("spawn 3"); }));
    rig.exits(3, 1);
    CHECK(rig.is(3, State::failed));
    auto limits = rig.events_of(EventKind::restart_limit);
    REQUIRE(limits.size() == 1);
    CHECK(limits[0].worker->id == 3);
    CHECK(std::get<RestartLimitData>(limits[0].data).restarts == 2);
    CHECK(std::get<RestartLimitData>(limits[0].data).within == 60'000ms);
    CHECK(rig.over.empty());
    CHECK(rig.supervisor->status().state == "degraded");
    rig.turn(20ms);
    CHECK_FALSE(rig.called("spawn 4"));
}

TEST_CASE("supervisor: where the last instance has failed the cluster is over with status 1") {
    Config config = config_of(2);
    config.max_restarts = {1, Duration{60'000}};
    Rig rig(config);
    rig.exits(1, 1);
    CHECK(rig.over.empty());
    rig.effects.releases_are_done = false;
    rig.exits(2, 1);
    rig.turn();
    CHECK(rig.over.empty());  // not before all is cleaned up
    rig.effects.releases_are_done = true;
    rig.supervisor->on_released();
    CHECK(rig.over == std::vector{1});
}

TEST_CASE("supervisor: a program that cannot be run fails at once, with the reason") {
    Config config = config_of(1);
    Rig rig(config);
    rig.supervisor->on_exec_failed(1, Error{"exec", "no such command: servre", 2});
    rig.exits(1, 127);
    CHECK(rig.is(1, State::failed));
    CHECK(*rig.worker(1)->reason == "no such command: servre");
    CHECK(std::get<ExitData>(rig.events_of(EventKind::exit).at(0).data).exit.reason ==
          ExitReason::exec);
    CHECK(std::get<ErrorData>(rig.events_of(EventKind::error).at(0).data).code == "exec");
    CHECK(rig.over == std::vector{1});
}

TEST_CASE("supervisor: a program for which there was no memory just now is tried again") {
    Rig rig(config_of(1));
    rig.supervisor->on_exec_failed(1, Error{"exec", "cannot execute server", ENOMEM});
    rig.exits(1, 127);
    CHECK(rig.is(1, State::backoff));
    CHECK(*rig.worker(1)->reason == "cannot execute server");
    CHECK(rig.over.empty());
}

TEST_CASE("supervisor: a program that ran before and cannot be run now is tried again") {
    ReadyRig rig(1);
    rig.dies(1);
    REQUIRE(rig.until([&] { return rig.called("spawn 2"); }));
    rig.supervisor->on_exec_failed(2, Error{"exec", "text file busy", 26});
    rig.exits(2, 127);
    CHECK(rig.is(2, State::backoff));
    CHECK(rig.over.empty());
}

TEST_CASE("supervisor: a process that cannot be made is a failed start") {
    ReadyRig rig(2);
    rig.effects.spawn_error = Error{"system", "fork: out of memory", 12};
    rig.dies(1);
    REQUIRE(rig.until([&] { return rig.called("spawn 3"); }));
    CHECK(rig.is(3, State::backoff));
    CHECK(std::get<ErrorData>(rig.events_of(EventKind::error).at(0).data).text ==
          "fork: out of memory");
    rig.effects.spawn_error.reset();
    CHECK(rig.until([&] { return rig.called("spawn 4"); }));
    rig.becomes_ready(4);
    CHECK(rig.is(4, State::ready));
}

TEST_CASE("supervisor: --restart never leaves the exited worker visible and ends with the last") {
    Config config = config_of(2);
    config.restart = Restart::never;
    ReadyRig rig(config);
    rig.exits(1, 0);
    CHECK(rig.is(1, State::stopped));
    CHECK(*rig.worker(1)->reason == "exit status 0");
    CHECK(rig.over.empty());
    // The cluster's exit status is good only where every worker's was.
    SUBCASE("all well") {
        rig.exits(2, 0);
        CHECK(rig.over == std::vector{0});
    }
    SUBCASE("one not") {
        rig.exits(2, 3);
        CHECK(rig.over == std::vector{1});
    }
}

TEST_CASE("supervisor: a worker whose port is taken is killed, and the instance has failed") {
    Rig rig(config_of(1));
    rig.supervisor->on_exec(1);
    ConflictData conflict{80, 77, "nginx", "port 80 is taken: pid 77 (\"nginx\")"};
    rig.supervisor->on_conflict(1, conflict);
    rig.supervisor->on_conflict(1, conflict);  // IPv6 too: said once
    CHECK(rig.count("kill 1") == 1);
    CHECK(rig.events_of(EventKind::conflict).size() == 1);
    rig.dies(1);
    CHECK(rig.is(1, State::failed));
    CHECK(*rig.worker(1)->reason == conflict.text);
    CHECK(rig.over == std::vector{1});
}

TEST_CASE("supervisor: a worker whose port could not be had just now is killed and tried again") {
    Rig rig(config_of(1));
    rig.supervisor->on_exec(1);
    ConflictData nobody{80, 0, "", "cannot lock port 80: too many open files", /*may_pass=*/true};
    rig.supervisor->on_conflict(1, nobody);
    CHECK(rig.count("kill 1") == 1);
    CHECK(rig.events_of(EventKind::conflict).empty());
    CHECK(std::get<ErrorData>(rig.events_of(EventKind::error).at(0).data).text == nobody.text);
    rig.dies(1);
    CHECK(rig.is(1, State::backoff));
    CHECK(*rig.worker(1)->reason == nobody.text);
}

TEST_CASE("supervisor: the conflict is the reason, in whatever order the news come") {
    Rig rig(config_of(1));
    ConflictData conflict{80, 77, "nginx", "port 80 is taken: pid 77 (\"nginx\")"};
    rig.supervisor->on_conflict(1, conflict);
    rig.supervisor->on_exec(1);
    rig.dies(1);
    CHECK(rig.is(1, State::failed));
    CHECK(*rig.worker(1)->reason == conflict.text);
}

TEST_CASE("supervisor: a worker whose port is taken gets no traffic on its other ports") {
    Rig rig(config_of(1));
    rig.supervisor->on_exec(1);
    rig.supervisor->on_conflict(1, {80, 77, "nginx", "port 80 is taken"});
    rig.listens(1, kHttps);  // heard of before its death is
    CHECK(rig.active().empty());
    rig.dies(1);
    CHECK(rig.is(1, State::failed));
}

TEST_CASE("supervisor: news of a worker that is gone are ignored") {
    ReadyRig rig(1);
    auto before = rig.events.size();
    rig.supervisor->on_exec(99);
    rig.supervisor->on_exec_failed(99, {"exec", "x"});
    rig.listens(99);
    rig.supervisor->on_listener_closed(99, kHttp);
    rig.supervisor->on_conflict(99, {});
    rig.exits(99);
    CHECK(rig.events.size() == before);
    CHECK(rig.ids() == "1");
}

// --- Stop -------------------------------------------------------------------------------

TEST_CASE("supervisor: stop drains, then signals, then the cluster is over with status 0") {
    ReadyRig rig(2);
    rig.effects.busy = {1, 2};
    auto stopped = rig.stop();
    CHECK(rig.calls() == "refuse, deactivate 1, deactivate 2");
    CHECK(rig.supervisor->status().state == "stopping");
    rig.turn(50ms);
    CHECK(rig.is(1, State::draining));
    CHECK_FALSE(rig.called("signal 1 15"));
    rig.effects.busy = {2};
    CHECK(rig.until([&] { return rig.called("signal 1 15"); }));
    CHECK_FALSE(rig.called("signal 2 15"));
    rig.exits(1);
    CHECK_FALSE(rig.worker(1));
    CHECK(stopped->count == 0);
    rig.effects.busy = {};
    CHECK(rig.until([&] { return rig.called("signal 2 15"); }));
    rig.exits(2);
    CHECK(rig.until([&] { return stopped->ok(); }));
    CHECK(rig.over == std::vector{0});
    CHECK(rig.count("signal 1 15") == 1);
    CHECK_FALSE(rig.called("kill 1"));
    CHECK(std::get<ExitData>(rig.events_of(EventKind::exit).at(0).data).exit.reason ==
          ExitReason::stopped);
}

TEST_CASE("supervisor: the stop signal is the configured one") {
    Config config = config_of(1);
    config.stop_signal = SIGQUIT;
    ReadyRig rig(config);
    rig.stop();
    CHECK(rig.until([&] { return rig.called("signal 1 3"); }));
}

TEST_CASE("supervisor: a drain that takes too long ends with the signal") {
    Config config = config_of(1);
    config.drain_timeout = Duration{20};
    ReadyRig rig(config);
    rig.effects.busy = {1};
    rig.stop();
    CHECK(rig.until([&] { return rig.called("signal 1 15"); }));
    rig.turn(50ms);
    CHECK(rig.count("signal 1 15") == 1);
    CHECK_FALSE(rig.called("kill 1"));
}

TEST_CASE("supervisor: a worker that ignores its stop signal is killed") {
    Config config = config_of(1);
    config.stop_timeout = Duration{20};
    ReadyRig rig(config);
    auto stopped = rig.stop();
    CHECK(rig.until([&] { return rig.called("kill 1"); }));
    CHECK(rig.called("signal 1 15"));
    CHECK(rig.over.empty());
    rig.dies(1);
    CHECK(rig.until([&] { return stopped->ok(); }));
    CHECK(rig.over == std::vector{0});
}

TEST_CASE("supervisor: stop waits until all is cleaned up") {
    ReadyRig rig(1);
    auto stopped = rig.stop();
    REQUIRE(rig.until([&] { return rig.called("signal 1 15"); }));
    rig.effects.releases_are_done = false;
    rig.exits(1);
    rig.turn();
    CHECK(stopped->count == 0);
    CHECK(rig.over.empty());
    rig.effects.releases_are_done = true;
    rig.supervisor->on_released();
    CHECK(stopped->ok());
    CHECK(rig.over == std::vector{0});
}

TEST_CASE("supervisor: a crash while the cluster stops starts nobody") {
    ReadyRig rig(2);
    rig.effects.busy = {1, 2};
    rig.stop();
    rig.dies(1);
    rig.turn(120ms);
    CHECK_FALSE(rig.called("spawn 3"));
}

TEST_CASE("supervisor: stop ends workers that start, wait or have failed") {
    Config config = config_of(3);
    config.max_restarts = {2, Duration{60'000}};
    Rig rig(config);
    rig.exits(1, 1);
    rig.supervisor->on_conflict(2, {80, 1, "init", "port 80 is taken"});
    rig.dies(2);
    REQUIRE(rig.is(1, State::backoff));
    REQUIRE(rig.is(2, State::failed));
    REQUIRE(rig.is(3, State::starting));
    auto stopped = rig.stop();
    CHECK(rig.called("signal 3 15"));
    rig.dies(3);
    CHECK(rig.until([&] { return stopped->ok(); }));
    CHECK(rig.over == std::vector{0});
    rig.turn(120ms);
    CHECK_FALSE(rig.called("spawn 4"));
}

TEST_CASE("supervisor: a worker that does not live can be neither asked nor relieved") {
    Rig rig(config_of(2));
    rig.exits(1, 1);
    REQUIRE(rig.is(1, State::backoff));
    std::string asked, relieved;
    rig.supervisor->probe(1, "/",
                          [&](auto told) { asked = told ? "answered" : told.error().text; });
    CHECK(asked == "worker 1 is backoff: nobody answers");
    rig.supervisor->rescue(1, [&](auto told) { relieved = told ? "done" : told.error().text; });
    CHECK(relieved == "worker 1 is backoff: nothing waits for it");
}

TEST_CASE("supervisor: stop twice is answered twice, and over once") {
    ReadyRig rig(1);
    auto first = rig.stop();
    auto second = rig.stop();
    REQUIRE(rig.until([&] { return rig.called("signal 1 15"); }));
    rig.exits(1);
    CHECK(rig.until([&] { return first->ok() && second->ok(); }));
    auto third = rig.stop();  // when it is over already
    CHECK(rig.until([&] { return third->ok(); }));
    CHECK(rig.over == std::vector{0});
    CHECK(rig.count("signal 1 15") == 1);
}

TEST_CASE("supervisor: stop_now during a drain kills") {
    ReadyRig rig(2);
    rig.effects.busy = {1, 2};
    auto stopped = rig.stop();
    rig.supervisor->stop_now();
    CHECK(rig.called("kill 1"));
    CHECK(rig.called("kill 2"));
    rig.dies(1);
    rig.dies(2);
    CHECK(rig.until([&] { return stopped->ok(); }));
    CHECK(rig.over == std::vector{0});
}

TEST_CASE("supervisor: stop_now after the stop signal kills") {
    ReadyRig rig(1);
    rig.stop();
    REQUIRE(rig.until([&] { return rig.called("signal 1 15"); }));
    rig.supervisor->stop_now();
    CHECK(rig.called("kill 1"));
    rig.dies(1);
    CHECK(rig.over == std::vector{0});
}

TEST_CASE("supervisor: stop_now while the cluster waits for a retry ends it") {
    Rig rig(config_of(1));
    rig.exits(1, 1);
    rig.stop();
    rig.supervisor->stop_now();
    CHECK(rig.over == std::vector{0});
}

TEST_CASE("supervisor: one worker stopped by hand stays down and visible, the cluster lives") {
    ReadyRig rig(1);
    auto stopped = rig.stop(1);
    CHECK(rig.active().empty());
    CHECK_FALSE(rig.called("refuse"));
    REQUIRE(rig.until([&] { return rig.called("signal 1 15"); }));
    CHECK(stopped->count == 0);
    rig.exits(1);
    CHECK(rig.until([&] { return stopped->ok(); }));
    CHECK(rig.is(1, State::stopped));
    rig.turn(120ms);
    CHECK(rig.effects.last_id == 1);
    CHECK(rig.over.empty());

    auto restarted = rig.restart(1);
    CHECK(rig.called("spawn 2"));
    CHECK(rig.ids() == "2");
    rig.becomes_ready(2);
    CHECK(rig.until([&] { return restarted->ok(); }));
    CHECK(rig.worker(2)->instance == 0);
}

TEST_CASE("supervisor: a worker that is stopped by hand while it waits for a retry stays down") {
    Rig rig(config_of(1));
    rig.exits(1, 1);
    REQUIRE(rig.is(1, State::backoff));
    auto stopped = rig.stop(1);
    CHECK(stopped->ok());
    CHECK(rig.is(1, State::stopped));
    rig.turn(150ms);
    CHECK_FALSE(rig.called("spawn 2"));
    CHECK(rig.is(1, State::stopped));
    CHECK(rig.over.empty());
}

// --- Restart ----------------------------------------------------------------------------

TEST_CASE("supervisor: restart replaces one after the other") {
    ReadyRig rig(2);
    auto restarted = rig.restart();
    CHECK(rig.active() == "2");
    REQUIRE(rig.until([&] { return rig.called("signal 1 15"); }));
    rig.exits(1);
    CHECK(rig.called("spawn 3"));
    rig.turn();
    CHECK(rig.is(2, State::ready));  // the next one only when this one is ready
    rig.becomes_ready(3);
    CHECK(rig.until([&] { return rig.is(2, State::draining); }));
    CHECK(rig.active() == "3");
    CHECK(restarted->count == 0);
    REQUIRE(rig.until([&] { return rig.called("signal 2 15"); }));
    rig.exits(2);
    rig.turn();
    CHECK(restarted->count == 0);
    rig.becomes_ready(4);
    CHECK(rig.until([&] { return restarted->ok(); }));
    CHECK(rig.active() == "3 4");
    CHECK(rig.worker(3)->instance == 0);
    CHECK(rig.worker(4)->instance == 1);
    CHECK(rig.worker(3)->restarts_total == 0);  // asked for, not forced upon us
    CHECK(rig.ids() == "3 4");
}

TEST_CASE("supervisor: restart of one worker leaves the others alone") {
    ReadyRig rig(2);
    auto restarted = rig.restart(2);
    REQUIRE(rig.until([&] { return rig.called("signal 2 15"); }));
    rig.exits(2);
    rig.becomes_ready(3);
    CHECK(rig.until([&] { return restarted->ok(); }));
    CHECK(rig.ids() == "1 3");
    CHECK(rig.active() == "1 3");
}

TEST_CASE("supervisor: restart brings a failed instance back, its failures forgotten") {
    Config config = config_of(2);
    config.max_restarts = {2, Duration{60'000}};
    Rig rig(config);
    rig.becomes_ready(2);
    rig.exits(1, 1);
    REQUIRE(rig.until([&] { return rig.called("spawn 3"); }));
    rig.exits(3, 1);
    REQUIRE(rig.is(3, State::failed));
    auto restarted = rig.restart(3);
    CHECK(rig.called("spawn 4"));
    rig.exits(4, 1);
    CHECK(rig.is(4, State::backoff));  // not failed at once
    REQUIRE(rig.until([&] { return rig.called("spawn 5"); }));
    rig.becomes_ready(5);
    CHECK(rig.until([&] { return restarted->ok(); }));
    CHECK(rig.ids() == "2 5");
}

TEST_CASE("supervisor: restart of an instance that waits for its retry starts it now, and once") {
    Rig rig(config_of(2));
    rig.becomes_ready(2);
    rig.exits(1, 1);
    auto restarted = rig.restart(1);
    CHECK(rig.called("spawn 3"));
    rig.becomes_ready(3);
    CHECK(rig.until([&] { return restarted->ok(); }));
    rig.turn(150ms);
    CHECK(rig.effects.last_id == 3);
}

TEST_CASE("supervisor: a restart whose new worker fails says why, and goes on with the others") {
    Config config = config_of(2);
    config.max_restarts = {1, Duration{60'000}};
    ReadyRig rig(config);
    auto restarted = rig.restart();
    REQUIRE(rig.until([&] { return rig.called("signal 1 15"); }));
    rig.exits(1);
    rig.exits(3, 9);
    CHECK(rig.is(3, State::failed));
    REQUIRE(rig.until([&] { return rig.called("signal 2 15"); }));
    rig.exits(2);
    rig.becomes_ready(4);
    CHECK(rig.until([&] { return restarted->came(); }));
    CHECK(restarted->code() == "not-ready");
    CHECK(restarted->result.error().text.find("exit status 9") != std::string::npos);
}

TEST_CASE("supervisor: a restart that leaves nobody is answered, and the cluster is over") {
    Config config = config_of(1);
    config.max_restarts = {1, Duration{60'000}};
    ReadyRig rig(config);
    auto restarted = rig.restart();
    REQUIRE(rig.until([&] { return rig.called("signal 1 15"); }));
    rig.exits(1);
    CHECK(rig.over.empty());
    rig.exits(2, 9);
    CHECK(rig.until([&] { return restarted->code() == "not-ready"; }));
    CHECK(rig.over == std::vector{1});
}

TEST_CASE("supervisor: restart replaces with --restart never too") {
    Config config = config_of(1);
    config.restart = Restart::never;
    ReadyRig rig(config);
    auto restarted = rig.restart();
    REQUIRE(rig.until([&] { return rig.called("signal 1 15"); }));
    rig.exits(1);
    CHECK(rig.over.empty());
    rig.becomes_ready(2);
    CHECK(rig.until([&] { return restarted->ok(); }));
}

TEST_CASE(
    "supervisor: restart while a restart runs is answered, and nobody is started twice at once") {
    ReadyRig rig(2);
    auto first = rig.restart();
    auto second = rig.restart();
    for (int i = 0; i < 12 && !(first->came() && second->came()); i++) {
        rig.turn(30ms);
        for (const auto& worker : rig.supervisor->status().workers) {
            if (worker.state == State::starting) rig.becomes_ready(worker.id);
            if (worker.state == State::draining) rig.exits(worker.id);
        }
    }
    CHECK(first->ok());
    CHECK(second->ok());
    CHECK(rig.supervisor->status().ready == 2);
}

TEST_CASE("supervisor: a restart that is undone by a stop of the worker is answered") {
    ReadyRig rig(2);
    rig.effects.busy = {1};
    auto restarted = rig.restart(1);
    auto stopped = rig.stop(1);
    rig.effects.busy = {};
    REQUIRE(rig.until([&] { return rig.called("signal 1 15"); }));
    rig.exits(1);
    CHECK(rig.until([&] { return stopped->ok(); }));
    rig.turn(50ms);
    CHECK(rig.is(1, State::stopped));
    CHECK(restarted->code() == "not-ready");
}

TEST_CASE("supervisor: a stop of the cluster answers a restart that is under way") {
    ReadyRig rig(2);
    auto restarted = rig.restart();
    auto stopped = rig.stop();
    REQUIRE(rig.until([&] { return rig.called("signal 1 15") && rig.called("signal 2 15"); }));
    rig.exits(1);
    rig.exits(2);
    CHECK(rig.until([&] { return stopped->ok() && restarted->came(); }));
    CHECK(restarted->code() == "not-ready");
    CHECK(rig.effects.last_id == 2);
    CHECK(rig.over == std::vector{0});
}

// --- Scale ------------------------------------------------------------------------------

TEST_CASE("supervisor: scale up starts more and is done when they are ready") {
    ReadyRig rig(1);
    auto scaled = rig.scale(3);
    CHECK(rig.calls() == "spawn 2, spawn 3");
    CHECK(rig.supervisor->status().wanted == 3);
    rig.becomes_ready(2);
    rig.turn();
    CHECK(scaled->count == 0);
    rig.becomes_ready(3);
    CHECK(rig.until([&] { return scaled->ok(); }));
    auto events = rig.events_of(EventKind::scaled);
    REQUIRE(events.size() == 1);
    CHECK(std::get<ScaledData>(events[0].data).from == 1);
    CHECK(std::get<ScaledData>(events[0].data).to == 3);
    CHECK(rig.worker(3)->instance == 2);
}

TEST_CASE("supervisor: a scale whose new worker fails is answered") {
    Config config = config_of(1);
    config.max_restarts = {1, Duration{60'000}};
    ReadyRig rig(config);
    auto scaled = rig.scale(2);
    rig.exits(2, 9);
    CHECK(rig.is(2, State::failed));
    CHECK(rig.until([&] { return scaled->came(); }));
    CHECK(rig.over.empty());
}

TEST_CASE("supervisor: scale down drains the highest instances and is done when they are gone") {
    ReadyRig rig(3);
    rig.effects.busy = {2, 3};
    auto scaled = rig.scale(1);
    CHECK(rig.active() == "1");
    CHECK(rig.supervisor->status().wanted == 1);
    rig.effects.busy = {};
    REQUIRE(rig.until([&] { return rig.called("signal 2 15") && rig.called("signal 3 15"); }));
    rig.exits(3);
    rig.turn();
    CHECK(scaled->count == 0);
    rig.exits(2);
    CHECK(rig.until([&] { return scaled->ok(); }));
    CHECK(rig.ids() == "1");
    CHECK(rig.supervisor->status().state == "running");
}

TEST_CASE("supervisor: scale to what it is answers at once and reports nothing") {
    ReadyRig rig(2);
    CHECK(rig.scale(2)->ok());
    CHECK(rig.events_of(EventKind::scaled).empty());
    CHECK(rig.calls().empty());
}

TEST_CASE("supervisor: scale out of bounds is refused") {
    ReadyRig rig(1);
    CHECK(rig.scale(0)->code() == "bad-value");
    CHECK(rig.scale(-1)->code() == "bad-value");
    CHECK(rig.scale(257)->code() == "bad-value");
    CHECK(rig.supervisor->status().wanted == 1);
}

TEST_CASE("supervisor: scale down while the worker starts") {
    ReadyRig rig(1);
    auto up = rig.scale(2);
    auto down = rig.scale(1);
    CHECK(rig.called("signal 2 15"));
    rig.supervisor->on_exec(2);
    rig.listens(2);
    CHECK(rig.active() == "1");
    rig.dies(2);
    CHECK(rig.until([&] { return down->ok() && up->came(); }));
    CHECK(rig.ids() == "1");
    rig.turn(120ms);
    CHECK(rig.effects.last_id == 2);
}

TEST_CASE("supervisor: scale down while the worker waits for a retry") {
    ReadyRig rig(2);
    rig.dies(2);
    REQUIRE(rig.is(2, State::backoff));
    auto down = rig.scale(1);
    CHECK(rig.until([&] { return down->ok(); }));
    CHECK(rig.ids() == "1");
    rig.turn(150ms);
    CHECK(rig.effects.last_id == 2);
}

TEST_CASE("supervisor: scale down while the worker is being restarted") {
    ReadyRig rig(2);
    rig.effects.busy = {2};
    auto restarted = rig.restart(2);
    auto down = rig.scale(1);
    rig.effects.busy = {};
    REQUIRE(rig.until([&] { return rig.called("signal 2 15"); }));
    rig.exits(2);
    CHECK(rig.until([&] { return down->ok() && restarted->came(); }));
    CHECK(restarted->code() == "not-ready");
    CHECK(rig.ids() == "1");
    CHECK(rig.effects.last_id == 2);
}

TEST_CASE("supervisor: scale down takes an instance out of a restart that has not come to it") {
    ReadyRig rig(2);
    rig.effects.busy = {1, 2};
    auto restarted = rig.restart();
    auto down = rig.scale(1);
    rig.effects.busy = {};
    REQUIRE(rig.until([&] { return rig.called("signal 1 15") && rig.called("signal 2 15"); }));
    rig.exits(2);
    rig.exits(1);
    rig.becomes_ready(3);
    CHECK(rig.until([&] { return down->ok() && restarted->came(); }));
    CHECK(rig.ids() == "3");
}

// DEFECT: the restart makes the instance anew (instances_[instance] in Supervisor::restart).
TEST_CASE("supervisor: a worker that is being scaled away cannot be restarted") {
    ReadyRig rig(3);
    rig.effects.busy = {2, 3};
    auto down = rig.scale(1);
    auto restarted = rig.restart(3);
    CHECK(rig.supervisor->status().wanted == 1);
    CHECK(restarted->came());
    CHECK_FALSE(restarted->ok());
    rig.effects.busy = {};
    REQUIRE(rig.until([&] { return rig.called("signal 2 15") && rig.called("signal 3 15"); }));
    rig.exits(2);
    rig.exits(3);
    CHECK(rig.until([&] { return down->ok(); }));
    CHECK(rig.ids() == "1");
    CHECK(rig.effects.last_id == 3);
}

TEST_CASE("supervisor: scale up again while the scaled-down worker still drains") {
    ReadyRig rig(2);
    rig.effects.busy = {2};
    rig.effects.may_overlap = true;
    auto down = rig.scale(1);
    auto up = rig.scale(2);
    rig.effects.busy = {};
    REQUIRE(rig.until([&] { return rig.called("signal 2 15"); }));
    if (rig.effects.last_id == 2) rig.exits(2);
    REQUIRE(rig.until([&] { return rig.called("spawn 3"); }));
    if (rig.worker(2)) rig.exits(2);
    rig.becomes_ready(3);
    CHECK(rig.until([&] { return up->ok() && down->came(); }));
    CHECK(rig.ids() == "1 3");
    CHECK(rig.active() == "1 3");
    CHECK(rig.worker(3)->instance == 1);
}

TEST_CASE("supervisor: scale during a restart, both are answered") {
    ReadyRig rig(2);
    auto restarted = rig.restart();
    auto scaled = rig.scale(3);
    rig.becomes_ready(3);
    REQUIRE(rig.until([&] { return rig.called("signal 1 15"); }));
    rig.exits(1);
    rig.becomes_ready(4);
    REQUIRE(rig.until([&] { return rig.called("signal 2 15"); }));
    rig.exits(2);
    rig.becomes_ready(5);
    CHECK(rig.until([&] { return restarted->ok() && scaled->ok(); }));
    CHECK(rig.ids() == "3 4 5");
    CHECK(rig.active() == "3 4 5");
}

TEST_CASE("supervisor: a stop of the cluster answers a scale that is under way") {
    ReadyRig rig(1);
    auto scaled = rig.scale(3);
    auto stopped = rig.stop();
    REQUIRE(rig.until([&] { return rig.called("signal 1 15"); }));
    for (WorkerId id : {1, 2, 3}) rig.dies(id);
    CHECK(rig.until([&] { return stopped->ok() && scaled->came(); }));
}

TEST_CASE("supervisor: while the cluster stops, scale and restart are refused") {
    ReadyRig rig(1);
    rig.stop();
    CHECK(rig.scale(2)->code() == "bad-state");
    CHECK(rig.restart()->code() == "bad-state");
    CHECK(rig.effects.last_id == 1);
}

TEST_CASE("supervisor: new workers are told how many there are") {
    ReadyRig rig(1);
    rig.scale(4);
    CHECK(rig.effects.spawned_with_workers == 4);
}

// --- Drain by hand, resume, signal, policy ----------------------------------------------

TEST_CASE("supervisor: a held worker gets no new connections, and is not ended") {
    ReadyRig rig(2);
    rig.effects.busy = {1};
    auto drained = rig.drain(1);
    CHECK(rig.active() == "2");
    CHECK(rig.is(1, State::ready));
    CHECK(rig.worker(1)->flags == std::vector<std::string>{"held"});
    rig.turn(50ms);
    CHECK(drained->count == 0);
    rig.effects.busy = {};
    CHECK(rig.until([&] { return drained->ok(); }));
    rig.turn(50ms);
    CHECK(rig.calls() == "deactivate 1");

    CHECK(rig.resume(1)->ok());
    CHECK(rig.active() == "1 2");
    CHECK(rig.worker(1)->flags.empty());
}

TEST_CASE("supervisor: resume ends the waiting of a drain") {
    ReadyRig rig(1);
    rig.effects.busy = {1};
    auto drained = rig.drain(1);
    CHECK(rig.resume(1)->ok());
    CHECK(rig.until([&] { return drained->came(); }));
    CHECK(rig.active() == "1");
}

TEST_CASE("supervisor: a worker that is held before it is ready waits for resume") {
    Rig rig(config_of(1));
    auto drained = rig.drain(1);
    CHECK(rig.until([&] { return drained->ok(); }));
    rig.becomes_ready(1);
    CHECK(rig.is(1, State::ready));
    CHECK(rig.active().empty());
    CHECK(rig.resume(1)->ok());
    CHECK(rig.active() == "1");
}

TEST_CASE("supervisor: resume of a worker that is not ready does not activate it") {
    Rig rig(config_of(1));
    rig.drain(1);
    CHECK(rig.resume(1)->ok());
    CHECK(rig.active().empty());
    rig.becomes_ready(1);
    CHECK(rig.active() == "1");
}

TEST_CASE("supervisor: a held worker that listens anew stays held") {
    ReadyRig rig(2);
    rig.drain(1);
    rig.supervisor->on_listener_closed(1, kHttp);
    rig.listens(1);
    CHECK(rig.is(1, State::ready));
    CHECK(rig.active() == "2");
}

TEST_CASE("supervisor: a held worker that dies answers its drain; its replacement is not held") {
    ReadyRig rig(2);
    rig.effects.busy = {1};
    auto drained = rig.drain(1);
    rig.effects.busy = {};
    rig.dies(1);
    CHECK(rig.until([&] { return drained->came(); }));
    REQUIRE(rig.until([&] { return rig.called("spawn 3"); }));
    rig.becomes_ready(3);
    CHECK(rig.active() == "2 3");
}

TEST_CASE("supervisor: a held worker can be stopped and restarted") {
    ReadyRig rig(2);
    rig.drain(1);
    auto restarted = rig.restart(1);
    REQUIRE(rig.until([&] { return rig.called("signal 1 15"); }));
    rig.exits(1);
    rig.becomes_ready(3);
    CHECK(rig.until([&] { return restarted->ok(); }));
    CHECK(rig.active() == "2 3");
    CHECK(rig.worker(3)->flags.empty());
}

TEST_CASE("supervisor: a stop of the cluster answers a drain that is under way") {
    ReadyRig rig(1);
    rig.effects.busy = {1};
    auto drained = rig.drain(1);
    auto stopped = rig.stop();
    rig.effects.busy = {};
    REQUIRE(rig.until([&] { return rig.called("signal 1 15"); }));
    rig.exits(1);
    CHECK(rig.until([&] { return drained->came() && stopped->ok(); }));
}

TEST_CASE("supervisor: only what runs can be drained, only what is held resumed") {
    Rig rig(config_of(2));
    rig.becomes_ready(2);
    rig.exits(1, 1);
    CHECK(rig.drain(1)->code() == "bad-state");
    CHECK(rig.resume(2)->code() == "bad-state");
}

TEST_CASE("supervisor: a signal goes to one worker, or to all that run") {
    ReadyRig rig(3);
    rig.dies(2);
    rig.effects.calls.clear();
    CHECK(rig.signal(1, SIGUSR1)->ok());
    CHECK(rig.calls() == "signal 1 10");
    rig.effects.calls.clear();
    CHECK(rig.signal({}, SIGHUP)->ok());
    CHECK(rig.calls() == "signal 1 1, signal 3 1");
    CHECK(rig.signal(2, SIGHUP)->code() == "bad-state");
    CHECK(rig.is(1, State::ready));
}

TEST_CASE("supervisor: a worker that ends by a signal of the user's is replaced") {
    ReadyRig rig(1);
    rig.signal(1, SIGTERM);
    rig.exits(1, 0);
    CHECK(rig.until([&] { return rig.called("spawn 2"); }));
}

TEST_CASE("supervisor: a worker that does not exist is an error that names those that do") {
    ReadyRig rig(2);
    for (const auto& answer :
         {rig.stop(9), rig.restart(9), rig.drain(9), rig.resume(9), rig.signal(9, SIGHUP)}) {
        CHECK(answer->code() == "no-such-worker");
        CHECK(answer->result.error().text.find("1, 2") != std::string::npos);
    }
    CHECK(rig.calls().empty());
    // An instance's number is no id, but tells which worker was meant.
    rig.exits(2, 0);
    REQUIRE(rig.until([&] { return rig.called("spawn 3"); }));
    rig.exits(1, 0);
    REQUIRE(rig.until([&] { return rig.called("spawn 4"); }));
    CHECK(rig.drain(1)->result.error().text.ends_with("are 3, 4 (instance 1 is worker 3)"));
}

TEST_CASE("supervisor: another policy is set at once and shown") {
    ReadyRig rig(1);
    auto set = rig.ask([&](Done done) { rig.supervisor->policy(Policy::round_robin, done); });
    CHECK(set->ok());
    CHECK(rig.calls() == "policy round-robin");
    CHECK(rig.supervisor->status().policy == "round-robin");
}

TEST_CASE("supervisor: a policy that cannot be used is refused, and the former one stays") {
    ReadyRig rig(1);
    rig.effects.policy_error = Error{"bad-policy", "the verifier does not like it", 0};
    auto set = rig.ask([&](Done done) {
        rig.supervisor->policy({Policy::custom, "/srv/my.bpf.o"}, done);
    });
    CHECK(set->code() == "bad-policy");
    CHECK(rig.supervisor->status().policy == "least-busy");
    rig.effects.policy_error.reset();
    set = rig.ask([&](Done done) {
        rig.supervisor->policy({Policy::custom, "/srv/my.bpf.o"}, done);
    });
    CHECK(set->ok());
    CHECK(rig.supervisor->status().policy == "my.bpf.o");
}

TEST_CASE("supervisor: a verb asked from within an answer is answered too") {
    ReadyRig rig(1);
    int answered = 0;
    rig.supervisor->scale(2, [&](const Result<void>& up) {
        CHECK(up);
        answered++;
        rig.supervisor->scale(1, [&](const Result<void>& down) {
            CHECK(down);
            answered++;
        });
    });
    rig.becomes_ready(2);
    REQUIRE(rig.until([&] { return rig.called("signal 2 15"); }));
    rig.exits(2);
    CHECK(rig.until([&] { return answered == 2; }));
}

// --- Events and status ------------------------------------------------------------------

TEST_CASE("supervisor: a worker's whole life in events") {
    ReadyRig rig(1);
    rig.stop(1);
    REQUIRE(rig.until([&] { return rig.called("signal 1 15"); }));
    rig.exits(1);
    CHECK(rig.story(1) ==
          "fork starting>online online listening online>listening listening>ready "
          "ready ready>draining exit draining>stopped");
    auto fork = rig.events_of(EventKind::fork).at(0);
    CHECK(fork.worker->pid == 1001);
    CHECK(fork.worker->instance == 0);
    CHECK(fork.worker->generation == 1);
    auto exit = rig.events_of(EventKind::exit).at(0);
    CHECK(exit.worker->pid == 1001);  // still named, though it is gone
    CHECK(std::get<ExitData>(exit.data).exit.code == 0);
    auto listening = std::get<ListeningData>(rig.events_of(EventKind::listening).at(0).data);
    CHECK(listening.port == 80);
    CHECK(listening.addr == "0.0.0.0");
}

TEST_CASE("supervisor: the last 1,000 events are kept, the newest last") {
    ReadyRig rig(1);
    for (int i = 0; i < 1500; i++) {
        rig.supervisor->on_listener_closed(1, kHttp);
        rig.listens(1);
    }
    const auto& recent = rig.supervisor->recent_events();
    CHECK(recent.size() == 1000);
    CHECK(recent.back().seq == rig.events.back().seq);
    CHECK(recent.front().seq == recent.back().seq - 999);
}

TEST_CASE("supervisor: trouble is an error event, of a worker or of none") {
    ReadyRig rig(1);
    rig.supervisor->on_trouble(1, {"denied", "worker 1 tried to detach"});
    rig.supervisor->on_trouble(0, {"lost", "events were lost"});
    auto errors = rig.events_of(EventKind::error);
    REQUIRE(errors.size() == 2);
    CHECK(errors[0].worker->id == 1);
    CHECK_FALSE(errors[1].worker);
    CHECK(std::get<ErrorData>(errors[1].data).text == "events were lost");
}

TEST_CASE("supervisor: the status has the numbers of steering, by instance") {
    ReadyRig rig(2);
    Numbers numbers;
    numbers.workers[2] = {5, 1, 100, 30, 4096};
    numbers.groups.push_back({"0.0.0.0", 80, false, {2, 1, 99}, 3});
    numbers.decisions.picked = 7;
    numbers.corrections_total = 1;
    numbers.moved_total = 2;
    rig.effects.given_numbers = numbers;
    Status status = rig.supervisor->status();
    CHECK(status.workers[0].live == 0);
    CHECK(status.workers[1].live == 5);
    CHECK(status.workers[1].queued == 1);
    CHECK(status.workers[1].accepted_total == 100);
    CHECK(status.workers[1].cpu_ms_total == 30);
    CHECK(status.workers[1].memory_bytes == 4096);
    REQUIRE(status.groups.size() == 1);
    CHECK(status.groups[0].active == std::vector{0, 1});
    CHECK(status.groups[0].parked == 3);
    CHECK(status.decisions_total.picked == 7);
    CHECK(status.corrections_total == 1);
    CHECK(status.moved_total == 2);
    CHECK(status.state == "running");
}

TEST_CASE(
    "supervisor: with --ready message a worker is ready when it says so, not when it listens") {
    Config config = config_of(1);
    config.ready = Ready::message;
    Rig rig(config);
    rig.supervisor->on_exec(1);
    rig.listens(1, kHttp);
    CHECK(rig.is(1, State::listening));
    CHECK(rig.active().empty());
    rig.supervisor->on_ready_message(1);
    CHECK(rig.is(1, State::ready));
    CHECK(rig.effects.active == Ids{1});
}

TEST_CASE("supervisor: a drained worker is asked over its channel to finish") {
    ReadyRig rig(1);
    rig.effects.busy = {1};
    rig.stop(1);
    CHECK(rig.effects.asked_to_finish == Ids{1});
}

TEST_CASE("supervisor: messages of workers go to the master, to one, or to all others") {
    using worker::Address;
    ReadyRig rig(3);
    rig.effects.calls.clear();
    rig.supervisor->on_message(1, "1", {Address::Kind::master, 0});
    CHECK(rig.effects.calls.empty());
    rig.supervisor->on_message(1, "2", {Address::Kind::worker, 3});
    CHECK(rig.effects.calls == Calls{"send 3 2 from 1"});
    rig.effects.calls.clear();
    rig.supervisor->on_message(2, "3", {Address::Kind::all, 0});
    CHECK(rig.effects.calls == Calls{"send 1 3 from 2", "send 3 3 from 2"});

    auto messages = rig.events_of(EventKind::message);
    REQUIRE(messages.size() == 3);
    CHECK(std::get<MessageData>(messages[1].data).from == 1);
    CHECK(std::get<MessageData>(messages[1].data).to.worker == 3);
    CHECK(std::get<MessageData>(messages[1].data).data == "2");
}

TEST_CASE("supervisor: a message that cannot be delivered is an error event, not a silence") {
    using worker::Address;
    ReadyRig rig(2);
    rig.effects.full = {2};
    rig.supervisor->on_message(1, "1", {Address::Kind::worker, 2});
    rig.supervisor->on_message(1, "1", {Address::Kind::worker, 9});
    auto errors = rig.events_of(EventKind::error);
    REQUIRE(errors.size() == 2);
    CHECK(std::get<ErrorData>(errors[0].data).code == "queue-full");
    CHECK(std::get<ErrorData>(errors[1].data).code == "no-such-worker");
}
