// SPDX-License-Identifier: MIT
#include "supervisor/lifecycle.h"

#include <array>
#include <vector>

namespace drover::supervisor {

namespace {

struct Row {
    State from;
    Trigger trigger;
    State to;
    std::vector<Action> actions;
};

using enum Trigger;
using enum Action;

// A worker that never served needs no drain: it gets its stop signal at once.
// An exit always releases; what comes after it is the trigger's name.
const std::vector<Row>& rows() {
    static const std::vector<Row> table = {
        // clang-format off
        {State::starting,  exec_done,       State::online,    {tell_online}},
        {State::starting,  ready_late,      State::draining,  {send_stop_signal}},
        {State::starting,  drain,           State::draining,  {stop_ready_timer, send_stop_signal}},
        {State::starting,  end_now,         State::draining,  {stop_ready_timer, send_stop_signal}},

        {State::online,    listens,         State::listening, {}},
        {State::online,    is_ready,        State::ready,     {stop_ready_timer, start_watchdog, activate, tell_ready}},
        {State::online,    ready_late,      State::draining,  {send_stop_signal}},
        {State::online,    drain,           State::draining,  {stop_ready_timer, send_stop_signal}},
        {State::online,    end_now,         State::draining,  {stop_ready_timer, send_stop_signal}},

        {State::listening, is_ready,        State::ready,     {stop_ready_timer, start_watchdog, activate, tell_ready}},
        {State::listening, listens_no_more, State::online,    {}},
        {State::listening, ready_late,      State::draining,  {send_stop_signal}},
        {State::listening, drain,           State::draining,  {stop_ready_timer, send_stop_signal}},
        {State::listening, end_now,         State::draining,  {stop_ready_timer, send_stop_signal}},

        {State::ready,     listens_no_more, State::online,    {deactivate, start_ready_timer}},
        {State::ready,     hangs,           State::draining,  {deactivate, kill}},
        {State::ready,     drain,           State::draining,  {deactivate, start_drain_timer}},
        {State::ready,     end_now,         State::draining,  {deactivate, send_stop_signal}},

        {State::draining,  drained,         State::draining,  {send_stop_signal}},
        {State::draining,  drain_late,      State::draining,  {send_stop_signal}},
        {State::draining,  end_now,         State::draining,  {kill}},
        {State::draining,  stop_late,       State::draining,  {kill}},

        {State::starting,  gone_replace,    State::stopped,   {stop_ready_timer, release, replace}},
        {State::online,    gone_replace,    State::stopped,   {stop_ready_timer, release, replace}},
        {State::listening, gone_replace,    State::stopped,   {stop_ready_timer, release, replace}},
        {State::ready,     gone_replace,    State::stopped,   {deactivate, release, replace}},
        {State::draining,  gone_replace,    State::stopped,   {release, replace}},

        {State::starting,  gone_backoff,    State::backoff,   {stop_ready_timer, release, start_retry_timer}},
        {State::online,    gone_backoff,    State::backoff,   {stop_ready_timer, release, start_retry_timer}},
        {State::listening, gone_backoff,    State::backoff,   {stop_ready_timer, release, start_retry_timer}},
        {State::ready,     gone_backoff,    State::backoff,   {deactivate, release, start_retry_timer}},
        {State::draining,  gone_backoff,    State::backoff,   {release, start_retry_timer}},

        {State::starting,  gone_failed,     State::failed,    {stop_ready_timer, release, tell_restart_limit}},
        {State::online,    gone_failed,     State::failed,    {stop_ready_timer, release, tell_restart_limit}},
        {State::listening, gone_failed,     State::failed,    {stop_ready_timer, release, tell_restart_limit}},
        {State::ready,     gone_failed,     State::failed,    {deactivate, release, tell_restart_limit}},
        {State::draining,  gone_failed,     State::failed,    {release, tell_restart_limit}},

        {State::starting,  gone_stopped,    State::stopped,   {stop_ready_timer, release}},
        {State::online,    gone_stopped,    State::stopped,   {stop_ready_timer, release}},
        {State::listening, gone_stopped,    State::stopped,   {stop_ready_timer, release}},
        {State::ready,     gone_stopped,    State::stopped,   {deactivate, release}},
        {State::draining,  gone_stopped,    State::stopped,   {release}},

        {State::backoff,   drain,           State::stopped,   {stop_retry_timer}},
        {State::backoff,   end_now,         State::stopped,   {stop_retry_timer}},
        {State::failed,    drain,           State::stopped,   {}},
        {State::failed,    end_now,         State::stopped,   {}},
        // clang-format on
    };
    return table;
}

}  // namespace

Transition transition(State from, Trigger trigger) {
    for (const Row& row : rows())
        if (row.from == from && row.trigger == trigger) return {row.to, row.actions};
    return {from, {}};
}

std::span<const RowKey> table_rows() {
    static const std::vector<RowKey> keys = [] {
        std::vector<RowKey> all;
        for (const Row& row : rows()) all.push_back({row.from, row.trigger});
        return all;
    }();
    return keys;
}

}  // namespace drover::supervisor
