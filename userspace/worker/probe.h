// SPDX-License-Identifier: MIT
//
// One look at whether a worker answers: that a connection to it comes about, and where a path is
// given, that it answers one HTTP request with a status from 200 to 399.
//
// The connection is the caller's, who knows how to reach just that worker. The HTTP is as little as
// is needed: one GET of HTTP/1.0, of whose answer the first line counts.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/event_loop.h"
#include "base/result.h"

namespace drover::worker {

// The status in the first line of an HTTP answer; nothing where it is none. Pure.
std::optional<int> http_status(std::string_view line);

class Probe {
  public:
    // Called once, not from within the constructor. An error's text says what was missing, as in
    // "GET /health: status 503". The probe may be destroyed by it.
    using Done = std::function<void(Result<void>)>;

    // `socket` is nonblocking and connecting; it stays the caller's and must stay open as long as
    // the probe. `path` empty: TCP alone. `host` is what the request names as its host.
    Probe(EventLoop& loop, int socket, std::string path, const std::string& host,
          std::chrono::milliseconds timeout, Done done);

  private:
    void on_ready();
    void read_answer();
    void finish(Result<void> result);

    EventLoop& loop_;
    int socket_;
    std::string path_;
    std::string request_;  // empty once it was sent
    std::string answer_;
    Done done_;
    EventLoop::Source on_io_, on_timeout_;
};

}  // namespace drover::worker
