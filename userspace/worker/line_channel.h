// SPDX-License-Identifier: MIT
//
// A worker's message channel in JSON lines (line_protocol.h), over two pipes.
//
// The worker inherits both ends of both pipes. So a master that dies is no end of file and no
// SIGPIPE for it, and a later master can fetch the ends from it. For the master this means: the
// channel is over when the worker is, which is known from its exit, and then close() is called. An
// end of file alone says no more than that the worker has closed its ends, as programs do that
// close every descriptor they do not know: reading stops, nothing else happens.
//
// Reading is fair: one read of at most kMaxTurn bytes for each turn of the event loop. Writing
// never waits: what the pipe does not take stays in a queue of at most kMaxQueued bytes, and the
// loop watches the pipe only while something is in it.
//
// SIGPIPE must be ignored by the process.
#pragma once

#include <memory>

#include "base/event_loop.h"
#include "worker/channel.h"

namespace drover::worker {

class LineChannel final : public Channel {
  public:
    static constexpr size_t kMaxTurn = 64 * 1024;
    // Lines refused in one turn that are each told; the others of that turn are told as one.
    static constexpr int kMaxErrorsPerTurn = 16;

    // Makes the pipes and puts the hello into the worker's. `loop` and `observer` must outlive the
    // channel.
    static Result<std::unique_ptr<LineChannel>> open(EventLoop& loop, uint64_t worker, int instance,
                                                     int workers, ChannelObserver& observer);
    // The channel of a worker that lives on, by the master's ends of it as they were got from the
    // worker. What a dead master had read of an unfinished line is lost with it.
    static Result<std::unique_ptr<LineChannel>> adopt(EventLoop& loop, uint64_t worker,
                                                      ChannelObserver& observer, Fd&& read_end,
                                                      Fd&& write_end);
    // Tells the observer nothing. The observer's calls may destroy the channel.
    ~LineChannel() override;

    // What the worker is to be given, each under any number; lent. Closed on exec.
    struct ChildFds {
        int read = -1;         // its number goes into DROVER_IPC_READ_FD
        int write = -1;        // its number goes into DROVER_IPC_WRITE_FD
        int spare_write = -1;  // the other end of `read`
        int spare_read = -1;   // the other end of `write`
    };
    [[nodiscard]] ChildFds child_fds() const;
    // To be called once the worker is started: child_fds() are -1 from then on.
    void close_child_ends();

    // Besides the errors of the interface: "oversized", where the line would be too long for the
    // worker. "closed" also where the worker has closed its end.
    Result<void> send(const std::string& data, uint64_t from) override;
    // Finds room in a full queue, too.
    Result<void> disconnect(std::chrono::milliseconds deadline) override;
    // Asks for a pong. Errors as of send().
    Result<void> ping();

    // The worker is gone. Reads what it still left in its pipe, then calls on_channel_closed; once.
    // From within one of the observer's calls nothing more is read.
    void close();

    [[nodiscard]] bool is_quiet() const override;
    [[nodiscard]] uint64_t unknown_total() const override;
    [[nodiscard]] size_t queued_bytes() const;  // written by the master, not yet in the pipe

  private:
    struct Impl;
    explicit LineChannel(std::shared_ptr<Impl> impl);
    std::shared_ptr<Impl> impl_;  // shared with a turn that is going on, which may destroy this
};

}  // namespace drover::worker
