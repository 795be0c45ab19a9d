// SPDX-License-Identifier: MIT
//
// One client of the control socket: lines in, lines out, and the limits of both.
//
// Nothing here blocks the master. A line that is too long ends the input; a client that does not
// read is dropped when more waits for it than kMaxOutput. A client may shut its writing side down
// after the last request (`nc -N` does): the connection stays until all owed replies are sent. What
// the lines mean is the server's business.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"

namespace drover::admin {

class Connection : public std::enable_shared_from_this<Connection> {
  public:
    static constexpr size_t kMaxLine = 1 << 20;    // bytes, without the line's end
    static constexpr size_t kMaxOutput = 4 << 20;  // bytes that wait for the client

    struct Handlers {
        std::function<void(std::string_view line)> on_line;  // without its end
        std::function<void()> on_oversized;  // no more lines come; finish() is not yet called
        std::function<void()> on_close;      // once, the last call
    };

    // Takes over a connected, nonblocking stream socket.
    static Result<std::shared_ptr<Connection>> open(EventLoop& loop, Fd&& socket,
                                                    Handlers handlers);

    // Sends a line; the end is added. Does nothing once the connection is closed or finishing. May
    // close the connection.
    void send(std::string_view line);

    // One more reply will come: a client that has shut down its writing side is kept until then.
    void owe() { ++owed_; }
    // Sends an owed reply.
    void reply(std::string_view line);

    // Reads no more, and closes when all is sent.
    void finish();
    void close();
    [[nodiscard]] bool is_open() const { return socket_.is_open(); }

  private:
    Connection(EventLoop& loop, Fd&& socket, Handlers handlers);
    void serve(uint32_t events);
    void read_some();
    void take_lines();
    void flush();
    void close_if_done();
    void watch();
    [[nodiscard]] bool has_output() const { return sent_ < output_.size(); }

    EventLoop& loop_;
    Fd socket_;
    Handlers handlers_;
    EventLoop::Source source_;
    uint32_t watched_ = 0;
    std::string input_;
    size_t scanned_ = 0;  // of input_: no line's end before it
    std::string output_;
    size_t sent_ = 0;  // of output_
    int owed_ = 0;
    bool reading_ = true;
    bool finishing_ = false;
};

}  // namespace drover::admin
