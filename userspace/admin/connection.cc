// SPDX-License-Identifier: MIT
#include "admin/connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/log.h"

namespace drover::admin {

Connection::Connection(EventLoop& loop, Fd&& socket, Handlers handlers)
    : loop_(loop), socket_(std::move(socket)), handlers_(std::move(handlers)) {}

Result<std::shared_ptr<Connection>> Connection::open(EventLoop& loop, Fd&& socket,
                                                     Handlers handlers) {
    std::shared_ptr<Connection> connection(
        new Connection(loop, std::move(socket), std::move(handlers)));
    connection->watch();
    if (!connection->source_.is_active())
        return fail("system", "watch a client of the control socket: the event loop refused it");
    return connection;
}

void Connection::send(std::string_view line) {
    if (!is_open() || finishing_) return;
    output_.append(line).push_back('\n');
    flush();
    if (is_open() && output_.size() - sent_ > kMaxOutput) {
        log::warn("a client of the control socket does not read: dropped");
        close();
    }
    watch();
}

void Connection::reply(std::string_view line) {
    --owed_;
    send(line);
    close_if_done();
}

void Connection::finish() {
    reading_ = false;
    finishing_ = true;
    close_if_done();
    watch();
}

void Connection::close() {
    if (!is_open()) return;
    source_.reset();
    socket_.reset();
    if (handlers_.on_close) handlers_.on_close();
}

void Connection::serve(uint32_t events) {
    if (events & EPOLLOUT) flush();
    if (is_open() && reading_ && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) read_some();
    // Both directions are gone: whoever is owed a reply is not there any more.
    if (is_open() && !reading_ && (events & (EPOLLHUP | EPOLLERR))) close();
    close_if_done();
    watch();
}

void Connection::read_some() {
    std::array<char, 64 * 1024> chunk;
    ssize_t size = ::recv(socket_.get(), chunk.data(), chunk.size(), MSG_DONTWAIT);
    if (size < 0) {
        if (errno != EAGAIN && errno != EINTR) close();
        return;
    }
    if (size == 0) {
        reading_ = false;  // what is left in input_ is half a line: nobody will end it
        return;
    }
    input_.append(chunk.data(), static_cast<size_t>(size));
    take_lines();
}

void Connection::take_lines() {
    size_t begin = 0;
    bool too_long = false;
    while (is_open() && reading_) {
        size_t end = input_.find('\n', std::max(begin, scanned_));
        too_long = (end == std::string::npos ? input_.size() : end) - begin > kMaxLine;
        if (too_long || end == std::string::npos) break;
        handlers_.on_line(std::string_view(input_).substr(begin, end - begin));
        begin = end + 1;
    }
    input_.erase(0, begin);
    scanned_ = input_.size();
    if (!too_long) return;
    // Where the next line begins is not worth knowing: the client is not one of ours.
    reading_ = false;
    input_.clear();
    handlers_.on_oversized();
}

void Connection::flush() {
    while (is_open() && has_output()) {
        ssize_t size = ::send(socket_.get(), output_.data() + sent_, output_.size() - sent_,
                              MSG_DONTWAIT | MSG_NOSIGNAL);
        if (size < 0 && errno == EINTR) continue;
        if (size < 0 && errno == EAGAIN) break;
        if (size < 0) return close();
        sent_ += static_cast<size_t>(size);
    }
    // Not at each write: to move the rest is work, too.
    if (sent_ == output_.size() || sent_ > kMaxOutput) {
        output_.erase(0, sent_);
        sent_ = 0;
    }
}

void Connection::close_if_done() {
    if (!is_open() || reading_ || has_output()) return;
    if (finishing_ || owed_ == 0) close();
}

// Keeps the event loop's interest in step. The former registration goes first: epoll takes an fd
// but once.
void Connection::watch() {
    if (!is_open()) return;
    uint32_t wanted = (reading_ ? EPOLLIN : 0U) | (has_output() ? EPOLLOUT : 0U);
    if (source_.is_active() && wanted == watched_) return;
    source_.reset();
    watched_ = wanted;
    source_ = loop_.on_io(socket_.get(), wanted, [weak = weak_from_this()](uint32_t events) {
        if (auto self = weak.lock()) self->serve(events);
    });
    // Without a registration it would stay forever; only memory running out leads here.
    if (!source_.is_active()) close();
}

}  // namespace drover::admin
