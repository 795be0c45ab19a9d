// SPDX-License-Identifier: MIT
//
// The control socket: how the command line, and any program of root's, asks a running cluster.
//
// A Unix stream socket of mode 0600; the peer must be root (or the user that the master runs as).
// One JSON object a line, both ways: requests.h. `events` with {"follow":true} answers with the
// latest events, and every event after those follows as a line of its own, none missed and none
// twice.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "admin/connection.h"
#include "admin/requests.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"
#include "supervisor/types.h"

namespace drover::admin {

class ControlServer {
  public:
    // Listens at `path`, whose folder exists; a socket that a former master left there is replaced
    // (the caller holds the cluster's lock). `cluster` is the name that events carry. `loop` and
    // `commands` outlive the server.
    static Result<std::unique_ptr<ControlServer>> open(EventLoop& loop, const std::string& path,
                                                       std::string cluster, Commands& commands);
    // Closes all connections and removes the socket from the file system.
    ~ControlServer();
    ControlServer(const ControlServer&) = delete;
    ControlServer& operator=(const ControlServer&) = delete;

    // Sends an event to those who follow. To be called for each, after recent_events() has it.
    void publish(const supervisor::Event& event);

    [[nodiscard]] size_t clients() const { return clients_.size(); }

  private:
    struct Client {
        std::shared_ptr<Connection> connection;
        std::optional<uint64_t> follows_from;  // the next seq it wants; none: no follower
    };

    ControlServer(EventLoop& loop, std::string path, std::string cluster, Commands& commands);
    void listen();
    void accept_all();
    void welcome(Fd&& socket);
    void serve(uint64_t client, std::string_view line);

    EventLoop& loop_;
    std::string path_;
    std::string cluster_;
    Commands& commands_;
    Fd listener_;
    EventLoop::Source source_;
    std::map<uint64_t, Client> clients_;
    uint64_t last_client_ = 0;
};

}  // namespace drover::admin
