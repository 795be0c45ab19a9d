// SPDX-License-Identifier: MIT
//
// Every read end is kept here with a note whether the logger that runs now was given it. Whatever
// happens (a new worker, a new logger, a socket that was full), send_unsent() makes up the rest.
#include "worker/output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <list>
#include <map>
#include <nlohmann/json.hpp>

#include "base/sys.h"

namespace drover::worker {

namespace {

constexpr std::chrono::seconds kBetweenRestarts{1};
// A full socket, or too many fds on their way: the logger is only slow to start.
constexpr std::chrono::milliseconds kBetweenSends{10};
constexpr std::chrono::seconds kAfterKill{1};
constexpr std::chrono::milliseconds kAnswerDeadline{500};
constexpr size_t kLongestAnswer = 128 * 1024;
constexpr int kControlFd = 3;

// One read end of a worker's pipe. The master never reads it: it only keeps the pipe alive while no
// logger does.
struct ReadEnd {
    uint64_t worker_id = 0;
    int instance = 0;
    const char* stream = "";
    Fd fd;
    bool is_sent = false;     // to the logger that runs now
    bool is_leaving = false;  // the worker is gone: forget it once it is sent
};

// Somebody who waits for a worker's last lines.
struct Question {
    uint64_t worker_id = 0;
    Output::LastLines tell;
    EventLoop::Source deadline;
};

// -1 where the master was started with this one closed.
int if_open(int fd) {
    return ::fcntl(fd, F_GETFD) >= 0 ? fd : -1;
}

Result<std::pair<Fd, Fd>> make_pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
        return fail_errno(errno, "make a pipe for a worker's output");
    return std::pair(Fd(ends[0]), Fd(ends[1]));
}

bool send_read_end(int socket, const ReadEnd& end) {
    auto text = fmt::format(R"({{"worker":{},"instance":{},"stream":"{}"}})", end.worker_id,
                            end.instance, end.stream);
    alignas(cmsghdr) char rights[CMSG_SPACE(sizeof(int))] = {};
    iovec buffer{text.data(), text.size()};
    msghdr message{};
    message.msg_iov = &buffer;
    message.msg_iovlen = 1;
    message.msg_control = rights;
    message.msg_controllen = sizeof(rights);
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    int fd = end.fd.get();
    std::memcpy(CMSG_DATA(part), &fd, sizeof(fd));
    return ::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

std::string how(const Ended& ended) {
    if (ended.signal) return fmt::format("was ended by signal {}", *ended.signal);
    return fmt::format("exited with status {}", ended.code.value_or(-1));
}

}  // namespace

struct Output::Impl {
    EventLoop& loop;
    std::string cluster;
    sys::CgroupEntry cgroup;
    std::string settings;
    std::string executable;

    std::function<void(const std::string&)> restarted;
    std::function<void()> ended;
    bool is_finishing = false;
    std::list<ReadEnd> read_ends;
    std::list<Question> questions;
    std::map<uint64_t, uint64_t> dropped_lines;  // by worker
    SpawnRequest request;
    Process process;  // pid 0: none runs
    Fd control;
    std::chrono::steady_clock::time_point started_at;

    EventLoop::Source process_source;
    EventLoop::Source control_source;
    EventLoop::Source restart_timer;
    EventLoop::Source send_timer;
    EventLoop::Source deadline_timer;

    Impl(EventLoop& the_loop, std::string the_cluster, sys::CgroupEntry the_cgroup,
         std::string the_settings, std::string the_executable)
        : loop(the_loop),
          cluster(std::move(the_cluster)),
          cgroup(the_cgroup),
          settings(std::move(the_settings)),
          executable(std::move(the_executable)) {}

    Result<void> start_process();
    void send_unsent();
    void read_answer();
    void tell(std::list<Question>::iterator question, const std::vector<std::string>& lines);
    void on_process_end();
    void restart(const std::string& why);
    void retry();
    void kill();
    void end();
};

Result<void> Output::Impl::start_process() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return fail_errno(errno, "make the logger's socket");
    Fd ours(ends[0]);
    Fd theirs(ends[1]);
    started_at = std::chrono::steady_clock::now();
    request = SpawnRequest{};
    request.program = executable;
    request.command = {"drover", "logger", cluster, settings};
    request.environment = own_environment();
    request.cgroup = cgroup;
    request.stdout_fd = if_open(STDOUT_FILENO);
    request.stderr_fd = if_open(STDERR_FILENO);
    request.fds = {{theirs.get(), kControlFd}};
    auto spawned = spawn(request);
    if (!spawned) return wrap(spawned.error(), "start the logger");
    process = std::move(*spawned);
    control = std::move(ours);
    process_source =
        loop.on_io(process.pidfd.get(), EPOLLIN, [this](uint32_t) { on_process_end(); });
    control_source = loop.on_io(control.get(), EPOLLIN, [this](uint32_t) { read_answer(); });
    for (auto& end : read_ends) end.is_sent = false;
    send_unsent();
    return {};
}

void Output::Impl::read_answer() {
    std::vector<char> text(kLongestAnswer);
    auto size = ::recv(control.get(), text.data(), text.size(), MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size <= 0) return control_source.reset();  // its end is told by its pidfd
    auto json = nlohmann::json::parse(text.begin(), text.begin() + size, nullptr, false);
    if (!json.is_object()) return;
    if (json.contains("dropped")) {
        dropped_lines[json.value("worker", uint64_t{0})] += json.value("dropped", uint64_t{0});
        return;
    }
    if (!json.contains("lines") || !json["lines"].is_array()) return;
    std::vector<std::string> lines;
    for (const auto& line : json["lines"])
        if (line.is_string()) lines.push_back(line);
    auto worker_id = json.value("tail", uint64_t{0});
    for (auto question = questions.begin(); question != questions.end(); ++question)
        if (question->worker_id == worker_id) return tell(question, lines);
}

void Output::Impl::tell(std::list<Question>::iterator question,
                        const std::vector<std::string>& lines) {
    auto call = std::move(question->tell);
    questions.erase(question);
    call(lines);
}

void Output::Impl::send_unsent() {
    if (!control.is_open()) return;
    for (auto end = read_ends.begin(); end != read_ends.end();) {
        if (!end->is_sent && !send_read_end(control.get(), *end)) {
            // EPIPE: it died, and gets them again once it is replaced.
            if (errno != EPIPE && errno != ECONNRESET)
                send_timer = loop.after(kBetweenSends, [this] { send_unsent(); });
            return;
        }
        end->is_sent = true;
        end = end->is_leaving ? read_ends.erase(end) : std::next(end);
    }
    if (!is_finishing) return;
    control_source.reset();
    control.reset();
}

void Output::Impl::on_process_end() {
    auto how_it_ended = reap(process.pidfd.get());
    if (!how_it_ended) return;
    auto why = how(*how_it_ended);
    if (auto failure = read_exec_failure(process.exec_status.get(), request); failure)
        why = "could not be started: " + failure->text;
    process_source.reset();
    process = Process{};
    control_source.reset();
    control.reset();
    for (auto& end : read_ends) end.is_sent = false;
    if (is_finishing) {
        end();
        return;
    }
    auto passed = std::chrono::duration_cast<std::chrono::microseconds>(
        std::chrono::steady_clock::now() - started_at);
    restart_timer = loop.after(kBetweenRestarts - passed, [this, why] { restart(why); });
}

void Output::Impl::restart(const std::string& why) {
    auto started = start_process();
    if (started) {
        if (restarted) restarted(fmt::format("the logger process {}; it was started anew", why));
        return;
    }
    // The failure is told once; the tries go on silently.
    if (restarted)
        restarted(
            fmt::format("the logger process {}, and {}; trying again", why, started.error().text));
    retry();
}

void Output::Impl::retry() {
    restart_timer = loop.after(kBetweenRestarts, [this] {
        if (!start_process()) {
            retry();
            return;
        }
        if (restarted) restarted("the logger process runs again");
    });
}

void Output::Impl::kill() {
    if (process.pid != 0) (void)sys::pidfd_send_signal(process.pidfd.get(), SIGKILL);
    // A process that hangs in the kernel does not even die of that.
    deadline_timer = loop.after(kAfterKill, [this] { end(); });
}

// May destroy the Output, from within `ended`.
void Output::Impl::end() {
    deadline_timer.reset();
    send_timer.reset();
    process_source.reset();
    if (auto call = std::exchange(ended, nullptr); call) call();
}

Output::Output(EventLoop& loop, std::string cluster, sys::CgroupEntry cgroup, std::string settings,
               std::string executable)
    : impl_(std::make_unique<Impl>(loop, std::move(cluster), cgroup, std::move(settings),
                                   std::move(executable))) {}

Output::~Output() = default;

Result<void> Output::start(std::function<void(const std::string&)> restarted) {
    impl_->restarted = std::move(restarted);
    return impl_->start_process();
}

Result<Output::Pipes> Output::add_worker(uint64_t worker_id, int instance) {
    auto out = make_pipe();
    if (!out) return tl::unexpected<Error>(out.error());
    auto err = make_pipe();
    if (!err) return tl::unexpected<Error>(err.error());
    impl_->read_ends.push_back({worker_id, instance, "out", std::move(out->first)});
    impl_->read_ends.push_back({worker_id, instance, "err", std::move(err->first)});
    impl_->send_unsent();
    return Pipes{std::move(out->second), std::move(err->second)};
}

void Output::last_lines(uint64_t worker_id, LastLines tell) {
    auto& impl = *impl_;
    auto question = impl.questions.insert(impl.questions.end(), {worker_id, std::move(tell), {}});
    auto text = fmt::format(R"({{"tail":{}}})", worker_id);
    bool is_sent = impl.control.is_open() &&
                   ::send(impl.control.get(), text.data(), text.size(),
                          MSG_DONTWAIT | MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
    question->deadline = impl.loop.after(is_sent ? kAnswerDeadline : std::chrono::milliseconds(0),
                                         [this, question] { impl_->tell(question, {}); });
}

bool Output::keep(std::string_view level, std::string_view text) {
    if (!impl_->control.is_open()) return false;
    constexpr size_t kLongest = 32 * 1024;
    nlohmann::json json = {{"level", level}, {"text", text.substr(0, kLongest)}};
    auto message = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    return ::send(impl_->control.get(), message.data(), message.size(),
                  MSG_DONTWAIT | MSG_NOSIGNAL) == static_cast<ssize_t>(message.size());
}

uint64_t Output::dropped_lines(uint64_t worker_id) const {
    auto found = impl_->dropped_lines.find(worker_id);
    return found == impl_->dropped_lines.end() ? 0 : found->second;
}

void Output::remove_worker(uint64_t worker_id) {
    impl_->dropped_lines.erase(worker_id);
    for (auto& end : impl_->read_ends)
        if (end.worker_id == worker_id) end.is_leaving = true;
    impl_->read_ends.remove_if([](const ReadEnd& end) { return end.is_leaving && end.is_sent; });
}

int Output::pid() const {
    return impl_->process.pid;
}

void Output::finish(std::chrono::milliseconds deadline, std::function<void()> ended) {
    auto& impl = *impl_;
    impl.is_finishing = true;
    impl.ended = std::move(ended);
    impl.restart_timer.reset();
    bool is_all_sent = std::all_of(impl.read_ends.begin(), impl.read_ends.end(),
                                   [](const ReadEnd& end) { return end.is_sent; });
    // What dead workers printed last may still be in their pipes.
    if (impl.process.pid == 0 && !is_all_sent) (void)impl.start_process();
    if (impl.process.pid == 0) {
        impl.deadline_timer = impl.loop.soon([this] { impl_->end(); });
        return;
    }
    impl.deadline_timer = impl.loop.after(deadline, [this] { impl_->kill(); });
    impl.send_unsent();
}

}  // namespace drover::worker
