// SPDX-License-Identifier: MIT
//
// The logger process: reads what the workers print and writes it, line by line, to where it belongs
// (see outlets.h).
//
// It is a process of its own so that workers can print while no master lives. It takes the read
// ends of their pipes over a SOCK_SEQPACKET socket, from the master's worker/output.cc. One message
// is one JSON object and one fd:
//
//     {"worker": 7, "instance": 0, "stream": "out"}        or "err"
//
// Without an fd the master asks for a worker's last lines, or has something to say itself. The
// answer comes over the same socket, and so does the number of lines that a worker lost because it
// printed too much:
//
//     {"tail": 7}   →   {"tail": 7, "lines": ["…", "…"]}
//     {"level": "warning", "text": "…"}
//                       {"worker": 7, "dropped": 12345}
//
// Fair to all: each pipe has its turn, with a bounded number of bytes. A worker that prints more
// than it may is read on, so that it can go on, but only a hundred times a second, so that it is
// its own time that it wastes.
//
// It ends when that socket is at its end and every pipe is too.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <string>
#include <string_view>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"
#include "logger/lines.h"
#include "logger/outlets.h"
#include "logger/rate.h"
#include "logger/settings.h"
#include "logger/tail.h"

namespace drover::logger {

class Logger {
  public:
    // `control` is the socket.
    Logger(EventLoop& loop, Fd control, Outlets outlets, const std::string& cluster,
           RateLimit rate);

    // `ended` is called once, when there is nothing to read any more and never will be.
    Result<void> start(std::function<void()> ended);

    [[nodiscard]] size_t pipes() const { return pipes_.size(); }
    [[nodiscard]] uint64_t discarded_lines_total() const {
        return outlets_.discarded_lines_total();
    }

  private:
    struct Pipe {
        Fd fd;
        Origin origin;
        LineSplitter lines;
        EventLoop::Source source;  // after fd: ends before the fd is closed; or the pause's
        [[nodiscard]] uint64_t worker() const { return origin.worker->id; }
    };
    struct Worker {
        int instance = 0;
        Tail tail;
        Rate rate;
        EventLoop::Source on_over;  // the time is over in which it printed too much
    };
    using PipeAt = std::list<Pipe>::iterator;

    void receive();
    void add(std::string_view description, Fd fd);
    void serve(std::string_view request);
    void answer(uint64_t worker);
    void watch(PipeAt pipe);
    bool read(PipeAt pipe);  // false: nothing is there now, or never will be
    void take(PipeAt pipe, const std::string& lines);
    void tell_dropped(uint64_t worker);
    void send(const std::string& text);
    [[nodiscard]] bool prints(uint64_t worker) const;
    void forget_if_ended(uint64_t worker);
    void end_if_done();

    EventLoop& loop_;
    std::string cluster_;
    Fd control_;
    Outlets outlets_;
    RateLimit rate_;
    std::list<Pipe> pipes_;
    std::map<uint64_t, Worker> workers_;
    std::deque<uint64_t> ended_;  // workers that print no more, in the order of their ends
    EventLoop::Source control_source_;
    std::function<void()> on_end_;
};

// `drover logger CLUSTER SETTINGS`, started by the master alone, with the socket as fd 3. Returns
// the exit status.
int logger_main(const std::string& cluster, const std::string& settings);

}  // namespace drover::logger
