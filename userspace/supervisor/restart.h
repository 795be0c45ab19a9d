// SPDX-License-Identifier: MIT
//
// Whether and when an instance gets a new worker after its worker has exited. Pure.
//
// An exit before ready, or less than a second after, is a failed start: the next try waits, longer
// each time, and too many of them in too short a time give the instance up. Every other exit is
// followed by a restart at once.
#pragma once

#include <chrono>
#include <deque>

#include "supervisor/config.h"

namespace drover::supervisor {

using SteadyTime = std::chrono::steady_clock::time_point;

struct RestartHistory {
    std::deque<SteadyTime> failed_starts;  // within the limit's time
    bool was_ever_online = false;
};

struct ExitFacts {
    bool was_wanted = false;      // drover ended it, for good
    bool replace_wanted = false;  // drover ended it, to start another
    bool succeeded = false;       // exit code 0
    bool exec_failed = false;     // the program could not be run
    bool conflict = false;        // its port belongs to somebody else
    bool was_ready = false;
    std::chrono::milliseconds since_ready{};
};

enum class Verdict { replace, backoff, failed, stopped };

struct Judgement {
    Verdict verdict;
    std::chrono::milliseconds delay{};  // of backoff
};

// Enters a failed start into the history. `random` in 0 … 1 is the jitter.
Judgement judge(Restart mode, const RestartLimit& limit, const ExitFacts& facts,
                RestartHistory& history, SteadyTime now, double random);

}  // namespace drover::supervisor
