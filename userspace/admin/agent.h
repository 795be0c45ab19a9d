// SPDX-License-Identifier: MIT
//
// HAProxy's agent check (--agent): whoever connects is told in one line how many connections this
// host should get, and the connection ends. What the line may say is HAProxy's (its manual, under
// agent-check):
//
//     ready up 80%    so much of the weight that HAProxy's own configuration gives this host
//     drain           nothing new: by "drover drain", or because it is about to stop
//     down            no worker is ready
//
// "ready" is in every good answer, because HAProxy keeps a "drain" until it hears that word, also
// over a restart of this host.
//
// The weight is 100 × workers that serve / workers wanted, less up to half of that as the host is
// busy: by the share of its CPUs' time that is used or of its workers for whom connections wait,
// whichever is more. Half at most, and over some seconds: HAProxy's balance already goes by its own
// connections, and two hosts that chase each other's idle time would swing.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"
#include "supervisor/config.h"
#include "supervisor/types.h"

namespace drover::admin {

// Of all CPUs, since the machine's start.
struct CpuTimes {
    uint64_t busy = 0;
    uint64_t all = 0;
};
// From the content of /proc/stat; nothing where it is something else. Pure.
std::optional<CpuTimes> parse_cpu_times(const std::string& content);

// How busy the host has been of late, 0 to 1. Pure.
class Busyness {
  public:
    using Time = std::chrono::steady_clock::time_point;
    // `waiting`: the share of workers for whom connections wait.
    double note(Time now, const std::optional<CpuTimes>& cpu, double waiting);

  private:
    std::optional<Time> last_;
    std::optional<CpuTimes> cpu_;
    double cpu_busy_ = 0;  // in the last interval that was long enough to tell
    double smoothed_ = 0;
};

// The share of the serving workers for whom connections wait. Pure.
double share_that_waits(const supervisor::Status& status);
// The line, with its end. Pure.
std::string agent_line(const supervisor::Status& status, double busy);

class Agent {
  public:
    using Ask = std::function<supervisor::Status()>;
    // Listens there; `at` has an address. `loop` outlives the agent.
    static Result<std::unique_ptr<Agent>> open(EventLoop& loop, const supervisor::Port& at,
                                               Ask status);
    [[nodiscard]] int port() const;

  private:
    Agent(EventLoop& loop, Ask status) : loop_(loop), status_(std::move(status)) {}
    void listen();
    void answer_all();

    EventLoop& loop_;
    Ask status_;
    Fd listener_;
    EventLoop::Source source_;
    Busyness busyness_;
};

}  // namespace drover::admin
