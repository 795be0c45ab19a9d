// SPDX-License-Identifier: MIT
//
// Rollouts: the plan and what is due, which are pure, and the supervisor's way with candidates.
#include "supervisor/rollout.h"

#include "supervisor_rig.h"

using namespace drover;
using namespace drover::supervisor;
using namespace drover::supervisor::test;

namespace {

Config base() {
    Config config = config_of(2);
    config.env = {"A=1"};
    return config;
}

std::string error_of(const ReloadRequest& request) {
    auto changed = changed_config(base(), request);
    return changed ? "" : changed.error().text;
}

bool mentions(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

ReloadRequest with_command(const std::string& command) {
    ReloadRequest request;
    request.command = {command};
    return request;
}

// Workers 1 … n serve; two workers of an instance may live at the same time.
struct RolloutRig : ReadyRig {
    explicit RolloutRig(int workers) : ReadyRig(workers) { effects.may_overlap = true; }
    explicit RolloutRig(const Config& config) : ReadyRig(config) { effects.may_overlap = true; }

    // The candidate becomes ready, and takes over (the first of a rollout after its second).
    bool takes_over(WorkerId id) {
        becomes_ready(id);
        return until([&] { return effects.active.contains(id); });
    }
    std::string phases() const {
        Calls all;
        for (const Event& event : events_of(EventKind::reload)) {
            const auto& data = std::get<ReloadData>(event.data);
            all.push_back(fmt::format("{} {}/{}", name_of(data.phase), data.done, data.total));
        }
        return fmt::format("{}", fmt::join(all, ", "));
    }
};

}  // namespace

TEST_CASE("rollout: a share of the instances is rounded up, at least one and at most all") {
    CHECK(count_of(*parse_share("10%"), 4) == 1);
    CHECK(count_of(*parse_share("25%"), 4) == 1);
    CHECK(count_of(*parse_share("26%"), 4) == 2);
    CHECK(count_of(*parse_share("100%"), 4) == 4);
    CHECK(count_of(*parse_share("3"), 4) == 3);
    CHECK(count_of(*parse_share("9"), 4) == 4);
    for (const char* bad : {"", "%", "0", "0%", "101%", "-1", "1.5", "x", "1%%"}) {
        CAPTURE(bad);
        CHECK_FALSE(parse_share(bad));
    }
}

TEST_CASE("rollout: options and command change, and what is the whole cluster's does not") {
    ReloadRequest request{{{"env", "B=2"}, {"drain-timeout", "3s"}}, {"other", "x"}, 1, {}};
    auto changed = changed_config(base(), request);
    REQUIRE(changed);
    CHECK(changed->env == std::vector<std::string>{"A=1", "B=2"});
    CHECK(changed->drain_timeout == 3s);
    CHECK(changed->command == std::vector<std::string>{"other", "x"});
    CHECK(changed->name == "web");
    CHECK(changed_config(base(), {})->command == base().command);
    for (const char* option :
         {"name", "port", "listen", "user", "group", "backlog", "controller"}) {
        CAPTURE(option);
        CHECK(mentions(error_of({{{option, "1"}}, {}, 1, {}}), fmt::format("--{}", option)));
    }
    CHECK(mentions(error_of({{{"workers", "3"}}, {}, 1, {}}), "drover scale"));
    CHECK(mentions(error_of({{{"policy", "hash"}}, {}, 1, {}}), "drover policy"));
    CHECK(mentions(error_of({{{"drain-timeout", "soon"}}, {}, 1, {}}), "soon"));
    CHECK(mentions(error_of({{{"colour", "red"}}, {}, 1, {}}), "colour"));
}

TEST_CASE("rollout: the plan has no more under way than it may") {
    Rollout plan({0, 1, 2, 3, 4}, 2);
    CHECK(plan.next() == std::vector{0, 1});
    CHECK(plan.next().empty());
    plan.replaced(1);
    CHECK(plan.next() == std::vector{2});
    plan.dropped(3);  // scaled away while it waited
    plan.dropped(0);  // and while it was under way
    CHECK(plan.next() == std::vector{4});
    CHECK(plan.total() == 3);
    CHECK_FALSE(plan.is_over());
    plan.replaced(2);
    plan.replaced(4);
    plan.replaced(4);  // once
    CHECK(plan.is_over());
    CHECK(plan.done() == 3);
}

TEST_CASE("rollout: a worker is due by its lifetime less its jitter, its memory or connections") {
    Config config;
    config.max_lifetime = 100s;
    config.max_memory = 100 << 20;
    config.max_connections = 1000;
    CHECK_FALSE(is_due(config, {99s, 100 << 20, 999, 0}));
    CHECK(is_due(config, {100s, 0, 0, 0})->reason == ExitReason::recycle);
    CHECK_FALSE(is_due(config, {89s, 0, 0, 1}));
    CHECK(is_due(config, {90s, 0, 0, 1}));
    CHECK(is_due(config, {1s, (100 << 20) + 1, 0, 0})->reason == ExitReason::memory);
    CHECK(mentions(is_due(config, {1s, 0, 1000, 0})->why, "1000 connections"));
    CHECK_FALSE(is_due(Config{}, {24h, 1ULL << 40, 1ULL << 40, 1}));
    CHECK_FALSE(has_limits(Config{}));
    CHECK(has_limits(config));
}

TEST_CASE("reload: each candidate starts beside the old worker, which is drained only then") {
    RolloutRig rig(2);
    auto reloaded = rig.reload(with_command("new"));
    CHECK(rig.calls() == "spawn 3");  // one at a time
    CHECK(rig.effects.configs[3]->command.front() == "new");
    CHECK(rig.effects.generations[3] == 2);
    CHECK(rig.active() == "1 2");
    CHECK(rig.supervisor->status().ready == 2);
    REQUIRE(rig.takes_over(3));
    CHECK(rig.active() == "2 3");
    CHECK(rig.is(1, State::draining));
    CHECK_FALSE(reloaded->came());
    // The next one needs no second of its own.
    rig.becomes_ready(4);
    CHECK(rig.active() == "3 4");
    REQUIRE(rig.until([&] { return reloaded->came(); }));
    CHECK(reloaded->ok());
    CHECK(rig.supervisor->status().generation == 2);
    rig.exits(1);
    rig.exits(2);
    CHECK(rig.ids() == "3 4");
    CHECK(std::get<ExitData>(rig.events_of(EventKind::exit).front().data).exit.reason ==
          ExitReason::reload);
    CHECK(rig.phases() == "started 0/2, worker 1/2, worker 2/2, done 2/2");
    // A crash from now on brings the new release back.
    rig.dies(3);
    REQUIRE(rig.until([&] { return rig.effects.configs.contains(5); }));
    CHECK(rig.effects.configs[5]->command.front() == "new");
}

TEST_CASE("reload: a candidate that ends, at once or within its second, stops it") {
    for (bool was_ready : {false, true}) {
        CAPTURE(was_ready);
        RolloutRig rig(2);
        auto reloaded = rig.reload(with_command("broken"));
        if (was_ready) rig.becomes_ready(3);
        rig.turn(20ms);
        CHECK(rig.active() == "1 2");  // it has got nothing yet
        rig.exits(3, 7);
        REQUIRE(reloaded->came());
        CHECK(reloaded->code() == "reload-failed");
        auto text = reloaded->result.error().text;
        CHECK(mentions(text, "instance 0"));
        CHECK(mentions(text, "exit status 7"));
        CHECK(mentions(text, "last line of 3"));
        CHECK(rig.ids() == "1 2");
        CHECK(rig.active() == "1 2");
        CHECK(rig.supervisor->status().generation == 1);
        CHECK(rig.phases() == "started 0/2, failed 0/2");
        CHECK_FALSE(rig.called("spawn 4"));
    }
}

TEST_CASE("reload: a candidate that is not ready in time is ended, and stops it") {
    RolloutRig rig(1);
    ReloadRequest request = with_command("slow");
    request.options = {{"ready-timeout", "20ms"}};
    auto reloaded = rig.reload(request);
    rig.supervisor->on_exec(2);
    REQUIRE(rig.until([&] { return rig.called("signal 2 15"); }));
    rig.exits(2);
    REQUIRE(reloaded->came());
    CHECK(mentions(reloaded->result.error().text, "not ready within 20 ms"));
    CHECK(rig.active() == "1");
}

TEST_CASE("reload: with several at a time, one that fails takes the others with it") {
    RolloutRig rig(3);
    ReloadRequest request = with_command("broken");
    request.parallel = 2;
    auto reloaded = rig.reload(request);
    CHECK(rig.calls() == "spawn 4, spawn 5");
    rig.supervisor->on_exec(4);
    rig.exits(5, 1);
    CHECK(rig.called("signal 4 15"));
    CHECK_FALSE(reloaded->came());  // not before the other is gone, too
    rig.exits(4);
    CHECK(reloaded->code() == "reload-failed");
    CHECK(rig.ids() == "1 2 3");
}

TEST_CASE("reload: an old worker that dies meanwhile is not started again; the candidate follows") {
    RolloutRig rig(1);
    auto reloaded = rig.reload(with_command("new"));
    rig.dies(1);
    rig.turn();
    CHECK_FALSE(rig.called("spawn 3"));
    REQUIRE(rig.takes_over(2));
    CHECK(reloaded->ok());
    CHECK(rig.ids() == "2");
}

TEST_CASE("reload: an old worker that dies meanwhile is started anew when the candidate fails") {
    RolloutRig rig(1);
    auto reloaded = rig.reload(with_command("broken"));
    rig.dies(1);
    rig.exits(2, 1);
    CHECK(reloaded->code() == "reload-failed");
    REQUIRE(rig.called("spawn 3"));
    CHECK(rig.effects.configs[3]->command.front() == "server");
    CHECK(rig.effects.generations[3] == 1);
}

TEST_CASE("reload: an instance that was given up gets well by a command that works") {
    Config config = config_of(2);
    config.max_restarts = {1, 60s};
    RolloutRig rig(config);
    rig.exits(1, 1);
    REQUIRE(rig.is(1, State::failed));
    auto reloaded = rig.reload(with_command("good"));
    CHECK(rig.ids() == "2 3");
    REQUIRE(rig.takes_over(3));
    rig.becomes_ready(4);
    REQUIRE(rig.until([&] { return reloaded->came(); }));
    CHECK(reloaded->ok());
    CHECK(rig.active() == "3 4");
}

TEST_CASE("reload: one at a time, and not beside a restart") {
    RolloutRig rig(2);
    auto first = rig.reload();
    auto second = rig.reload();
    CHECK(second->code() == "bad-state");
    CHECK(rig.restart()->code() == "bad-state");
    REQUIRE(rig.takes_over(3));
    rig.becomes_ready(4);
    REQUIRE(rig.until([&] { return first->came(); }));
    auto restart = rig.restart(4);
    CHECK(rig.reload()->code() == "bad-state");
    rig.exits(4);
    rig.becomes_ready(5);
    CHECK(restart->ok());
    rig.exits(1);
    rig.exits(2);
}

TEST_CASE("reload: what is scaled away meanwhile is no longer waited for") {
    RolloutRig rig(3);
    ReloadRequest request;
    request.parallel = 3;
    auto reloaded = rig.reload(request);
    auto scaled = rig.scale(1);
    rig.exits(2);
    rig.exits(3);
    rig.exits(5);
    rig.exits(6);
    CHECK_FALSE(reloaded->came());
    REQUIRE(rig.takes_over(4));
    CHECK(reloaded->ok());
    rig.exits(1);
    REQUIRE(rig.until([&] { return scaled->came(); }));
    CHECK(rig.ids() == "4");
}

TEST_CASE("reload: the cluster's end ends it") {
    RolloutRig rig(2);
    auto reloaded = rig.reload();
    auto stopped = rig.stop();
    CHECK(reloaded->code() == "bad-state");
    for (WorkerId id : {1, 2, 3}) rig.exits(id);
    CHECK(stopped->ok());
    CHECK(rig.over.size() == 1);
}

TEST_CASE("canary: so many instances, then promote brings the others") {
    RolloutRig rig(4);
    ReloadRequest request = with_command("new");
    request.canary = *parse_share("50%");
    auto canary = rig.reload(request);
    REQUIRE(rig.takes_over(5));
    rig.becomes_ready(6);
    REQUIRE(rig.until([&] { return canary->came(); }));
    CHECK(rig.active() == "3 4 5 6");
    CHECK(rig.supervisor->status().generation == 1);
    CHECK(rig.reload()->code() == "bad-state");
    // Each instance is started anew as what it is.
    rig.dies(5);
    CHECK(rig.until([&] { return rig.effects.configs.contains(7); }));
    CHECK(rig.effects.configs[7]->command.front() == "new");
    rig.becomes_ready(7);
    auto promoted = rig.promote();
    rig.becomes_ready(8);
    rig.becomes_ready(9);
    REQUIRE(rig.until([&] { return promoted->came(); }));
    CHECK(promoted->ok());
    CHECK(rig.supervisor->status().generation == 2);
    CHECK(rig.active() == "6 7 8 9");
    CHECK(rig.promote()->code() == "bad-state");
}

TEST_CASE("canary: rollback brings its instances back to what they were") {
    RolloutRig rig(2);
    ReloadRequest request = with_command("new");
    request.canary = *parse_share("1");
    auto canary = rig.reload(request);
    REQUIRE(rig.takes_over(3));
    CHECK(canary->ok());
    auto back = rig.roll_back();
    CHECK(rig.effects.configs[4]->command.front() == "server");
    CHECK(rig.effects.generations[4] == 1);
    REQUIRE(rig.takes_over(4));
    CHECK(back->ok());
    CHECK(rig.active() == "2 4");
    CHECK(rig.roll_back()->code() == "bad-state");  // there was nothing before
    // The number of a release that was tried is not used again.
    auto next = rig.reload();
    CHECK(rig.effects.generations[5] == 3);
    REQUIRE(rig.takes_over(5));
    rig.becomes_ready(6);
    REQUIRE(rig.until([&] { return next->came(); }));
}

TEST_CASE("rollback: after a reload, to the release before") {
    RolloutRig rig(1);
    auto reloaded = rig.reload(with_command("new"));
    REQUIRE(rig.takes_over(2));
    CHECK(reloaded->ok());
    auto back = rig.roll_back();
    REQUIRE(rig.takes_over(3));
    CHECK(back->ok());
    CHECK(rig.effects.configs[3]->command.front() == "server");
    CHECK(rig.supervisor->status().generation == 1);
}

TEST_CASE("recycle: a worker over its limit is replaced, one at a time") {
    Config config = config_of(2);
    config.max_connections = 100;
    RolloutRig rig(config);
    for (WorkerId id : {1, 2}) rig.effects.given_numbers.workers[id].accepted_total = 100;
    REQUIRE(rig.until([&] { return rig.called("spawn 3"); }));
    CHECK_FALSE(rig.called("spawn 4"));
    CHECK(rig.active() == "1 2");
    rig.becomes_ready(3);
    CHECK(rig.active() == "2 3");
    rig.turn(1100ms);
    CHECK_FALSE(rig.called("spawn 4"));  // the first is not gone yet
    rig.exits(1);
    REQUIRE(rig.until([&] { return rig.called("spawn 4"); }));
    CHECK(std::get<ExitData>(rig.events_of(EventKind::exit).front().data).exit.reason ==
          ExitReason::recycle);
    CHECK(rig.events_of(EventKind::reload).empty());
    // A reload waits until it is done.
    auto reloaded = rig.reload();
    CHECK_FALSE(reloaded->came());
    CHECK_FALSE(rig.called("spawn 5"));
    rig.becomes_ready(4);
    REQUIRE(rig.until([&] { return rig.called("spawn 5"); }));
    REQUIRE(rig.takes_over(5));
    rig.becomes_ready(6);
    CHECK(reloaded->ok());
}
