// SPDX-License-Identifier: MIT
//
// The names of states, events and exit reasons, spelled as VOCABULARY has them: what users read in
// `status`, `events` and the JSON forms.
//
// Switches without a default, so that the compiler names the one that was forgotten.
#include "supervisor/types.h"

namespace drover::supervisor {

namespace {

// Only reached by a value that is no enumerator, which no code of ours makes.
constexpr const char* kUnknown = "unknown";

}  // namespace

const char* name_of(State state) {
    switch (state) {
        case State::starting:
            return "starting";
        case State::online:
            return "online";
        case State::listening:
            return "listening";
        case State::ready:
            return "ready";
        case State::draining:
            return "draining";
        case State::stopped:
            return "stopped";
        case State::backoff:
            return "backoff";
        case State::failed:
            return "failed";
    }
    return kUnknown;
}

const char* name_of(EventKind kind) {
    switch (kind) {
        case EventKind::fork:
            return "fork";
        case EventKind::online:
            return "online";
        case EventKind::listening:
            return "listening";
        case EventKind::ready:
            return "ready";
        case EventKind::message:
            return "message";
        case EventKind::disconnect:
            return "disconnect";
        case EventKind::exit:
            return "exit";
        case EventKind::state:
            return "state";
        case EventKind::stalled:
            return "stalled";
        case EventKind::rescued:
            return "rescued";
        case EventKind::recovered:
            return "recovered";
        case EventKind::reload:
            return "reload";
        case EventKind::scaled:
            return "scaled";
        case EventKind::conflict:
            return "conflict";
        case EventKind::restart_limit:
            return "restart-limit";
        case EventKind::error:
            return "error";
    }
    return kUnknown;
}

const char* name_of(ExitReason reason) {
    switch (reason) {
        case ExitReason::crash:
            return "crash";
        case ExitReason::stopped:
            return "stopped";
        case ExitReason::reload:
            return "reload";
        case ExitReason::recycle:
            return "recycle";
        case ExitReason::memory:
            return "memory";
        case ExitReason::stalled:
            return "stalled";
        case ExitReason::unhealthy:
            return "unhealthy";
        case ExitReason::timeout:
            return "timeout";
        case ExitReason::exec:
            return "exec";
    }
    return kUnknown;
}

const char* name_of(ReloadPhase phase) {
    switch (phase) {
        case ReloadPhase::started:
            return "started";
        case ReloadPhase::worker:
            return "worker";
        case ReloadPhase::canary:
            return "canary";
        case ReloadPhase::promoted:
            return "promoted";
        case ReloadPhase::rolled_back:
            return "rolled-back";
        case ReloadPhase::done:
            return "done";
        case ReloadPhase::failed:
            return "failed";
    }
    return kUnknown;
}

bool is_alive(State state) {
    return state == State::starting || state == State::online || state == State::listening ||
           state == State::ready || state == State::draining;
}

bool is_moving(State state) {
    return state == State::starting || state == State::online || state == State::listening ||
           state == State::draining || state == State::backoff;
}

}  // namespace drover::supervisor
