// SPDX-License-Identifier: MIT
#include "logger/sink.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace drover::logger {

void Sink::open() {
    struct stat info {};
    if (::fstat(fd_, &info) != 0) return;
    is_terminal_ = ::isatty(fd_) == 1;
    is_socket_ = S_ISSOCK(info.st_mode);
    // A regular file never blocks for want of a reader, and opened anew it would lose its offset.
    if (!is_terminal_ && !S_ISFIFO(info.st_mode)) return;
    auto path = fmt::format("/proc/self/fd/{}", fd_);
    nonblocking_.reset(::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
}

void Sink::write(std::string_view lines) {
    if (lines.empty()) return;
    if (!write_what_is_due()) {
        discard(lines);
        return;
    }
    auto written = write_bytes(lines);
    bool is_mid_line = written > 0 && lines[written - 1] != '\n';
    lines.remove_prefix(written);
    if (is_mid_line) {
        auto end = lines.find('\n') + 1;
        due_ = lines.substr(0, end);
        lines.remove_prefix(end);
    }
    discard(lines);
}

bool Sink::write_what_is_due() {
    due_.erase(0, write_bytes(due_));
    if (!due_.empty() || untold_ == 0) return due_.empty();
    due_ = fmt::format("{}drover: {} lines discarded: this output could not be written\n", prefix_,
                       std::exchange(untold_, 0));
    due_.erase(0, write_bytes(due_));
    return due_.empty();
}

size_t Sink::write_bytes(std::string_view bytes) {
    int fd = nonblocking_.is_open() ? nonblocking_.get() : fd_;
    size_t written = 0;
    while (written < bytes.size()) {
        auto rest = bytes.substr(written);
        auto size = is_socket_ ? ::send(fd, rest.data(), rest.size(), MSG_DONTWAIT | MSG_NOSIGNAL)
                               : ::write(fd, rest.data(), rest.size());
        if (size >= 0) {
            written += static_cast<size_t>(size);
            is_stuck_ = false;
            continue;
        }
        if (errno == EINTR) continue;
        if (errno != EAGAIN || !wait_for_reader()) break;
    }
    return written;
}

bool Sink::wait_for_reader() {
    if (is_stuck_) return false;
    pollfd poll{nonblocking_.is_open() ? nonblocking_.get() : fd_, POLLOUT, 0};
    is_stuck_ = ::poll(&poll, 1, static_cast<int>(patience_.count())) <= 0;
    return !is_stuck_;
}

void Sink::discard(std::string_view lines) {
    auto count = static_cast<uint64_t>(std::count(lines.begin(), lines.end(), '\n'));
    untold_ += count;
    discarded_total_ += count;
}

}  // namespace drover::logger
