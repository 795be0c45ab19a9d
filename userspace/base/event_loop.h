// SPDX-License-Identifier: MIT
//
// The one event loop of a process: sd-event with C++ callables.
//
// A Source is a registration; destroying it ends it, also from within its own callback. Callbacks
// run on the one thread, one at a time, and must not block. A registration that the kernel refuses
// (no memory, no room for one more) is made as soon as it does not any more.
#pragma once

#include <sys/epoll.h>
#include <systemd/sd-event.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/result.h"

namespace drover {

class EventLoop {
  public:
    class Source {
      public:
        Source() = default;
        [[nodiscard]] bool is_active() const { return registration_ != nullptr; }
        void reset() { registration_.reset(); }

      private:
        friend class EventLoop;
        struct Registration;
        std::shared_ptr<Registration> registration_;
    };

    static Result<EventLoop> open();

    // Calls `handler` with the ready EPOLL* bits while they are ready. The fd stays the caller's
    // and must stay open as long as the source.
    [[nodiscard]] Source on_io(int fd, uint32_t epoll_events,
                               std::function<void(uint32_t)> handler);

    // Calls `handler` once, after `delay` of the monotonic clock.
    [[nodiscard]] Source after(std::chrono::microseconds delay, std::function<void()> handler);

    // Calls `handler` for each arrival of the signal, which is blocked for the process. The handler
    // gets the pid of the sender.
    [[nodiscard]] Source on_signal(int signal, std::function<void(int)> handler);

    // Calls `handler` once, when the present round of events is done.
    [[nodiscard]] Source soon(std::function<void()> handler);

    // From now on systemd's watchdog is told that the loop turns, where the unit has one
    // (WATCHDOG_USEC).
    void feed_watchdog();

    // Runs until exit(); returns exit's status.
    int run();
    void exit(int status);

    // Serves what is ready now, waiting at most `timeout` for the first; for tests and start-up.
    void run_once(std::chrono::microseconds timeout);

  private:
    Source add(std::shared_ptr<Source::Registration> registration);
    struct Unref {
        void operator()(sd_event* event) const { sd_event_unref(event); }
    };
    std::unique_ptr<sd_event, Unref> event_;
};

}  // namespace drover
