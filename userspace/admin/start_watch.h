// SPDX-License-Identifier: MIT
//
// The master's side of `drover start`: tells the starter, which waits at the other end of a pipe,
// when the cluster is ready. Where it cannot be, or the starter has gone, the cluster is stopped,
// so that nothing is left of a start that failed. Later it does nothing any more.
#pragma once

#include <string>

#include "base/event_loop.h"
#include "base/fd.h"
#include "supervisor/supervisor.h"

namespace drover::admin {

class StartWatch {
  public:
    // `loop` and `cluster` outlive it.
    StartWatch(Fd to_starter, EventLoop& loop, supervisor::Supervisor& cluster);

    void on_event(const supervisor::Event& event);
    // It is as good as ready: the starter prints the text.
    void tell(const std::string& text);

  private:
    void give_up(const std::string& why);

    Fd to_starter_;  // closed when it knows
    EventLoop& loop_;
    supervisor::Supervisor& cluster_;
    EventLoop::Source on_starter_gone_;
    EventLoop::Source stop_soon_;
};

}  // namespace drover::admin
