// SPDX-License-Identifier: MIT
//
// The logger process: reads what the workers print and writes it, line by line, with the prefix
// `[cluster/instance] `, to its own stdout and stderr, which are the master's.
//
// It is a process of its own so that workers can print while no master lives. It takes the read
// ends of their pipes over a SOCK_SEQPACKET socket, from the master's worker/output.cc. One message
// is one JSON object and one fd:
//
//     {"worker": 7, "instance": 0, "stream": "out"}        or "err"
//
// Without an fd the master asks for a worker's last lines, and is answered over the same socket:
//
//     {"tail": 7}   →   {"tail": 7, "lines": ["…", "…"]}
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
#include "logger/sink.h"
#include "logger/tail.h"

namespace drover::logger {

class Logger {
  public:
    // `control` is the socket; `out_fd` and `err_fd` are lent.
    Logger(EventLoop& loop, Fd control, int out_fd, int err_fd, const std::string& cluster);

    // `ended` is called once, when there is nothing to read any more and never will be.
    Result<void> start(std::function<void()> ended);

    [[nodiscard]] size_t pipes() const { return pipes_.size(); }
    [[nodiscard]] uint64_t discarded_lines_total() const {
        return out_.discarded_lines_total() + err_.discarded_lines_total();
    }

  private:
    struct Pipe {
        Fd fd;
        uint64_t worker;
        Sink* sink;
        size_t prefix;  // its length
        LineSplitter lines;
        EventLoop::Source source;  // after fd: ends before the fd is closed
    };

    void receive();
    void add(std::string_view description, Fd fd);
    void answer(std::string_view question);
    bool read(std::list<Pipe>::iterator pipe);  // false: nothing is there now, or never will be
    void take(Pipe& pipe, const std::string& lines);
    void forget_if_ended(uint64_t worker);
    void end_if_done();

    EventLoop& loop_;
    std::string cluster_;
    Fd control_;
    Sink out_;
    Sink err_;
    std::list<Pipe> pipes_;
    std::map<uint64_t, Tail> tails_;    // by worker
    std::deque<uint64_t> ended_tails_;  // of workers that print no more, in the order of their ends
    EventLoop::Source control_source_;
    std::function<void()> ended_;
};

// `drover logger CLUSTER`, started by the master alone, with the socket as fd 3. Returns the exit
// status.
int logger_main(const std::string& cluster);

}  // namespace drover::logger
