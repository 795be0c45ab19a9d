// SPDX-License-Identifier: MIT
//
// The master's end of a Node worker's channel: a socket pair over which Node's cluster module, in
// an unmodified worker, finds the primary that it expects.
//
// The worker asks for each socket that it wants to listen on (queryServer); the observer finds or
// makes one, at once or later, and answer() hands it over. Sockets go one at a time: the next when
// the worker has said that it got the last. Messages do not wait for them.
//
// The worker is to be given both ends: Node ends at once when its channel is at its end, so the
// death of the master must not close it. The second one is only held, never used.
//
//     auto channel = NodeChannel::open(loop, id, observer);
//     request.fds = {{channel->child_fd(), 3}, {channel->second_child_fd(), 4}};
//     request.environment += channel->environment(3);
//     … spawn …
//     channel->close_child_end();
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"
#include "worker/channel.h"
#include "worker/node_frames.h"

namespace drover::worker {

class NodeChannel : public Channel {
  public:
    // Who the worker is to believe it is: a worker of a cluster, or a program that was forked with
    // a channel (NODE_UNIQUE_ID unset; it makes its sockets itself).
    enum class Role { cluster_worker, child };

    // `loop` and `observer` must outlive the channel. The observer may destroy the channel in any
    // of its callbacks.
    static Result<std::unique_ptr<NodeChannel>> open(EventLoop& loop, uint64_t worker,
                                                     ChannelObserver& observer,
                                                     Role role = Role::cluster_worker);

    // The channel of a worker that lives on, by the master's end of it as it was got from the
    // worker.
    static std::unique_ptr<NodeChannel> adopt(EventLoop& loop, uint64_t worker,
                                              ChannelObserver& observer, Fd&& master_end);

    // The worker's end, and the master's, to be lent to spawn(). -1 after close_child_end().
    [[nodiscard]] int child_fd() const { return child_end_.get(); }
    [[nodiscard]] int second_child_fd() const { return master_end_.get(); }
    // To be called once the worker is started, or its end is never seen.
    void close_child_end() { child_end_.reset(); }
    // NAME=VALUE; `number` is what child_fd() is in the worker.
    [[nodiscard]] std::vector<std::string> environment(int number) const;

    // Node has no sender's name in its messages: `from` is not passed on. Errors besides the
    // interface's: "malformed", "oversized" and "reserved" (node_frames.h).
    Result<void> send(const std::string& data, uint64_t from) override;
    // A worker of a cluster closes its servers, waits for its connections without a limit of its
    // own, and exits with 0: `deadline` is not told to it. A plain child is told by the end of its
    // channel. Queries are not answered any more.
    Result<void> disconnect(std::chrono::milliseconds deadline) override;

    // Answers on_channel_query, also from within it. A TCP socket must be bound to the port asked
    // for and need not listen; it is made nonblocking. Errors: "no-such-query" (or answered
    // already), "closed". After a disconnect nothing is sent.
    Result<void> answer(uint64_t query, SocketAnswer&& answer);

    [[nodiscard]] bool is_quiet() const override {
        return lines_.empty() && handles_.empty() && queries_.empty() && !cutter_.is_within_line();
    }
    [[nodiscard]] uint64_t unknown_total() const override { return unknown_total_; }

  private:
    // A socket on its way to the worker: kept until the worker has it.
    struct Handle {
        std::string line;
        Fd socket;
        uint64_t ack = 0;
        std::string key;
        std::string data;
        int times_sent = 0;
    };
    struct Query {
        uint64_t ack = 0;
        bool udp = false;
    };
    enum class Written { all, blocked };

    NodeChannel(EventLoop& loop, uint64_t worker, ChannelObserver& observer, Role role)
        : loop_(loop), worker_(worker), observer_(observer), role_(role) {}

    void on_ready(uint32_t events);
    void read();
    void read_lines();
    void on_end();
    void on_line(const NodeLineCutter::Line& line);
    void on_frame(const NodeMessage& frame);
    void on_frame(const NodeOnline& frame);
    void on_frame(const NodeQuery& frame);
    void on_frame(const NodeListening& frame);
    void on_frame(const NodeServerClosed& frame);
    void on_frame(const NodeLeaving& frame);
    void on_frame(const NodeHandle& frame);
    void on_frame(const NodeHandleAnswer& frame);
    void on_frame(const NodeUnknown& frame);

    void queue_line(std::string line);
    void flush();
    Written write_handle();
    Written write_line();
    void lose_handle(int error);
    void give_up_writing();
    [[nodiscard]] bool is_handle_due() const;
    void watch();

    EventLoop& loop_;
    uint64_t worker_;
    ChannelObserver& observer_;
    Role role_;
    Fd master_end_;
    Fd child_end_;

    EventLoop::Source source_;
    uint32_t watched_ = 0;
    EventLoop::Source more_lines_;
    NodeLineCutter cutter_{kMaxLine};

    std::deque<std::string> lines_;
    size_t line_written_ = 0;  // of the first one
    size_t queued_bytes_ = 0;  // of all lines
    std::deque<Handle> handles_;
    size_t handle_written_ = 0;          // of the first one
    bool is_handle_on_its_way_ = false;  // the first one is written, its receipt is awaited

    std::map<uint64_t, Query> queries_;  // not answered yet
    uint64_t last_query_ = 0;
    uint64_t last_seq_ = 0;
    uint64_t last_key_ = 0;
    uint64_t unknown_total_ = 0;
    bool is_disconnecting_ = false;
    bool is_write_closed_ = false;
    bool is_closed_ = false;
    // Expires with the channel: so a function sees that a callback has destroyed it.
    std::shared_ptr<char> life_ = std::make_shared<char>();
};

}  // namespace drover::worker
