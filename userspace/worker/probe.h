// SPDX-License-Identifier: MIT
//
// One look at whether a worker answers: that a connection to it comes about, and where a path is
// given, that it answers one HTTP request, with a status from 200 to 399 or with whatever.
//
// The connection is the caller's, who knows how to reach just that worker. The HTTP is as little as
// is needed: one GET of HTTP/1.0. Of its answer the first line counts, or it is read to its end.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/event_loop.h"
#include "base/result.h"

namespace drover::worker {

// The status in the first line of an HTTP answer; nothing where it is none. Pure.
std::optional<int> http_status(std::string_view line);

// What was answered. Of a whole answer there are the line, the body's length and its beginning.
struct ProbeAnswer {
    int status = 0;  // 0: none was asked for
    std::string line;
    std::chrono::microseconds took{};  // to the end of what was read
    uint64_t body_bytes = 0;
    std::string body;  // the first 200 bytes
};
// What is wanted: a first line with a status from 200 to 399, or any answer as a whole.
enum class Wants { good_status, whole_answer };

// Takes an HTTP answer in pieces, as they come. Pure.
class AnswerReader {
  public:
    void take(std::string_view piece);
    // Its first line is there; what follows may still come.
    [[nodiscard]] bool has_line() const { return line_.has_value(); }
    // It begins with no line, so it is no HTTP.
    [[nodiscard]] bool is_broken() const { return !line_ && head_.size() >= kLongestLine; }
    // As much of the body has come as the head said. Where it did not say, never.
    [[nodiscard]] bool is_whole() const { return length_ && answer_.body_bytes >= *length_; }
    // Nothing where what has come is no HTTP.
    [[nodiscard]] std::optional<ProbeAnswer> answer() const;

  private:
    static constexpr size_t kLongestLine = 1024;
    static constexpr size_t kLongestHead = 16 << 10;
    void read_head();
    void take_body(std::string_view piece);

    std::string head_;  // until its end has come
    bool is_in_body_ = false;
    std::optional<std::string> line_;
    std::optional<uint64_t> length_;
    ProbeAnswer answer_;
};

class Probe {
  public:
    // Called once, not from within the constructor. An error's text says what was missing, as in
    // "GET /health: status 503". The probe may be destroyed by it.
    using Done = std::function<void(Result<ProbeAnswer>)>;

    // `socket` is nonblocking and connecting; it stays the caller's and must stay open as long as
    // the probe. `path` empty: TCP alone. `host` is what the request names as its host.
    Probe(EventLoop& loop, int socket, std::string path, const std::string& host, Wants wants,
          std::chrono::milliseconds timeout, Done done);

  private:
    void on_ready();
    void read_answer();
    void judge();
    void finish(Result<ProbeAnswer> result);

    EventLoop& loop_;
    int socket_;
    std::string path_;
    std::string request_;  // empty once it was sent
    Wants wants_;
    AnswerReader reader_;
    std::chrono::steady_clock::time_point begin_;
    Done done_;
    EventLoop::Source on_io_, on_timeout_;
};

}  // namespace drover::worker
