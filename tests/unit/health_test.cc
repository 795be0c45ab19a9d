// SPDX-License-Identifier: MIT
//
// Health checks: what follows from results, which is pure, and the supervisor's way with it.
#include "supervisor/health.h"

#include "supervisor_rig.h"

using namespace drover;
using namespace drover::supervisor;
using namespace drover::supervisor::test;

namespace {

constexpr Duration kOften{20};

Config checked(int workers, int failures = 3) {
    Config config = config_of(workers);
    config.health = HealthCheck::http;
    config.health_path = "/health";
    config.health_interval = kOften;
    config.health_failures = failures;
    return config;
}

// Workers 1 … n serve. Each check is answered by what `sick` says of the worker.
struct HealthRig : ReadyRig {
    explicit HealthRig(const Config& config) : ReadyRig(config) { effects.may_overlap = true; }

    void answer_checks() {
        for (WorkerId id : std::exchange(effects.probed, {})) {
            checks[id]++;
            if (ids_are_silent) continue;
            supervisor->on_probed(id, sick.contains(id) ? fail("http-status",
                                                               "GET /health: status "
                                                               "503")
                                                        : Result<void>());
        }
    }
    bool until_answered(const std::function<bool()>& reached) {
        return until([&] {
            answer_checks();
            return reached();
        });
    }
    // So many further checks of each of the workers.
    bool goes_through(int more) {
        auto before = checks;
        return until_answered([&] {
            return std::ranges::all_of(
                effects.active, [&](WorkerId id) { return checks[id] >= before[id] + more; });
        });
    }
    bool is_flagged(WorkerId id) const {
        auto found = worker(id);
        return found && std::ranges::count(found->flags, "unhealthy") == 1;
    }
    std::string errors() const {
        std::string all;
        for (const Event& event : events_of(EventKind::error))
            all += std::get<ErrorData>(event.data).text + "\n";
        return all;
    }

    Ids sick;
    std::map<WorkerId, int> checks;
    bool ids_are_silent = false;
};

}  // namespace

TEST_CASE("health: failures in a row make a worker unhealthy, two good ones healthy again") {
    Health health;
    CHECK(note_check(health, false, 3) == HealthChange::none);
    CHECK(note_check(health, false, 3) == HealthChange::none);
    CHECK(note_check(health, true, 3) == HealthChange::none);
    CHECK(health.was_ever_good);
    CHECK(note_check(health, false, 3) == HealthChange::none);
    CHECK(note_check(health, false, 3) == HealthChange::none);
    CHECK(note_check(health, false, 3) == HealthChange::unhealthy);
    CHECK(note_check(health, false, 3) == HealthChange::none);
    CHECK(note_check(health, true, 3) == HealthChange::none);
    CHECK(note_check(health, false, 3) == HealthChange::none);
    CHECK(note_check(health, true, 3) == HealthChange::none);
    CHECK(health.is_unhealthy);
    CHECK(note_check(health, true, 3) == HealthChange::healthy);
    CHECK_FALSE(health.is_unhealthy);
    CHECK(note_check(health, false, 1) == HealthChange::unhealthy);
}

TEST_CASE("health: at most half of the workers are out, and none while all fail") {
    auto may = [](int checked, int failing, int out) {
        return may_take_out({checked, failing, failing, out});
    };
    CHECK(may(4, 1, 0));
    CHECK(may(4, 2, 1));
    CHECK_FALSE(may(4, 3, 2));
    CHECK_FALSE(may(4, 4, 0));
    CHECK(may(3, 1, 0));
    CHECK_FALSE(may(3, 2, 1));
    CHECK(may(2, 1, 0));
    CHECK_FALSE(may(2, 2, 0));
    CHECK_FALSE(may(1, 1, 0));
    CHECK(all_fail({2, 2, 2, 1}));
    CHECK_FALSE(all_fail({2, 2, 1, 1}));
    CHECK_FALSE(all_fail({1, 1, 1, 0}));  // the only one cannot be told from a sick one
}

TEST_CASE("health: a worker is replaced one failure later, then after twice as many") {
    Health health;
    Census one_of_four{4, 1, 1, 1}, all{4, 4, 2, 1}, alone{1, 1, 1, 0};
    for (int i = 0; i < 3; i++) note_check(health, false, 3);
    CHECK_FALSE(is_to_be_replaced(health, one_of_four, 3));
    note_check(health, false, 3);
    CHECK(is_to_be_replaced(health, one_of_four, 3));
    CHECK_FALSE(is_to_be_replaced(health, all, 3));
    CHECK(is_to_be_replaced(health, alone, 3));
    note_replacement(health);
    for (int i = 0; i < 3; i++) note_check(health, false, 3);
    CHECK_FALSE(is_to_be_replaced(health, one_of_four, 3));
    note_check(health, false, 3);
    CHECK(is_to_be_replaced(health, one_of_four, 3));
}

TEST_CASE("health: the checks of all instances are spread evenly over the interval") {
    for (int64_t now : {0, 1, 999, 1000, 123'456'789}) {
        std::set<int64_t> due;
        for (int instance = 0; instance < 4; instance++) {
            auto wait = until_check(Duration(now), 1000ms, instance, 4);
            CHECK(wait > 0ms);
            CHECK(wait <= 1000ms);
            due.insert((now + wait.count()) % 1000);
        }
        CHECK(due == std::set<int64_t>{0, 250, 500, 750});
    }
    // One that is being scaled away, or an interval that cannot be divided.
    CHECK(until_check(5ms, 100ms, 7, 2) > 0ms);
    CHECK(until_check(5ms, 1ms, 1, 2) == 1ms);
}

TEST_CASE("health: without --health nobody is asked") {
    ReadyRig rig(2);
    rig.turn(30ms);
    CHECK(rig.effects.probed.empty());
}

TEST_CASE("health: a sick worker is taken out, then replaced by one that has been asked") {
    HealthRig rig(checked(4));
    REQUIRE(rig.goes_through(2));
    CHECK(rig.called("probe 1 /health"));
    rig.sick = {2};
    REQUIRE(rig.until_answered([&] { return rig.is_flagged(2); }));
    CHECK(rig.active() == "1 3 4");
    CHECK(rig.checks[2] >= 3);
    CHECK(rig.worker(2)->reason == "unhealthy: GET /health: status 503");
    // Its candidate starts beside it, and gets nothing before it was asked.
    REQUIRE(rig.until_answered([&] { return rig.called("spawn 5"); }));
    CHECK(rig.is(2, State::ready));
    rig.becomes_ready(5);
    CHECK(rig.active() == "1 3 4");
    CHECK(rig.worker(5)->reason == "to take over when it is healthy");
    REQUIRE(rig.until_answered([&] { return rig.effects.active.contains(5); }));
    CHECK(rig.active() == "1 3 4 5");
    REQUIRE(rig.until_answered([&] { return rig.called("signal 2 15"); }));
    rig.exits(2);
    auto exits = rig.events_of(EventKind::exit);
    REQUIRE(exits.size() == 1);
    CHECK(std::get<ExitData>(exits[0].data).exit.reason == ExitReason::unhealthy);
    CHECK(rig.ids() == "1 3 4 5");  // and nobody else was started for it
    CHECK(rig.errors().empty());
}

TEST_CASE("health: a worker that is well again comes back and is not replaced") {
    HealthRig rig(checked(2));
    rig.sick = {1};
    REQUIRE(rig.until_answered([&] { return rig.active() == "2"; }));
    rig.sick = {};
    REQUIRE(rig.until_answered([&] { return rig.active() == "1 2"; }));
    CHECK_FALSE(rig.is_flagged(1));
    CHECK_FALSE(rig.worker(1)->reason);
    CHECK(rig.ids() == "1 2");
    CHECK(rig.story(1).ends_with("ready>ready ready>ready"));
}

TEST_CASE("health: when all fail at once all serve on, none is replaced, and it is told once") {
    HealthRig rig(checked(3));
    REQUIRE(rig.goes_through(1));
    rig.sick = {1, 2, 3};
    REQUIRE(rig.until_answered([&] { return !rig.errors().empty(); }));
    CHECK(rig.active() == "1 2 3");
    REQUIRE(rig.goes_through(6));
    CHECK(rig.active() == "1 2 3");
    CHECK(rig.ids() == "1 2 3");
    CHECK(rig.errors() ==
          "all workers fail their health check (GET /health: status 503): they are left alone\n");
    CHECK_FALSE(rig.called("deactivate 1"));
    rig.sick = {};
    REQUIRE(rig.until_answered(
        [&] { return !rig.is_flagged(1) && !rig.is_flagged(2) && !rig.is_flagged(3); }));
    CHECK(rig.ids() == "1 2 3");
}

TEST_CASE("health: who was out comes back when all the others fail, too") {
    HealthRig rig(checked(2, /*failures=*/1));
    rig.sick = {1};
    REQUIRE(rig.until_answered([&] { return rig.active() == "2"; }));
    rig.sick = {1, 2};
    REQUIRE(rig.until_answered([&] { return rig.active() == "1 2"; }));
}

TEST_CASE("health: the only worker serves on until one that is better takes over") {
    HealthRig rig(checked(1));
    rig.sick = {1, 2};
    REQUIRE(rig.until_answered([&] { return rig.called("spawn 2"); }));
    CHECK(rig.active() == "1");
    rig.becomes_ready(2);
    // It is no better.
    REQUIRE(rig.until_answered([&] { return rig.called("signal 2 15"); }));
    rig.exits(2);
    CHECK(rig.active() == "1");
    CHECK(rig.errors() ==
          "a worker was to be replaced because it fails its health check (GET /health: status "
          "503), and is not: instance 0: worker 2 of generation 1 fails its health check (GET "
          "/health: status 503)\n");
    // The next one is.
    REQUIRE(rig.until_answered([&] { return rig.called("spawn 3"); }));
    CHECK(rig.checks[1] >= 8);
    rig.becomes_ready(3);
    REQUIRE(rig.until_answered([&] { return rig.active() == "3"; }));
}

TEST_CASE("health: a check whose connection went to another worker says nothing") {
    HealthRig rig(checked(2, 1));
    rig.ids_are_silent = true;
    auto moved = [&](WorkerId id) {
        REQUIRE(rig.until([&] { return rig.effects.probed.erase(id) > 0; }));
        rig.supervisor->on_probed(id, fail("moved", "moved"));
    };
    moved(1);
    CHECK_FALSE(rig.is_flagged(1));
    // But of one that hangs it says that.
    rig.supervisor->on_stalled(1, 1);
    moved(1);
    CHECK(rig.is_flagged(1));
    CHECK(rig.worker(1)->reason == "unhealthy: takes no connections");
}

TEST_CASE("health: a worker that is held is asked, but not replaced") {
    HealthRig rig(checked(2));
    rig.drain(1);
    rig.sick = {1};
    REQUIRE(rig.until_answered([&] { return rig.is_flagged(1) && rig.checks[1] > 6; }));
    CHECK(rig.ids() == "1 2");
    rig.sick = {};
    REQUIRE(rig.until_answered([&] { return !rig.is_flagged(1); }));
    rig.resume(1);
    CHECK(rig.active() == "1 2");
}

TEST_CASE("health: a reload to a release that fails its check stops") {
    HealthRig rig(checked(2, 2));
    rig.sick = {3};
    auto reload = rig.reload();
    rig.becomes_ready(3);
    REQUIRE(rig.until_answered([&] { return rig.called("signal 3 15"); }));
    rig.exits(3);
    CHECK(reload->code() == "reload-failed");
    CHECK(reload->result.error().text.starts_with(
        "stopped at instance 0: worker 3 of generation 2 fails its health check"));
    CHECK(rig.active() == "1 2");
}

TEST_CASE("health: who was unhealthy is so after a take-over") {
    HealthRig rig(checked(2));
    rig.sick = {1};
    REQUIRE(rig.until_answered([&] { return rig.active() == "2"; }));
    auto saved = rig.effects.saved;
    REQUIRE(saved.workers.size() == 2);
    CHECK(saved.workers[0].is_unhealthy);
    CHECK(saved.workers[0].is_out);
    CHECK_FALSE(saved.workers[1].is_out);
    rig.drain();
    CHECK(rig.effects.saved.is_drained);
    rig.resume();
}

TEST_CASE("supervisor: a cluster that is drained as a whole serves on and says so") {
    ReadyRig rig(2);
    CHECK(rig.drain()->ok());
    CHECK(rig.drain()->ok());
    CHECK(rig.active() == "1 2");
    CHECK(rig.supervisor->status().is_drained);
    CHECK(rig.resume()->ok());
    CHECK_FALSE(rig.supervisor->status().is_drained);
    CHECK(rig.resume()->code() == "bad-state");
}

TEST_CASE("supervisor: a stop is announced for as long as --stop-delay says") {
    Config config = config_of(2);
    config.stop_delay = 30ms;
    ReadyRig rig(config);
    auto stop = rig.stop();
    auto again = rig.stop();
    CHECK(rig.supervisor->status().state == "stopping");
    CHECK(rig.active() == "1 2");
    CHECK_FALSE(rig.called("refuse"));
    CHECK(rig.drain()->code() == "bad-state");
    REQUIRE(rig.until([&] { return rig.called("refuse"); }));
    CHECK(rig.active().empty());
    CHECK_FALSE(stop->came());
    rig.exits(1);
    rig.exits(2);
    rig.turn();
    CHECK(stop->ok());
    CHECK(again->ok());
}

TEST_CASE("supervisor: a stop is not put off for load balancers that know already") {
    Config config = config_of(1);
    config.stop_delay = 20ms;
    ReadyRig rig(config);
    rig.drain();
    rig.turn(30ms);
    rig.stop();
    CHECK(rig.called("refuse"));
}

TEST_CASE("supervisor: a second signal ends a stop that is only announced") {
    Config config = config_of(1);
    config.stop_delay = kFar;
    ReadyRig rig(config);
    rig.stop();
    rig.supervisor->stop_now();
    CHECK(rig.called("refuse"));
    CHECK(rig.called("kill 1"));
}
