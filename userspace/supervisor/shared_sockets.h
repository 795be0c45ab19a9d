// SPDX-License-Identifier: MIT
//
// The sockets that Node workers ask their primary for (listen() in a cluster worker).
//
// TCP: each worker gets a socket of its own in the port's group, so that connections are steered;
// port 0 is one port for all of them, as Node has it. UDP and unix sockets: all workers get the
// same one, as from Node's own primary. With the policy `shared` that is so for TCP, too, and for
// the sockets of --listen.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "steer/endpoint.h"
#include "supervisor/types.h"
#include "worker/channel.h"

namespace drover::supervisor {

class SharedSockets {
  public:
    // How TCP sockets are made, given by steering: bound, not listening; and a port that is free.
    struct Makers {
        std::function<Result<Fd>(WorkerId, const steer::Endpoint&, bool v6only)> socket;
        std::function<Result<int>(const steer::Endpoint&, bool v6only)> free_port;
        // For the policy `shared`, else empty: a socket for all workers; backlog −1: not listening.
        std::function<Result<Fd>(WorkerId, const steer::Endpoint&, bool v6only, int backlog)>
            common;
    };
    explicit SharedSockets(Makers makers) : makers_(std::move(makers)) {}
    ~SharedSockets();  // removes the unix sockets' files

    // A socket, or an errno as bind() gives it.
    worker::SocketAnswer answer(WorkerId worker, const worker::SocketQuery& wanted);

    // The listening socket of all workers at that address (policy `shared`).
    Result<Fd> listening(WorkerId worker, const steer::Endpoint& at, int backlog);

    struct Common {
        steer::Endpoint at;
        bool v6only = false;
        uint64_t queued = 0;
    };
    // The TCP sockets that all workers have in common, with what waits in them.
    [[nodiscard]] std::vector<Common> common() const;
    // Lets go of them: they are the workers' alone.
    void close_common() { common_.clear(); }

  private:
    // What makes two workers' queries one: address, port, type (UDP apart), index.
    using Key = std::tuple<std::string, int, int, bool, int>;

    Result<Fd> tcp(WorkerId worker, const worker::SocketQuery& wanted, const Key& key);
    Result<Fd> tcp_at(const std::string& address, WorkerId worker,
                      const worker::SocketQuery& wanted, const Key& key);
    Result<Fd> common_tcp(WorkerId worker, const steer::Endpoint& at, bool v6only, int backlog);
    Result<Fd> shared(const worker::SocketQuery& wanted, const Key& key);

    Makers makers_;
    std::map<Key, int> ports_;                               // that port 0 became
    std::map<Key, Fd> sockets_;                              // UDP and unix
    std::map<std::pair<steer::Endpoint, bool>, Fd> common_;  // TCP; the bool is v6only
    std::map<Key, std::string> data_;  // the first worker's, for all (TLS ticket keys)
    std::set<std::string> paths_;      // of unix sockets
};

}  // namespace drover::supervisor
