// SPDX-License-Identifier: MIT
#include "worker/probe.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace drover::worker {

namespace {

constexpr size_t kLongestLine = 1024;  // of an answer's first line

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

Probe::Probe(EventLoop& loop, int socket, std::string path, const std::string& host,
             std::chrono::milliseconds timeout, Done done)
    : loop_(loop), socket_(socket), path_(std::move(path)), done_(std::move(done)) {
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
    if (path_.empty()) return finish({});
    // A request of one line always fits into an empty socket buffer.
    auto sent = ::send(socket_, request_.data(), request_.size(), MSG_NOSIGNAL);
    if (sent != static_cast<ssize_t>(request_.size()))
        return finish(fail_errno(sent < 0 ? errno : EIO, "send the request"));
    on_io_.reset();  // one source for an fd at a time
    on_io_ = loop_.on_io(socket_, EPOLLIN, [this](uint32_t) { read_answer(); });
}

void Probe::read_answer() {
    std::array<char, kLongestLine> buffer{};
    auto received = ::recv(socket_, buffer.data(), buffer.size(), 0);
    if (received < 0) {
        if (errno == EAGAIN || errno == EINTR) return;
        return finish(fail_errno(errno, "read the answer"));
    }
    answer_.append(buffer.data(), static_cast<size_t>(received));
    auto end = answer_.find('\n');
    if (end == std::string::npos && received > 0 && answer_.size() < kLongestLine) return;
    auto status = http_status(std::string_view(answer_).substr(0, end));
    if (!status) return finish(fail("no-http", "the answer is not HTTP"));
    if (*status < 200 || *status > 399)
        return finish(fail("http-status", fmt::format("status {}", *status)));
    finish({});
}

void Probe::finish(Result<void> result) {
    on_io_.reset();
    on_timeout_.reset();
    if (!result && !path_.empty())
        result.error().text = fmt::format("GET {}: {}", path_, result.error().text);
    // The caller may destroy us.
    auto done = std::move(done_);
    done(std::move(result));
}

}  // namespace drover::worker
