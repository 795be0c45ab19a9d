// SPDX-License-Identifier: MIT
//
// One connection to a master's control socket: JSON lines, one request, one reply, then events.
#pragma once

#include <optional>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "cli/render.h"

namespace drover::cli {

class Connection {
  public:
    // Error numbers of connect(2): ENOENT (no such socket), ECONNREFUSED (its master is gone),
    // EACCES (not root).
    static Result<Connection> open(const std::string& socket_path);

    Result<void> send(const Json& request);

    // The next line without its newline; waits as long as it takes. Nothing at the end.
    Result<std::optional<std::string>> read_line();

    // The same for those that must not wait: reads what has come (false at the end), and gives out
    // the lines that are whole.
    Result<bool> receive();
    std::optional<std::string> take_line();
    [[nodiscard]] int fd() const { return socket_.get(); }

    // A pidfd of the master. Not open where it is gone, or not seen from here.
    [[nodiscard]] Fd master() const;

  private:
    Result<bool> receive(int flags);

    Fd socket_;
    size_t searched_ = 0;   // bytes of received_ that have no newline
    std::string received_;  // beyond the line that was given out
};

// {"v":1,"id":1,"verb":…,"args":…}
Json make_request(const std::string& verb, Json args, int64_t id = 1);

// The `data` of a reply line. The error of an {"ok":false} has the code and the escaped text of its
// master; code "protocol" where it is no reply.
Result<Json> parse_reply(const std::string& line);
Result<Json> read_reply(const Json& reply);

}  // namespace drover::cli
