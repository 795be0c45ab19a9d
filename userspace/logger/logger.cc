// SPDX-License-Identifier: MIT
#include "logger/logger.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <systemd/sd-login.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "base/log.h"
#include "base/privileges.h"

namespace drover::logger {

namespace {

// How long one worker may hold up the others: bytes read from a pipe before the next has its turn.
constexpr size_t kBytesPerTurn = 64 * 1024;
// Between two looks at a pipe of one that prints too much; meanwhile a pipe takes 64 KiB.
constexpr std::chrono::milliseconds kPause{10};
constexpr size_t kLongestMessage = 64 * 1024;
constexpr int kControlFd = 3;
constexpr int kTurnsOfAnAnswer = 16;
constexpr size_t kEndedWorkers = 32;

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

log::Level level_of(const nlohmann::json& name) {
    return name == "error"     ? log::Level::error
           : name == "warning" ? log::Level::warning
                               : log::Level::info;
}

std::string written(std::chrono::milliseconds time) {
    auto count = time.count();
    return count % 1000 == 0 ? fmt::format("{}s", count / 1000) : fmt::format("{}ms", count);
}

// The master is our parent, as long as it lives.
std::string unit_of_master() {
    char* name = nullptr;
    if (::sd_pid_get_unit(::getppid(), &name) < 0) return "";
    std::string unit = name;
    std::free(name);
    return unit;
}

}  // namespace

Logger::Logger(EventLoop& loop, Fd control, Outlets outlets, const std::string& cluster,
               RateLimit rate)
    : loop_(loop),
      cluster_(cluster),
      control_(std::move(control)),
      outlets_(std::move(outlets)),
      rate_(rate) {}

Result<void> Logger::start(std::function<void()> ended) {
    on_end_ = std::move(ended);
    outlets_.open();
    control_source_ = loop_.on_io(control_.get(), EPOLLIN, [this](uint32_t) { receive(); });
    if (!control_source_.is_active()) return fail("system", "watch the logger's socket");
    return {};
}

void Logger::receive() {
    std::vector<char> text(kLongestMessage);
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
    if (fds.empty()) serve(content);
    if (fds.size() == 1) add(content, std::move(fds.front()));
}

void Logger::serve(std::string_view request) {
    auto json = nlohmann::json::parse(request, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) return;
    if (json.contains("tail") && json["tail"].is_number_unsigned()) return answer(json["tail"]);
    if (json.contains("text") && json["text"].is_string())
        outlets_.keep(level_of(json["level"]), json["text"].get_ref<const std::string&>());
}

// What it printed last may still be in its pipes.
void Logger::answer(uint64_t worker) {
    for (auto pipe = pipes_.begin(); pipe != pipes_.end();) {
        auto next = std::next(pipe);
        for (int turn = 0; turn < kTurnsOfAnAnswer && pipe->worker() == worker; turn++)
            if (!read(pipe)) break;
        pipe = next;
    }
    nlohmann::json reply = {{"tail", worker}, {"lines", nlohmann::json::array()}};
    if (auto found = workers_.find(worker); found != workers_.end())
        reply["lines"] = found->second.tail.lines();
    send(reply.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    end_if_done();
}

void Logger::send(const std::string& text) {
    if (!control_.is_open()) return;
    [[maybe_unused]] auto sent =
        ::send(control_.get(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

void Logger::add(std::string_view description, Fd fd) {
    auto json = nlohmann::json::parse(description, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) return;
    auto number = json.find("instance");
    auto stream = json.find("stream");
    if (number == json.end() || !number->is_number_integer() || stream == json.end()) return;
    auto id = json.value("worker", uint64_t{0});
    auto instance = number->get<int>();

    // Nonblocking for the master's duplicate too, which is the same open file; it never reads it.
    int flags = ::fcntl(fd.get(), F_GETFL);
    if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) < 0) return;
    Origin origin{LogWorker{instance, id}, *stream == "err" ? LogStream::err : LogStream::out};
    workers_.try_emplace(id, Worker{instance, {}, Rate(rate_), {}});
    auto pipe = pipes_.insert(pipes_.end(), {std::move(fd), origin, {}, {}});
    watch(pipe);
    if (!pipe->source.is_active()) pipes_.erase(pipe);
}

void Logger::watch(PipeAt pipe) {
    pipe->source = loop_.on_io(pipe->fd.get(), EPOLLIN, [this, pipe](uint32_t) { read(pipe); });
}

void Logger::take(PipeAt pipe, const std::string& lines) {
    if (lines.empty()) return;
    auto now = std::chrono::steady_clock::now();
    auto id = pipe->worker();
    Worker& worker = workers_.at(id);
    worker.tail.feed(lines);
    outlets_.write(pipe->origin, worker.rate.pass(lines, now));
    if (!worker.rate.has_dropped()) return;
    if (!worker.on_over.is_active()) {
        auto rest = std::chrono::ceil<std::chrono::microseconds>(worker.rate.end() - now);
        worker.on_over = loop_.after(rest, [this, id] { tell_dropped(id); });
    }
}

void Logger::tell_dropped(uint64_t id) {
    Worker& worker = workers_.at(id);
    worker.on_over.reset();
    auto count = worker.rate.take_dropped();
    if (count == 0) return;
    Origin origin{LogWorker{worker.instance, id}, LogStream::drover, log::Level::warning};
    outlets_.tell(origin, fmt::format("{}/{}: {} lines of worker {} were dropped: it printed more "
                                      "than {} in {}",
                                      cluster_, worker.instance, count, id, rate_.lines,
                                      written(rate_.within)));
    send(fmt::format(R"({{"worker":{},"dropped":{}}})", id, count));
}

bool Logger::prints(uint64_t id) const {
    return std::ranges::any_of(pipes_, [id](const Pipe& pipe) { return pipe.worker() == id; });
}

// Somebody may still ask for the last lines of one that has just ended, not of those long before.
void Logger::forget_if_ended(uint64_t id) {
    if (prints(id)) return;
    tell_dropped(id);
    ended_.push_back(id);
    if (ended_.size() <= kEndedWorkers) return;
    if (!prints(ended_.front())) workers_.erase(ended_.front());
    ended_.pop_front();
}

bool Logger::read(PipeAt pipe) {
    std::array<char, kBytesPerTurn> bytes;
    auto size = ::read(pipe->fd.get(), bytes.data(), bytes.size());
    if (size > 0) {
        take(pipe, pipe->lines.feed({bytes.data(), static_cast<size_t>(size)}));
        if (workers_.at(pipe->worker()).rate.is_spent(std::chrono::steady_clock::now()))
            pipe->source = loop_.after(kPause, [this, pipe] { watch(pipe); });
        return true;
    }
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    take(pipe, pipe->lines.finish());
    auto worker = pipe->worker();
    pipes_.erase(pipe);
    forget_if_ended(worker);
    end_if_done();
    return false;
}

void Logger::end_if_done() {
    if (control_.is_open() || !pipes_.empty() || !on_end_) return;
    auto ended = std::exchange(on_end_, nullptr);
    ended();
}

int logger_main(const std::string& cluster, const std::string& settings_text) {
    struct stat info {};
    if (::fstat(kControlFd, &info) != 0 || !S_ISSOCK(info.st_mode)) {
        log::error("\"drover logger\" is started by drover itself");
        return 2;
    }
    Fd control(kControlFd);
    ::prctl(PR_SET_NAME, "drover-logger");
    // It ends when the last worker does, not when somebody signals the cluster's processes; and an
    // output that nobody reads any more is no reason to end.
    for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGUSR1, SIGXFSZ})
        ::signal(signal, SIG_IGN);
    // Two pipes a worker, and twice the workers during a reload: more than the usual soft limit.
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        ::setrlimit(RLIMIT_NOFILE, &files);
    }

    (void)keep_loggers_privileges();  // it works with all of them, too

    auto loop = EventLoop::open();
    if (!loop) {
        log::error(loop.error().text);
        return 1;
    }
    auto settings = parse_settings(settings_text);
    Outlets outlets(cluster, STDOUT_FILENO, STDERR_FILENO, settings, unit_of_master());
    Logger logger(*loop, std::move(control), std::move(outlets), cluster, settings.rate);
    if (auto started = logger.start([&] { loop->exit(0); }); !started) {
        log::error(started.error().text);
        return 1;
    }
    return loop->run();
}

}  // namespace drover::logger
