// SPDX-License-Identifier: MIT
//
// The life of one worker as a table: (state, trigger) → (state, actions). Pure: it does nothing
// itself. What is not in the table does not change anything.
//
//     starting → online → listening → ready → draining → stopped
//                                        any exit → backoff | failed | stopped
#pragma once

#include <span>

#include "supervisor/types.h"

namespace drover::supervisor {

enum class Trigger {
    exec_done,        // the program runs
    listens,          // it listens on something that is shared
    is_ready,         // what --ready asks for is there
    listens_no_more,  // it closed its last listener that counted
    ready_late,       // --ready-timeout passed
    hangs,            // it gave no sign of life for too long
    drain,            // it shall end
    end_now,          // it shall end, without a drain
    drained,          // nothing of it is being served any more
    drain_late,       // --drain-timeout passed
    stop_late,        // --stop-timeout passed
    gone_replace,     // it exited: start its replacement at once
    gone_backoff,     // it exited: start its replacement later
    gone_failed,      // it exited, and too often: give the instance up
    gone_stopped,     // it exited, and that was wanted or is allowed to be
};

enum class Action {
    tell_online,
    tell_ready,
    start_ready_timer,
    stop_ready_timer,
    start_watchdog,
    activate,
    deactivate,
    start_drain_timer,
    send_stop_signal,  // and start the stop timer
    kill,
    release,
    replace,
    start_retry_timer,
    stop_retry_timer,
    tell_restart_limit,
};

struct Transition {
    State to;
    std::span<const Action> actions;
};

// What follows from the trigger. Where the table has no row: the same state, no action.
Transition transition(State from, Trigger trigger);

// For tests: every row's state and trigger.
struct RowKey {
    State from;
    Trigger trigger;
};
std::span<const RowKey> table_rows();

}  // namespace drover::supervisor
