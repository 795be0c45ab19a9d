// SPDX-License-Identifier: MIT
#include "worker/probe.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstring>

namespace drover::worker {

namespace {

constexpr size_t kPiece = 16 << 10;  // that is read at a time
constexpr size_t kShownBody = 200;

bool is_same_word(std::string_view one, std::string_view other) {
    return std::ranges::equal(one, other, [](unsigned char a, unsigned char b) {
        return std::tolower(a) == std::tolower(b);
    });
}

// The value of that field in the head's lines; nothing where it is absent or no number.
std::optional<uint64_t> number_in(std::string_view head, std::string_view field) {
    while (!head.empty()) {
        auto end = std::min(head.find('\n'), head.size());
        auto line = head.substr(0, end);
        head.remove_prefix(std::min(end + 1, head.size()));
        auto colon = line.find(':');
        if (colon == std::string_view::npos || !is_same_word(line.substr(0, colon), field))
            continue;
        auto value = line.substr(colon + 1);
        value.remove_prefix(std::min(value.find_first_not_of(" \t"), value.size()));
        uint64_t number = 0;
        auto [stop, error] = std::from_chars(value.data(), value.data() + value.size(), number);
        if (error == std::errc() && stop != value.data()) return number;
    }
    return std::nullopt;
}

}  // namespace

std::optional<int> http_status(std::string_view line) {
    // "HTTP/1.1 200 OK"
    constexpr std::string_view kProtocol = "HTTP/1.";
    if (!line.starts_with(kProtocol) || line.size() < kProtocol.size() + 5) return std::nullopt;
    line.remove_prefix(kProtocol.size() + 1);
    if (line[0] != ' ' || (line.size() > 4 && line[4] != ' ' && line[4] != '\r'))
        return std::nullopt;
    int status = 0;
    for (char digit : line.substr(1, 3)) {
        if (digit < '0' || digit > '9') return std::nullopt;
        status = status * 10 + (digit - '0');
    }
    return status;
}

void AnswerReader::take(std::string_view piece) {
    if (is_in_body_) return take_body(piece);
    auto before = head_.size();
    head_.append(piece.substr(0, kLongestHead - std::min(before, kLongestHead)));
    read_head();
    if (is_in_body_) take_body(piece.substr(head_.size() - before));
}

// The head ends with an empty line; with or without carriage returns.
void AnswerReader::read_head() {
    auto first = head_.find('\n');
    if (first == std::string::npos) return;
    line_ = head_.substr(0, first);
    if (line_->ends_with('\r')) line_->pop_back();
    for (std::string_view end : {"\r\n\r\n", "\n\n"}) {
        auto at = head_.find(end);
        if (at == std::string::npos) continue;
        is_in_body_ = true;
        head_.resize(at + end.size());
        length_ = number_in(head_, "content-length");
        return;
    }
}

void AnswerReader::take_body(std::string_view piece) {
    answer_.body_bytes += piece.size();
    answer_.body += piece.substr(0, kShownBody - answer_.body.size());
}

std::optional<ProbeAnswer> AnswerReader::answer() const {
    auto line = line_.value_or(head_);
    auto status = http_status(line);
    if (!status) return std::nullopt;
    ProbeAnswer answer = answer_;
    answer.status = *status;
    answer.line = line;
    return answer;
}

Probe::Probe(EventLoop& loop, int socket, std::string path, const std::string& host, Wants wants,
             std::chrono::milliseconds timeout, Done done)
    : loop_(loop),
      socket_(socket),
      path_(std::move(path)),
      wants_(wants),
      begin_(std::chrono::steady_clock::now()),
      done_(std::move(done)) {
    // HTTP/1.0: the answer comes in one piece, and the server closes.
    if (!path_.empty())
        request_ = fmt::format(
            "GET {} HTTP/1.0\r\nHost: {}\r\nUser-Agent: drover\r\nConnection: close\r\n\r\n", path_,
            host);
    on_io_ = loop_.on_io(socket_, EPOLLOUT, [this](uint32_t) { on_ready(); });
    on_timeout_ = loop_.after(timeout, [this, timeout] {
        finish(fail("timeout", fmt::format("no answer within {} ms", timeout.count())));
    });
}

// The connection stands, or did not come about.
void Probe::on_ready() {
    int error = 0;
    socklen_t length = sizeof(error);
    if (::getsockopt(socket_, SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
    if (error != 0) return finish(fail_errno(error, "connect"));
    if (path_.empty()) return finish(ProbeAnswer{});
    // A request of one line always fits into an empty socket buffer.
    auto sent = ::send(socket_, request_.data(), request_.size(), MSG_NOSIGNAL);
    if (sent != static_cast<ssize_t>(request_.size()))
        return finish(fail_errno(sent < 0 ? errno : EIO, "send the request"));
    on_io_.reset();  // one source for an fd at a time
    on_io_ = loop_.on_io(socket_, EPOLLIN, [this](uint32_t) { read_answer(); });
}

void Probe::read_answer() {
    std::array<char, kPiece> buffer{};
    auto received = ::recv(socket_, buffer.data(), buffer.size(), 0);
    if (received < 0) {
        if (errno == EAGAIN || errno == EINTR) return;
        return finish(fail_errno(errno, "read the answer"));
    }
    reader_.take({buffer.data(), static_cast<size_t>(received)});
    bool has_all = wants_ == Wants::good_status ? reader_.has_line() : reader_.is_whole();
    if (received == 0 || has_all || reader_.is_broken()) judge();
}

void Probe::judge() {
    auto answer = reader_.answer();
    if (!answer) return finish(fail("no-http", "the answer is not HTTP"));
    bool is_good = answer->status >= 200 && answer->status <= 399;
    if (wants_ == Wants::good_status && !is_good)
        return finish(fail("http-status", fmt::format("status {}", answer->status)));
    answer->took = std::chrono::duration_cast<std::chrono::microseconds>(
        std::chrono::steady_clock::now() - begin_);
    finish(std::move(*answer));
}

void Probe::finish(Result<ProbeAnswer> result) {
    on_io_.reset();
    on_timeout_.reset();
    if (!result && !path_.empty())
        result.error().text = fmt::format("GET {}: {}", path_, result.error().text);
    // The caller may destroy us.
    auto done = std::move(done_);
    done(std::move(result));
}

}  // namespace drover::worker
