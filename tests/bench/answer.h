// SPDX-License-Identifier: MIT
//
// Reads one HTTP/1 answer, as it comes in pieces: the status, where it ends, and who wrote it. The
// worker is what a header `X-Worker` says, else the number in a body that begins with "pid N", as
// the test servers' do. Chunked answers are not understood: where the connection is kept, they
// would seem never to end, so they count as bad.
#pragma once

#include <strings.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace drover::bench {

class Answer {
  public:
    enum class State { more, whole, bad };

    // Takes what was read. An empty piece is the end of the stream; before the first byte of an
    // answer that is just not whole.
    State take(std::string_view piece) {
        if (state_ != State::more) return state_;
        if (in_head_) {
            head_ += piece;
            auto end = head_.find("\r\n\r\n");
            if (end == std::string::npos)
                return state_ = head_.size() > kMaxHead ? State::bad : state_;
            in_head_ = false;
            std::string body = head_.substr(end + 4);
            head_.resize(end + 2);  // each line has its own end
            if (!read_head()) return state_ = State::bad;
            return take_body(body);
        }
        return take_body(piece);
    }

    // The stream has ended. An answer of no stated length is whole then.
    State end() {
        if (state_ == State::more && !in_head_ && !length_) state_ = State::whole;
        return state_;
    }

    [[nodiscard]] int status() const { return status_; }

    // Empty where the answer does not say.
    [[nodiscard]] std::string worker() const {
        if (!worker_.empty()) return worker_;
        std::string_view text = body_start_;
        if (!text.starts_with("pid ")) return {};
        text.remove_prefix(4);
        return std::string(text.substr(0, text.find_first_not_of("0123456789")));
    }

  private:
    static constexpr size_t kMaxHead = 16'384;
    static constexpr size_t kBodyStart = 16;  // bytes kept of the body

    State take_body(std::string_view piece) {
        body_start_ += piece.substr(0, kBodyStart - std::min(kBodyStart, body_start_.size()));
        received_ += piece.size();
        if (length_ && received_ >= *length_) state_ = State::whole;
        return state_;
    }

    bool read_head() {
        std::string_view rest = head_;
        std::string_view first = take_line(rest);
        if (!first.starts_with("HTTP/1.") || first.size() < 12) return false;
        std::from_chars(first.data() + 9, first.data() + 12, status_);
        while (!rest.empty()) {
            auto line = take_line(rest);
            auto colon = line.find(':');
            if (colon == std::string_view::npos) return false;
            std::string name(line.substr(0, colon));
            auto value = line.substr(std::min(line.size(), line.find_first_not_of(' ', colon + 1)));
            if (::strcasecmp(name.c_str(), "x-worker") == 0) worker_ = value;
            if (::strcasecmp(name.c_str(), "transfer-encoding") == 0) return false;
            if (::strcasecmp(name.c_str(), "content-length") == 0) {
                size_t length = 0;
                auto [end, error] =
                    std::from_chars(value.data(), value.data() + value.size(), length);
                if (error != std::errc()) return false;
                length_ = length;
            }
        }
        return status_ >= 100;
    }

    static std::string_view take_line(std::string_view& text) {
        auto end = text.find("\r\n");
        auto line = text.substr(0, end);
        text.remove_prefix(std::min(text.size(), line.size() + 2));
        return line;
    }

    State state_ = State::more;
    bool in_head_ = true;
    std::string head_;
    std::string body_start_;
    std::string worker_;
    std::optional<size_t> length_;
    size_t received_ = 0;
    int status_ = 0;
};

}  // namespace drover::bench
