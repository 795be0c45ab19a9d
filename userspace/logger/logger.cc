// SPDX-License-Identifier: MIT
#include "logger/logger.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "base/log.h"

namespace drover::logger {

namespace {

// How long one worker may hold up the others: bytes read from a pipe before the next has its turn.
constexpr size_t kBytesPerTurn = 64 * 1024;
constexpr std::chrono::seconds kPatience{2};
constexpr size_t kLongestMessage = 4096;
constexpr int kControlFd = 3;

// Takes every fd that came along, whatever the message says, so that none is lost.
std::vector<Fd> fds_of(msghdr& message) {
    std::vector<Fd> fds;
    for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
         part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
        size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; ++i) {
            int number = -1;
            std::memcpy(&number, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
            fds.emplace_back(number);
        }
    }
    return fds;
}

}  // namespace

Logger::Logger(EventLoop& loop, Fd control, int out_fd, int err_fd, const std::string& cluster)
    : loop_(loop),
      cluster_(cluster),
      control_(std::move(control)),
      out_(out_fd, fmt::format("[{}] ", cluster), kPatience),
      err_(err_fd, fmt::format("[{}] ", cluster), kPatience) {}

Result<void> Logger::start(std::function<void()> ended) {
    ended_ = std::move(ended);
    out_.open();
    err_.open();
    control_source_ = loop_.on_io(control_.get(), EPOLLIN, [this](uint32_t) { receive(); });
    if (!control_source_.is_active()) return fail("system", "watch the logger's socket");
    return {};
}

void Logger::receive() {
    std::array<char, kLongestMessage> text;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(8 * sizeof(int))> rights;
    iovec buffer{text.data(), text.size()};
    msghdr message{};
    message.msg_iov = &buffer;
    message.msg_iovlen = 1;
    message.msg_control = rights.data();
    message.msg_controllen = rights.size();
    auto size = ::recvmsg(control_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size <= 0) {
        control_source_.reset();
        control_.reset();
        end_if_done();
        return;
    }
    auto fds = fds_of(message);
    if (fds.size() == 1) add({text.data(), static_cast<size_t>(size)}, std::move(fds.front()));
}

void Logger::add(std::string_view description, Fd fd) {
    auto json = nlohmann::json::parse(description, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) return;
    auto instance = json.find("instance");
    auto stream = json.find("stream");
    if (instance == json.end() || !instance->is_number_integer() || stream == json.end()) return;
    Sink& sink = *stream == "err" ? err_ : out_;

    // Nonblocking for the master's duplicate too, which is the same open file; it never reads it.
    int flags = ::fcntl(fd.get(), F_GETFL);
    if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) < 0) return;
    auto prefix = fmt::format("[{}/{}] ", cluster_, instance->get<int>());
    auto pipe = pipes_.insert(
        pipes_.end(), {std::move(fd), &sink, LineSplitter(std::move(prefix), sink.target()), {}});
    pipe->source = loop_.on_io(pipe->fd.get(), EPOLLIN, [this, pipe](uint32_t) { read(pipe); });
    if (!pipe->source.is_active()) pipes_.erase(pipe);
}

void Logger::read(std::list<Pipe>::iterator pipe) {
    std::array<char, kBytesPerTurn> bytes;
    auto size = ::read(pipe->fd.get(), bytes.data(), bytes.size());
    if (size > 0) {
        pipe->sink->write(pipe->lines.feed({bytes.data(), static_cast<size_t>(size)}));
        return;
    }
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    pipe->sink->write(pipe->lines.finish());
    pipes_.erase(pipe);
    end_if_done();
}

void Logger::end_if_done() {
    if (control_.is_open() || !pipes_.empty() || !ended_) return;
    auto ended = std::exchange(ended_, nullptr);
    ended();
}

int logger_main(const std::string& cluster) {
    struct stat info {};
    if (::fstat(kControlFd, &info) != 0 || !S_ISSOCK(info.st_mode)) {
        log::error("\"drover logger\" is started by drover itself");
        return 2;
    }
    Fd control(kControlFd);
    ::prctl(PR_SET_NAME, "drover-logger");
    // It ends when the last worker does, not when somebody signals the cluster's processes; and an
    // output that nobody reads any more is no reason to end.
    for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(signal, SIG_IGN);
    // Two pipes a worker, and twice the workers during a reload: more than the usual soft limit.
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        ::setrlimit(RLIMIT_NOFILE, &files);
    }

    auto loop = EventLoop::open();
    if (!loop) {
        log::error(loop.error().text);
        return 1;
    }
    Logger logger(*loop, std::move(control), STDOUT_FILENO, STDERR_FILENO, cluster);
    if (auto started = logger.start([&] { loop->exit(0); }); !started) {
        log::error(started.error().text);
        return 1;
    }
    return loop->run();
}

}  // namespace drover::logger
