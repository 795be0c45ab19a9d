// SPDX-License-Identifier: MIT
#include "logger/logger.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
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
constexpr int kTurnsOfAnAnswer = 16;
constexpr size_t kEndedTails = 32;

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
    std::string_view content(text.data(), static_cast<size_t>(size));
    if (fds.empty()) answer(content);
    if (fds.size() == 1) add(content, std::move(fds.front()));
}

// What it printed last may still be in its pipes.
void Logger::answer(std::string_view question) {
    auto json = nlohmann::json::parse(question, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("tail") || !json["tail"].is_number_unsigned()) return;
    auto worker = json["tail"].get<uint64_t>();
    for (auto pipe = pipes_.begin(); pipe != pipes_.end();) {
        auto next = std::next(pipe);
        for (int turn = 0; turn < kTurnsOfAnAnswer && pipe->worker == worker; turn++)
            if (!read(pipe)) break;
        pipe = next;
    }
    nlohmann::json reply = {{"tail", worker}, {"lines", nlohmann::json::array()}};
    if (auto tail = tails_.find(worker); tail != tails_.end())
        reply["lines"] = tail->second.lines();
    auto text = reply.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    [[maybe_unused]] auto sent =
        ::send(control_.get(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    end_if_done();
}

void Logger::add(std::string_view description, Fd fd) {
    auto json = nlohmann::json::parse(description, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) return;
    auto instance = json.find("instance");
    auto stream = json.find("stream");
    auto worker = json.value("worker", uint64_t{0});
    if (instance == json.end() || !instance->is_number_integer() || stream == json.end()) return;
    Sink& sink = *stream == "err" ? err_ : out_;

    // Nonblocking for the master's duplicate too, which is the same open file; it never reads it.
    int flags = ::fcntl(fd.get(), F_GETFL);
    if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) < 0) return;
    auto prefix = fmt::format("[{}/{}] ", cluster_, instance->get<int>());
    size_t length = prefix.size();
    auto pipe = pipes_.insert(
        pipes_.end(),
        {std::move(fd), worker, &sink, length, LineSplitter(std::move(prefix), sink.target()), {}});
    pipe->source = loop_.on_io(pipe->fd.get(), EPOLLIN, [this, pipe](uint32_t) { read(pipe); });
    if (!pipe->source.is_active()) pipes_.erase(pipe);
}

void Logger::take(Pipe& pipe, const std::string& lines) {
    tails_[pipe.worker].feed(lines, pipe.prefix);
    pipe.sink->write(lines);
}

// Somebody may still ask for the last lines of one that has just ended, not of those long before.
void Logger::forget_if_ended(uint64_t worker) {
    bool prints =
        std::ranges::any_of(pipes_, [worker](const Pipe& pipe) { return pipe.worker == worker; });
    if (prints) return;
    ended_tails_.push_back(worker);
    if (ended_tails_.size() <= kEndedTails) return;
    tails_.erase(ended_tails_.front());
    ended_tails_.pop_front();
}

bool Logger::read(std::list<Pipe>::iterator pipe) {
    std::array<char, kBytesPerTurn> bytes;
    auto size = ::read(pipe->fd.get(), bytes.data(), bytes.size());
    if (size > 0) {
        take(*pipe, pipe->lines.feed({bytes.data(), static_cast<size_t>(size)}));
        return true;
    }
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    take(*pipe, pipe->lines.finish());
    auto worker = pipe->worker;
    pipes_.erase(pipe);
    forget_if_ended(worker);
    end_if_done();
    return false;
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
