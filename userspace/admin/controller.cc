// SPDX-License-Identifier: MIT
//
// Everything that belongs to one process of the controller is made in start() and dropped, or
// replaced, by the next start(). What it wrote before it died is still read in between: a script
// that asks for one thing and ends is a controller, too.
#include "admin/controller.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <deque>
#include <utility>

#include "admin/schema.h"
#include "base/cgroup.h"
#include "base/sys.h"
#include "worker/node_frames.h"

namespace drover::admin {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kAfterKill{1};

// The nonblocking end is the master's: each end of a pipe has flags of its own.
Result<std::pair<Fd, Fd>> make_pipe(bool is_master_reading) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno(errno, "make a pipe for the controller");
    std::pair<Fd, Fd> pipe{Fd(ends[0]), Fd(ends[1])};
    int ours = is_master_reading ? ends[0] : ends[1];
    if (::fcntl(ours, F_SETFL, O_NONBLOCK) != 0)
        return fail_errno(errno, "make the controller's pipe nonblocking");
    return pipe;
}

std::string how(const worker::Ended& ended) {
    if (ended.signal) return fmt::format("was ended by signal {}", *ended.signal);
    return fmt::format("exited with status {}", ended.code.value_or(-1));
}

}  // namespace

struct Controller::Impl : std::enable_shared_from_this<Impl> {
    EventLoop& loop;
    Setup setup;
    std::string cluster;
    Commands& commands;
    std::function<void(const Error&)> told;

    worker::SpawnRequest request;
    worker::Process process;  // pid 0: none runs
    std::optional<Cgroup> cgroup;
    uint64_t run = 0;  // counts the processes: a reply is for the one that asked
    Clock::time_point started_at;
    int failures = 0;  // deaths in a row, each before its time

    Fd to_it;
    std::deque<std::string> lines;  // each with its end
    size_t first_written = 0;       // bytes of the first one that are in the pipe
    size_t queued = 0;              // bytes of all lines
    Lost lost;                      // since the last notice
    supervisor::Event latest;       // its seq and time alone
    uint64_t lost_total = 0;        // events

    Fd from_it;
    worker::NodeLineCutter cutter{kMaxLine};
    int pending = 0;

    bool is_finishing = false;
    std::function<void()> ended;

    EventLoop::Source end_source;
    EventLoop::Source write_source;
    EventLoop::Source read_source;
    EventLoop::Source more_requests;
    EventLoop::Source restart_timer;
    EventLoop::Source deadline_timer;

    Impl(EventLoop& the_loop, Setup the_setup, std::string the_cluster, Commands& the_commands,
         std::function<void(const Error&)> the_told)
        : loop(the_loop),
          setup(std::move(the_setup)),
          cluster(std::move(the_cluster)),
          commands(the_commands),
          told(std::move(the_told)) {}

    Result<void> start();
    void on_process_end();
    void start_again(const std::string& why);
    void kill();
    void end();

    void publish(const supervisor::Event& event);
    [[nodiscard]] bool enqueue(std::string line);
    void write();
    bool write_some();
    void stop_writing();
    void watch_writing();

    void read();
    void watch_reading();
    void take_requests();
    void take(const worker::NodeLineCutter::Line& line);
    void reply(std::string_view line);
};

// --- The process -------------------------------------------------------------------------------

Result<void> Controller::Impl::start() {
    auto in = make_pipe(/*is_master_reading=*/false);
    if (!in) return tl::unexpected(in.error());
    auto out = make_pipe(/*is_master_reading=*/true);
    if (!out) return tl::unexpected(out.error());
    if (!setup.cgroup.empty()) {
        auto made = Cgroup::create_anew(setup.cgroup);
        if (!made) return tl::unexpected(made.error());
        cgroup = std::move(*made);
    }
    request = worker::SpawnRequest{};
    request.command = {"/bin/sh", "-c", setup.command};
    request.environment = setup.environment;
    request.cwd = setup.cwd;
    request.identity = setup.identity;
    if (cgroup) request.cgroup = {cgroup->fd(), setup.enter_late};
    request.stdin_fd = in->first.get();
    request.stdout_fd = out->second.get();
    request.stderr_fd = ::fcntl(STDERR_FILENO, F_GETFD) >= 0 ? STDERR_FILENO : -1;
    started_at = Clock::now();
    auto spawned = worker::spawn(request);
    if (!spawned) return tl::unexpected(spawned.error());

    stop_writing();
    read_source.reset();
    more_requests.reset();
    cutter = worker::NodeLineCutter(kMaxLine);
    pending = 0;
    lost = {};
    ++run;
    process = std::move(*spawned);
    to_it = std::move(in->second);
    from_it = std::move(out->first);
    end_source = loop.on_io(process.pidfd.get(), EPOLLIN, [this](uint32_t) { on_process_end(); });
    watch_reading();
    return {};
}

void Controller::Impl::on_process_end() {
    auto how_it_ended = worker::reap(process.pidfd.get());
    if (!how_it_ended) return;
    auto why = how(*how_it_ended);
    // The other end is closed with the process: this does not block.
    if (auto failure = worker::read_exec_failure(process.exec_status.get(), request); failure)
        why = "could not be started: " + failure->text;
    end_source.reset();
    process = worker::Process{};
    stop_writing();
    // Whatever it has left running would go on asking beside the next one.
    if (cgroup) cgroup->kill();
    if (is_finishing) return end();
    if (Clock::now() - started_at >= setup.last_delay) failures = 0;
    start_again("the controller " + why);
}

void Controller::Impl::start_again(const std::string& why) {
    auto delay = setup.first_delay;
    for (int i = 0; i < failures && delay < setup.last_delay; ++i) delay *= 2;
    delay = std::min(delay, setup.last_delay);
    ++failures;
    restart_timer = loop.after(delay, [this] {
        if (auto started = start(); !started)
            start_again("the controller could not be started: " + started.error().text);
    });
    auto seconds = static_cast<double>(delay.count()) / 1000;
    if (told) told({"controller", fmt::format("{}; it is started again in {:g} s", why, seconds)});
}

void Controller::Impl::kill() {
    if (process.pid == 0) return;
    if (cgroup) cgroup->kill();
    (void)sys::pidfd_send_signal(process.pidfd.get(), SIGKILL);
}

// May destroy the Controller, from within `ended`.
void Controller::Impl::end() {
    deadline_timer.reset();
    end_source.reset();
    // What was killed just now may not be gone yet: then the cluster's end removes it.
    if (cgroup) (void)cgroup->remove();
    if (auto call = std::exchange(ended, nullptr); call) call();
}

// --- What it is told ---------------------------------------------------------------------------

void Controller::Impl::publish(const supervisor::Event& event) {
    latest.seq = event.seq;
    latest.time = event.time;
    bool is_kept = to_it.is_open() && !lost.any() && enqueue(to_line(to_json(event, cluster)));
    if (is_kept) return write();
    ++lost_total;
    if (to_it.is_open()) ++lost.events;
}

// False: it is not queued.
bool Controller::Impl::enqueue(std::string line) {
    if (queued + line.size() + 1 > kMaxQueued) return false;
    line += '\n';
    queued += line.size();
    lines.push_back(std::move(line));
    return true;
}

void Controller::Impl::write() {
    while (to_it.is_open() && !lines.empty() && write_some()) {
    }
    if (lost.any() && to_it.is_open() && queued <= kMaxQueued / 2) {
        // Nothing was queued since the first loss: so this is its place in the stream.
        (void)enqueue(to_line(lost_notice(latest, std::exchange(lost, {}), cluster)));
        return write();
    }
    if (is_finishing && lines.empty()) stop_writing();
    watch_writing();
}

// False: the pipe takes no more for now, or never again.
bool Controller::Impl::write_some() {
    const auto& line = lines.front();
    ssize_t size = ::write(to_it.get(), line.data() + first_written, line.size() - first_written);
    if (size < 0 && errno == EINTR) return true;
    if (size < 0 && errno == EAGAIN) return false;
    if (size < 0) {
        // It has closed its stdin: it does not want to know, but may still ask.
        stop_writing();
        return false;
    }
    first_written += static_cast<size_t>(size);
    if (first_written < line.size()) return true;
    queued -= line.size();
    lines.pop_front();
    first_written = 0;
    return true;
}

void Controller::Impl::stop_writing() {
    write_source.reset();
    to_it.reset();
    lines.clear();
    first_written = 0;
    queued = 0;
}

void Controller::Impl::watch_writing() {
    bool is_wanted = to_it.is_open() && !lines.empty();
    if (is_wanted == write_source.is_active()) return;
    write_source.reset();
    if (is_wanted) write_source = loop.on_io(to_it.get(), EPOLLOUT, [this](uint32_t) { write(); });
}

// --- What it asks ------------------------------------------------------------------------------

void Controller::Impl::watch_reading() {
    read_source = loop.on_io(from_it.get(), EPOLLIN, [this](uint32_t) { read(); });
}

void Controller::Impl::read() {
    std::array<char, 64 * 1024> chunk;
    ssize_t size = ::read(from_it.get(), chunk.data(), chunk.size());
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size <= 0) {
        // It has closed its stdout: it asks no more, but may still listen.
        read_source.reset();
        from_it.reset();
        return;
    }
    cutter.feed({chunk.data(), static_cast<size_t>(size)});
    take_requests();
}

void Controller::Impl::take_requests() {
    more_requests.reset();
    for (int taken = 0; taken < kMaxPerTurn; ++taken) {
        auto line = cutter.next();
        if (!line) {
            if (!read_source.is_active()) watch_reading();
            return;
        }
        if (!is_finishing) take(*line);
    }
    // The rest waits for its turn, and so does the pipe.
    read_source.reset();
    more_requests = loop.soon([this] { take_requests(); });
}

void Controller::Impl::take(const worker::NodeLineCutter::Line& line) {
    if (line.is_oversized)
        return reply(to_line(reply_error({}, {"bad-request", "a request is at most 1 MiB long"})));
    if (pending >= kMaxPending) {
        auto asked = parse_request(line.text);
        auto id = asked ? std::optional(asked->id) : std::nullopt;
        return reply(to_line(reply_error(id, {"busy", "too many requests at once"})));
    }
    ++pending;
    Asker asker;
    asker.reply = [weak = weak_from_this(), asked_by = run](std::string_view text) {
        auto self = weak.lock();
        if (!self || self->run != asked_by) return;
        --self->pending;
        self->reply(text);
    };
    asker.follow = [](uint64_t) {};  // it does so already
    answer(commands, cluster, line.text, std::move(asker));
}

void Controller::Impl::reply(std::string_view line) {
    if (!to_it.is_open()) return;
    if (!lost.any() && enqueue(std::string(line))) return write();
    ++lost.replies;
}

// --- The handle --------------------------------------------------------------------------------

Controller::Controller(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<Controller>> Controller::open(EventLoop& loop, Setup setup,
                                                     std::string cluster, Commands& commands,
                                                     std::function<void(const Error&)> told) {
    auto impl = std::make_shared<Impl>(loop, std::move(setup), std::move(cluster), commands,
                                       std::move(told));
    if (auto started = impl->start(); !started)
        return wrap(started.error(), "start the controller");
    return std::unique_ptr<Controller>(new Controller(std::move(impl)));
}

Controller::~Controller() {
    impl_->kill();
}

void Controller::publish(const supervisor::Event& event) {
    impl_->publish(event);
}

void Controller::finish(std::chrono::milliseconds deadline, std::function<void()> ended) {
    auto& impl = *impl_;
    impl.is_finishing = true;
    impl.ended = std::move(ended);
    impl.restart_timer.reset();
    if (impl.process.pid == 0) {
        impl.deadline_timer = impl.loop.soon([self = &impl] { self->end(); });
        return;
    }
    impl.deadline_timer = impl.loop.after(deadline, [self = &impl] {
        self->kill();
        // A process that hangs in the kernel does not even die of that.
        self->deadline_timer = self->loop.after(kAfterKill, [self] { self->end(); });
    });
    impl.write();
}

int Controller::pid() const {
    return impl_->process.pid;
}

uint64_t Controller::lost_total() const {
    return impl_->lost_total;
}

}  // namespace drover::admin
