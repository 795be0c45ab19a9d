// SPDX-License-Identifier: MIT
//
// A connection to one given worker through the port that all of them share. How else would one find
// out whether just this worker answers?
//
// The client's end is bound first, so that both ends are known; they are entered as a pin, and only
// then the connection is asked for. The program sends it to the pinned slot or refuses it.
#pragma once

#include <utility>

#include "base/fd.h"
#include "base/result.h"
#include "steer/endpoint.h"
#include "steer/programs.h"

namespace drover::steer {

class PinnedConnection {
  public:
    // Begins to connect to the slot's listener at that endpoint. `programs` outlives the
    // connection.
    static Result<PinnedConnection> open(Programs& programs, const Endpoint& at, bool v6only,
                                         uint32_t slot);
    PinnedConnection(PinnedConnection&& other) noexcept
        : programs_(std::exchange(other.programs_, nullptr)),
          key_(other.key_),
          server_(other.server_),
          socket_(std::move(other.socket_)) {}
    PinnedConnection& operator=(PinnedConnection&&) = delete;
    ~PinnedConnection();  // ends the connection and the pin

    [[nodiscard]] int socket() const { return socket_.get(); }  // nonblocking, still connecting
    [[nodiscard]] const Endpoint& server() const { return server_; }

  private:
    PinnedConnection(Programs& programs, const drover_pin_key& key, Fd socket)
        : programs_(&programs), key_(key), socket_(std::move(socket)) {}
    static Result<PinnedConnection> connect(Programs& programs, const Endpoint& server,
                                            uint32_t slot);

    Programs* programs_;
    drover_pin_key key_;
    Endpoint server_;
    Fd socket_;
};

}  // namespace drover::steer
