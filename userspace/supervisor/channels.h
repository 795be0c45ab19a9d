// SPDX-License-Identifier: MIT
//
// The workers' message channels: which kind each gets, what it needs to inherit, and who is told of
// what comes through. Sockets that a Node worker asks for are made here too.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "supervisor/config.h"
#include "supervisor/effects.h"
#include "supervisor/shared_sockets.h"
#include "worker/channel.h"
#include "worker/line_channel.h"
#include "worker/node_channel.h"

namespace drover::supervisor {

class Channels : private worker::ChannelObserver {
  public:
    // `sockets` must outlive the channels.
    Channels(EventLoop& loop, SharedSockets& sockets) : loop_(loop), sockets_(sockets) {}

    // With the policy `shared` nobody else tells where a Node worker listens.
    void tell_tcp() { tells_tcp_ = true; }

    // Who is told; set before the first open().
    void set_observer(WorkerObserver& observer) { observer_ = &observer; }

    struct Inheritance {
        std::vector<std::pair<int, int>> fds;  // lent until started(): fd → number in the worker
        std::vector<std::string> environment;
    };
    // A channel for a worker that is about to start. `kind` is not automatic. Its fds get the
    // numbers from `first_number` on.
    Result<Inheritance> open(WorkerId id, Ipc kind, int instance, int workers, int first_number);
    // The channel of a worker that lives on: `read_end` and `write_end` are the master's; with a
    // Node worker `read_end` is both.
    Result<void> adopt(WorkerId id, bool is_node, Fd&& read_end, Fd&& write_end);
    // It runs: its ends are its own now.
    void started(WorkerId id);
    // It has ended: what it still left to be read is told first.
    void close(WorkerId id);

    // The first worker whose channel has something on its way; nothing where none has.
    [[nodiscard]] std::optional<WorkerId> busy() const;

    Result<void> send(WorkerId id, const std::string& data, WorkerId from);
    void ask_to_finish(WorkerId id, std::chrono::milliseconds deadline);
    // A Node worker that still has its end of the channel.
    [[nodiscard]] bool is_node_connected(WorkerId id) const;

  private:
    struct Open {
        std::unique_ptr<worker::LineChannel> line;
        std::unique_ptr<worker::NodeChannel> node;
        bool told_disconnect = false;
        [[nodiscard]] worker::Channel* channel() const {
            if (line) return line.get();
            return node.get();
        }
    };

    void on_channel_ready(uint64_t worker) override;
    void on_channel_message(uint64_t worker, const std::string& data, worker::Address to) override;
    void on_channel_load(uint64_t worker, double value) override;
    void on_channel_disconnect(uint64_t worker) override;
    void on_channel_pong(uint64_t worker) override;
    void on_channel_error(uint64_t worker, const Error& error) override;
    void on_channel_closed(uint64_t worker) override;
    void on_channel_query(uint64_t worker, uint64_t query,
                          const worker::SocketQuery& wanted) override;
    void on_channel_listening(uint64_t worker, const worker::SocketQuery& where) override;
    void tell_disconnect(uint64_t worker);

    EventLoop& loop_;
    SharedSockets& sockets_;
    WorkerObserver* observer_ = nullptr;
    std::map<WorkerId, Open> channels_;
    bool tells_tcp_ = false;
};

}  // namespace drover::supervisor
