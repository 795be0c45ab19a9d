// SPDX-License-Identifier: MIT
//
// The table of a worker's life, as a whole: what must hold in every row, then the lives that
// matter, walked through step by step.
#include "supervisor/lifecycle.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

using namespace drover::supervisor;
using enum Trigger;
using enum Action;

namespace {

constexpr State kStates[] = {State::starting, State::online,  State::listening, State::ready,
                             State::draining, State::stopped, State::backoff,   State::failed};
constexpr State kAlive[] = {State::starting, State::online, State::listening, State::ready,
                            State::draining};
constexpr Trigger kTriggers[] = {hangs,           exec_done,   listens,     is_ready,
                                 listens_no_more, ready_late,  drain,       end_now,
                                 drained,         drain_late,  stop_late,   gone_replace,
                                 gone_backoff,    gone_failed, gone_stopped};
constexpr Trigger kGone[] = {gone_replace, gone_backoff, gone_failed, gone_stopped};

bool is_gone(Trigger trigger) {
    return std::ranges::find(kGone, trigger) != std::end(kGone);
}

bool has_row(State from, Trigger trigger) {
    return std::ranges::any_of(table_rows(), [&](const RowKey& key) {
        return key.from == from && key.trigger == trigger;
    });
}

bool does(State from, Trigger trigger, Action action) {
    return std::ranges::count(transition(from, trigger).actions, action) == 1;
}

std::vector<Action> actions(State from, Trigger trigger) {
    auto all = transition(from, trigger).actions;
    return {all.begin(), all.end()};
}

// Names for the failure messages.
std::string name(const RowKey& key) {
    return std::string(name_of(key.from)) + ", trigger " +
           std::to_string(static_cast<int>(key.trigger));
}

// The states that the triggers lead through.
std::vector<State> walk(State from, const std::vector<Trigger>& triggers) {
    std::vector<State> states;
    for (Trigger trigger : triggers) {
        from = transition(from, trigger).to;
        states.push_back(from);
    }
    return states;
}

}  // namespace

TEST_CASE("lifecycle: alive are the states in which there is a process") {
    for (State state : kStates) {
        INFO(std::string(name_of(state)));
        CHECK(is_alive(state) == (std::ranges::find(kAlive, state) != std::end(kAlive)));
    }
}

TEST_CASE("lifecycle: the table has no state and trigger twice") {
    std::set<std::pair<State, Trigger>> seen;
    for (const RowKey& key : table_rows())
        CHECK_MESSAGE(seen.emplace(key.from, key.trigger).second, name(key));
    CHECK(seen.size() >= 40);  // the table is there
}

TEST_CASE("lifecycle: no row does an action twice") {
    for (const RowKey& key : table_rows()) {
        auto all = actions(key.from, key.trigger);
        CHECK_MESSAGE(std::set<Action>(all.begin(), all.end()).size() == all.size(), name(key));
    }
}

TEST_CASE("lifecycle: a living worker may exit in any state, and its exit always releases") {
    for (State from : kAlive)
        for (Trigger trigger : kGone) {
            INFO(name({from, trigger}));
            CHECK(has_row(from, trigger));
            CHECK(does(from, trigger, release));
            CHECK_FALSE(is_alive(transition(from, trigger).to));
        }
}

TEST_CASE("lifecycle: only an exit releases, and only a living worker can exit") {
    for (const RowKey& key : table_rows()) {
        INFO(name(key));
        CHECK(does(key.from, key.trigger, release) == is_gone(key.trigger));
        CHECK((is_alive(key.from) || !is_gone(key.trigger)));
    }
}

TEST_CASE("lifecycle: what follows an exit is what the trigger says") {
    for (State from : kAlive) {
        INFO(std::string(name_of(from)));
        CHECK(transition(from, gone_replace).to == State::stopped);
        CHECK(transition(from, gone_backoff).to == State::backoff);
        CHECK(transition(from, gone_failed).to == State::failed);
        CHECK(transition(from, gone_stopped).to == State::stopped);
        for (Trigger trigger : kGone) {
            CHECK(does(from, trigger, replace) == (trigger == gone_replace));
            CHECK(does(from, trigger, start_retry_timer) == (trigger == gone_backoff));
            CHECK(does(from, trigger, tell_restart_limit) == (trigger == gone_failed));
        }
        // `replace` destroys the worker: nothing can come after it.
        CHECK(actions(from, gone_replace).back() == replace);
    }
}

TEST_CASE("lifecycle: a worker is activated exactly when it becomes ready") {
    for (const RowKey& key : table_rows()) {
        INFO(name(key));
        bool becomes_ready =
            key.from != State::ready && transition(key.from, key.trigger).to == State::ready;
        CHECK(does(key.from, key.trigger, activate) == becomes_ready);
        CHECK(does(key.from, key.trigger, tell_ready) == becomes_ready);
    }
}

TEST_CASE("lifecycle: every way out of ready deactivates, before anything else") {
    for (const RowKey& key : table_rows()) {
        INFO(name(key));
        bool leaves_ready =
            key.from == State::ready && transition(key.from, key.trigger).to != State::ready;
        CHECK(does(key.from, key.trigger, deactivate) == leaves_ready);
        if (leaves_ready) CHECK(actions(key.from, key.trigger).front() == deactivate);
    }
    CHECK(transition(State::ready, drain).to == State::draining);
    CHECK(transition(State::ready, listens_no_more).to == State::online);
}

TEST_CASE("lifecycle: a draining worker ends; it never serves again") {
    for (Trigger trigger : kTriggers) {
        State to = transition(State::draining, trigger).to;
        INFO(name({State::draining, trigger}));
        CHECK_FALSE(does(State::draining, trigger, activate));
        CHECK((to == State::draining || !is_alive(to)));
    }
    for (Trigger late : {exec_done, listens, is_ready}) CHECK_FALSE(has_row(State::draining, late));
}

TEST_CASE("lifecycle: a pair that is not in the table changes nothing") {
    int unknown = 0;
    for (State from : kStates)
        for (Trigger trigger : kTriggers) {
            if (has_row(from, trigger)) continue;
            unknown++;
            CHECK(transition(from, trigger).to == from);
            CHECK(transition(from, trigger).actions.empty());
        }
    CHECK(unknown > 0);
    CHECK_FALSE(has_row(State::stopped, drain));
    CHECK_FALSE(has_row(State::stopped, exec_done));
    CHECK_FALSE(has_row(State::ready, ready_late));
    CHECK_FALSE(has_row(State::starting, is_ready));
}

TEST_CASE("lifecycle: the ready timer never outlives the wait that it bounds") {
    auto waits = [](State state) {
        return state == State::starting || state == State::online || state == State::listening;
    };
    for (const RowKey& key : table_rows()) {
        INFO(name(key));
        State to = transition(key.from, key.trigger).to;
        // When it is the timer itself that ends the wait there is nothing to stop.
        bool ends_the_wait = waits(key.from) && !waits(to) && key.trigger != ready_late;
        CHECK(does(key.from, key.trigger, stop_ready_timer) == ends_the_wait);
        CHECK(does(key.from, key.trigger, start_ready_timer) == (!waits(key.from) && waits(to)));
    }
}

TEST_CASE("lifecycle: the usual life") {
    CHECK(walk(State::starting, {exec_done, listens, is_ready, drain, drained, gone_stopped}) ==
          std::vector{State::online, State::listening, State::ready, State::draining,
                      State::draining, State::stopped});
    CHECK(actions(State::starting, exec_done) == std::vector{tell_online});
    CHECK(actions(State::online, listens).empty());
    CHECK(actions(State::listening, is_ready) ==
          std::vector{stop_ready_timer, start_watchdog, activate, tell_ready});
    CHECK(actions(State::ready, drain) == std::vector{deactivate, start_drain_timer});
    CHECK(actions(State::draining, drained) == std::vector{send_stop_signal});
    CHECK(actions(State::draining, gone_stopped) == std::vector{release});
}

TEST_CASE("lifecycle: a worker that never listens may be ready from online") {
    CHECK(walk(State::starting, {exec_done, is_ready}) == std::vector{State::online, State::ready});
}

TEST_CASE("lifecycle: a worker that stops listening waits to be ready again") {
    CHECK(walk(State::ready, {listens_no_more, listens, is_ready}) ==
          std::vector{State::online, State::listening, State::ready});
    CHECK(actions(State::ready, listens_no_more) == std::vector{deactivate, start_ready_timer});
    CHECK(walk(State::listening, {listens_no_more}) == std::vector{State::online});
}

TEST_CASE("lifecycle: a worker that never served is signalled at once, without a drain") {
    for (State from : {State::starting, State::online, State::listening})
        for (Trigger trigger : {drain, end_now, ready_late}) {
            INFO(name({from, trigger}));
            CHECK(transition(from, trigger).to == State::draining);
            CHECK(does(from, trigger, send_stop_signal));
            CHECK_FALSE(does(from, trigger, start_drain_timer));
        }
}

TEST_CASE("lifecycle: what does not end in time is ended harder") {
    CHECK(actions(State::draining, drain_late) == std::vector{send_stop_signal});
    CHECK(actions(State::draining, stop_late) == std::vector{kill});
    CHECK(actions(State::ready, end_now) == std::vector{deactivate, send_stop_signal});
    CHECK(actions(State::draining, end_now) == std::vector{kill});
    // Nobody is killed who was not asked to end before, or no longer answers.
    for (const RowKey& key : table_rows())
        if (does(key.from, key.trigger, kill))
            CHECK((key.from == State::draining || key.trigger == hangs));
}

TEST_CASE("lifecycle: an instance that waits or has failed can be stopped, without a process") {
    for (State from : {State::backoff, State::failed})
        for (Trigger trigger : {drain, end_now}) {
            CHECK(transition(from, trigger).to == State::stopped);
            // Nobody may start it again.
            bool waits = from == State::backoff;
            CHECK(actions(from, trigger) ==
                  (waits ? std::vector{stop_retry_timer} : std::vector<Action>{}));
        }
}
