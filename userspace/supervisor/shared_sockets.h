// SPDX-License-Identifier: MIT
//
// The sockets that Node workers ask their primary for (listen() in a cluster worker).
//
// TCP: each worker gets a socket of its own in the port's group, so that connections are steered;
// port 0 is one port for all of them, as Node has it. UDP and unix sockets: all workers get the
// same one, as from Node's own primary.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <tuple>

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
    };
    explicit SharedSockets(Makers makers) : makers_(std::move(makers)) {}
    ~SharedSockets();  // removes the unix sockets' files

    // A socket, or an errno as bind() gives it.
    worker::SocketAnswer answer(WorkerId worker, const worker::SocketQuery& wanted);

  private:
    // What makes two workers' queries one: address, port, type (UDP apart), index.
    using Key = std::tuple<std::string, int, int, bool, int>;

    Result<Fd> tcp(WorkerId worker, const worker::SocketQuery& wanted, const Key& key);
    Result<Fd> shared(const worker::SocketQuery& wanted, const Key& key);

    Makers makers_;
    std::map<Key, int> ports_;         // that port 0 became
    std::map<Key, Fd> sockets_;        // UDP and unix
    std::map<Key, std::string> data_;  // the first worker's, for all (TLS ticket keys)
    std::set<std::string> paths_;      // of unix sockets
};

}  // namespace drover::supervisor
