// SPDX-License-Identifier: MIT
//
// START HERE for the control path.
//
// The supervisor keeps N instances supplied with a worker each. What happens to a worker arrives as
// calls (on_exec, on_listening, on_exit, timers); the table in lifecycle.cc says what follows; the
// actions are carried out through Effects, and what happened is told to the Observer. It knows
// neither BPF nor processes, so that it is tested without either.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "supervisor/config.h"
#include "supervisor/effects.h"
#include "supervisor/lifecycle.h"
#include "supervisor/restart.h"
#include "supervisor/types.h"

namespace drover::supervisor {

// Told of everything that happens, in order.
class Observer {
  public:
    virtual ~Observer() = default;
    virtual void on_event(const Event& event) = 0;
};

// Called once when a verb is done: at once, or later.
using Done = std::function<void(Result<void>)>;

class Supervisor : public WorkerObserver {
  public:
    Supervisor(Config config, EventLoop& loop, Effects& effects, Observer& observer);
    ~Supervisor() override;

    // Starts all workers. When the cluster is over (stopped, or every instance failed), `over` is
    // called with the exit status.
    void start(std::function<void(int)> over);

    // Nouns.
    [[nodiscard]] Status status() const;
    [[nodiscard]] const std::deque<Event>& recent_events() const;  // the last 1,000

    // Verbs. `worker` empty: all of the cluster. Error codes: no-such-worker, bad-state, bad-value.
    void stop(std::optional<WorkerId> worker, Done done);     // drain, then end; done when gone
    void restart(std::optional<WorkerId> worker, Done done);  // done when the new ones are ready
    void scale(int workers, Done done);                       // done when all are ready or gone
    void drain(WorkerId worker, Done done);    // held: no new connections; done when none is left
    void resume(WorkerId worker, Done done);   // takes the hold away
    void signal(std::optional<WorkerId> worker, int number, Done done);
    void policy(Policy policy, Done done);
    // A second SIGINT or SIGTERM: no drain any more, kill.
    void stop_now();

    // (private part: to be continued by the supervisor's author)
};

}  // namespace drover::supervisor
