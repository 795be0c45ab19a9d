// SPDX-License-Identifier: MIT
//
// The master's side of the logger process, which reads what the workers print.
//
// The logger is the same binary, run as `drover logger` (hidden) with one end of a socket pair as
// its fd 3. Over it come the read ends of the workers' pipes (SCM_RIGHTS), each with one JSON line
// that names instance, worker and stream. It ends when the socket is at its end and every pipe is
// too: so it outlives a killed master for as long as workers live and print.
//
// The master keeps a duplicate of each read end, so either may die without a worker's stdout
// breaking: a logger that dies is started anew and given the duplicates.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"
#include "worker/spawn.h"

namespace drover::worker {

class Output {
  public:
    // `cluster` for the prefix; `cgroup` (lent, must stay open) is the logger's; `settings` are for
    // it (logger/settings.h); tests give another `executable`.
    Output(EventLoop& loop, std::string cluster, sys::CgroupEntry cgroup, std::string settings,
           std::string executable = "/proc/self/exe");
    ~Output();

    // Starts the logger process, with the master's stdout and stderr as its own. A dead one is
    // replaced, at most once a second; `restarted` is called with a sentence each time, also where
    // that failed and is tried again.
    Result<void> start(std::function<void(const std::string&)> restarted);

    // The write ends for one worker's stdout and stderr, to be closed once the worker is started;
    // the read ends go to the logger.
    struct Pipes {
        Fd out;
        Fd err;
    };
    Result<Pipes> add_worker(uint64_t worker_id, int instance);

    // Asks the logger for the last lines that the worker printed, also of one that was removed a
    // moment ago. `tell` is called once, with none where the logger does not answer in time.
    using LastLines = std::function<void(const std::vector<std::string>& lines)>;
    void last_lines(uint64_t worker_id, LastLines tell);

    // Gives the logger a line of the master's own, to be kept with those of the workers. `level` as
    // in logger.h. False where it cannot be given now.
    bool keep(std::string_view level, std::string_view text);

    // How many lines of the worker were dropped because it printed too much.
    [[nodiscard]] uint64_t dropped_lines(uint64_t worker_id) const;

    // The worker is gone: its duplicates are closed. The logger reads the rest by itself.
    void remove_worker(uint64_t worker_id);

    [[nodiscard]] int pid() const;  // of the logger; 0 where none runs

    // Lets go of the logger (closes the socket); it ends when it has read everything. After
    // `deadline` it is killed. `ended` is called once, when it is gone.
    void finish(std::chrono::milliseconds deadline, std::function<void()> ended);

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace drover::worker
