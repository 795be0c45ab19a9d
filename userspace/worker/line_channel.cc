// SPDX-License-Identifier: MIT
//
// The two halves, reading and writing, end apart from each other: a worker may close one of its
// ends and use the other. What ends both is close().
#include "worker/line_channel.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "worker/line_protocol.h"

namespace drover::worker {

namespace {

// The queue's room for the lines that no full queue may keep out. They are short, and few.
constexpr size_t kReserve = 4096;

struct Pipe {
    Fd read;
    Fd write;
};

Result<Pipe> make_pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno(errno, "make a pipe for messages");
    return Pipe{Fd(ends[0]), Fd(ends[1])};
}

// The same end of the same pipe once more, as an open file description of its own. A duplicate
// would share its flags: a worker that clears O_NONBLOCK on it would make the master block.
Result<Fd> open_again(const Fd& end, int mode) {
    auto path = fmt::format("/proc/self/fd/{}", end.get());
    Fd again(::open(path.c_str(), mode | O_CLOEXEC));
    if (!again.is_open()) return fail_errno(errno, "open a pipe for messages again");
    return again;
}

Result<void> make_nonblocking(const Fd& end) {
    if (::fcntl(end.get(), F_SETFL, O_NONBLOCK) != 0)
        return fail_errno(errno, "make a pipe for messages nonblocking");
    return {};
}

}  // namespace

struct LineChannel::Impl : std::enable_shared_from_this<Impl> {
    EventLoop& loop;
    const uint64_t worker;
    ChannelObserver& observer;

    Fd read_end, write_end;  // the master's
    struct {
        Fd read, write, spare_write, spare_read;
    } child;
    EventLoop::Source read_source, write_source;

    LineSplitter splitter;
    std::string output;
    size_t written = 0;  // bytes of `output` that are in the pipe
    uint64_t unknown_total = 0;
    uint64_t errors_in_turn = 0;
    bool in_turn = false;
    bool closed = false;  // nothing is told any more

    Impl(EventLoop& the_loop, uint64_t the_worker, ChannelObserver& the_observer)
        : loop(the_loop), worker(the_worker), observer(the_observer) {}

    Result<void> open_pipes();
    Result<void> begin();
    Result<void> enqueue(std::string line, size_t room);
    void flush();
    void watch_output();
    void end_writing();

    bool read_some();  // false: there is nothing to be had any more, now or ever
    void end_reading();
    void refuse(const Error& error);
    bool take(std::string_view line);
    void tell(ReadyLine) { observer.on_channel_ready(worker); }
    void tell(const MessageLine& line) { observer.on_channel_message(worker, line.data, line.to); }
    void tell(LoadLine line) { observer.on_channel_load(worker, line.value); }
    void tell(DisconnectLine) { observer.on_channel_disconnect(worker); }
    void tell(PongLine) { observer.on_channel_pong(worker); }
    void tell(UnknownLine) { ++unknown_total; }

    void close();
    void drop();
    [[nodiscard]] size_t queued() const { return output.size() - written; }
};

// --- Writing -------------------------------------------------------------------------------------

// Queues all of it or nothing.
Result<void> LineChannel::Impl::enqueue(std::string line, size_t room) {
    if (!write_end.is_open())
        return fail("closed", fmt::format("worker {} takes no messages any more", worker));
    if (line.size() - 1 > kMaxLine)
        return fail("oversized", fmt::format("a message of {} bytes is longer than the {} that a "
                                             "line may have",
                                             line.size() - 1, kMaxLine));
    if (queued() + line.size() > room)
        return fail("queue-full",
                    fmt::format("worker {} does not read: {} bytes wait for it", worker, queued()));
    if (queued() == 0) {
        output = std::move(line);
        written = 0;
    } else {
        output += line;
    }
    // Where something waited before, the loop will tell when the pipe takes more.
    if (!write_source.is_active()) flush();
    if (!write_end.is_open())
        return fail("closed", fmt::format("worker {} takes no messages any more", worker));
    return {};
}

void LineChannel::Impl::flush() {
    while (write_end.is_open() && queued() > 0) {
        ssize_t size = ::write(write_end.get(), output.data() + written, queued());
        if (size < 0 && errno == EINTR) continue;
        if (size < 0 && errno == EAGAIN) break;
        if (size < 0) return end_writing();  // EPIPE: nobody holds a read end any more
        written += static_cast<size_t>(size);
    }
    // Not at each write: to move the rest is work, too.
    if (queued() == 0) {
        output = {};
        written = 0;
    } else if (written > kMaxLine) {
        output.erase(0, written);
        written = 0;
    }
    watch_output();
}

void LineChannel::Impl::watch_output() {
    if (!write_end.is_open() || queued() == 0) {
        write_source.reset();
        return;
    }
    if (write_source.is_active()) return;
    write_source = loop.on_io(write_end.get(), EPOLLOUT, [weak = weak_from_this()](uint32_t) {
        if (auto self = weak.lock()) self->flush();
    });
    // Only memory running out leads here: a half that stands still forever is worse than none.
    if (!write_source.is_active()) end_writing();
}

void LineChannel::Impl::end_writing() {
    write_source.reset();
    write_end.reset();
    output = {};
    written = 0;
}

// --- Reading -------------------------------------------------------------------------------------

bool LineChannel::Impl::read_some() {
    if (!read_end.is_open()) return false;
    std::array<char, kMaxTurn> bytes;
    ssize_t size = ::read(read_end.get(), bytes.data(), bytes.size());
    if (size < 0 && errno == EINTR) return true;
    if (size < 0 && errno == EAGAIN) return false;
    in_turn = true;
    errors_in_turn = 0;
    if (size > 0) {
        splitter.feed(
            {bytes.data(), static_cast<size_t>(size)},
            [this](std::string_view line) { return take(line); },
            [this](std::string_view beginning) {
                refuse({"oversized", fmt::format("a line of more than {} bytes was skipped: {}",
                                                 kMaxLine, excerpt(beginning))});
                return !closed;
            });
    }
    if (!closed && errors_in_turn > kMaxErrorsPerTurn)
        observer.on_channel_error(worker,
                                  {"malformed", fmt::format("{} more lines were refused",
                                                            errors_in_turn - kMaxErrorsPerTurn)});
    in_turn = false;
    if (size <= 0 && !closed) end_reading();
    return size > 0 && !closed;
}

bool LineChannel::Impl::take(std::string_view line) {
    auto parsed = parse_worker_line(line);
    if (parsed)
        std::visit([this](const auto& value) { tell(value); }, *parsed);
    else
        refuse(parsed.error());
    return !closed;
}

// A worker that writes nothing but garbage must not fill the event log, nor keep the loop busy.
void LineChannel::Impl::refuse(const Error& error) {
    if (++errors_in_turn <= kMaxErrorsPerTurn) observer.on_channel_error(worker, error);
}

void LineChannel::Impl::end_reading() {
    read_source.reset();
    read_end.reset();
    auto half = splitter.unfinished();
    if (half.empty()) return;
    Error error{"truncated", fmt::format("the last line has no end: {}", excerpt(half))};
    splitter = LineSplitter();
    observer.on_channel_error(worker, error);
}

// --- Both ----------------------------------------------------------------------------------------

Result<void> LineChannel::Impl::open_pipes() {
    auto to_worker = make_pipe();
    if (!to_worker) return tl::unexpected<Error>(to_worker.error());
    auto to_master = make_pipe();
    if (!to_master) return tl::unexpected<Error>(to_master.error());
    auto spare_write = open_again(to_worker->write, O_WRONLY);
    if (!spare_write) return tl::unexpected<Error>(spare_write.error());
    auto spare_read = open_again(to_master->read, O_RDONLY);
    if (!spare_read) return tl::unexpected<Error>(spare_read.error());

    write_end = std::move(to_worker->write);
    read_end = std::move(to_master->read);
    child = {std::move(to_worker->read), std::move(to_master->write), std::move(*spare_write),
             std::move(*spare_read)};
    return begin();
}

Result<void> LineChannel::Impl::begin() {
    if (auto made = make_nonblocking(write_end); !made) return made;
    if (auto made = make_nonblocking(read_end); !made) return made;

    read_source = loop.on_io(read_end.get(), EPOLLIN, [weak = weak_from_this()](uint32_t) {
        if (auto self = weak.lock()) self->read_some();
    });
    if (!read_source.is_active())
        return fail("system", "watch a worker's messages: the event loop refused it");
    return {};
}

void LineChannel::Impl::close() {
    auto self = shared_from_this();
    if (closed) return;
    end_writing();
    if (!in_turn) {
        child = {};  // a write end of ours would keep the end of file away
        // What the worker wrote last may still be there. Not more than a pipe holds: a process that
        // it left behind may go on writing.
        int capacity = ::fcntl(read_end.get(), F_GETPIPE_SZ);
        size_t most = std::min(kMaxQueued, static_cast<size_t>(std::max(capacity, 0)));
        for (size_t read = 0; read < most && read_some(); read += kMaxTurn) continue;
        if (!closed) end_reading();
    }
    if (closed) return;  // by the observer
    drop();
    observer.on_channel_closed(worker);
}

void LineChannel::Impl::drop() {
    closed = true;
    end_writing();
    read_source.reset();
    read_end.reset();
    child = {};
}

Result<std::unique_ptr<LineChannel>> LineChannel::open(EventLoop& loop, uint64_t worker,
                                                       int instance, int workers,
                                                       ChannelObserver& observer) {
    auto impl = std::make_shared<Impl>(loop, worker, observer);
    auto doing = [&] { return fmt::format("open the message channel of worker {}", worker); };
    if (auto opened = impl->open_pipes(); !opened) return wrap(opened.error(), doing());
    auto said = impl->enqueue(hello_line(worker, instance, workers), kMaxQueued);
    if (!said) return wrap(said.error(), doing());
    return std::unique_ptr<LineChannel>(new LineChannel(std::move(impl)));
}

Result<std::unique_ptr<LineChannel>> LineChannel::adopt(EventLoop& loop, uint64_t worker,
                                                        ChannelObserver& observer, Fd&& read_end,
                                                        Fd&& write_end) {
    auto impl = std::make_shared<Impl>(loop, worker, observer);
    impl->read_end = std::move(read_end);
    impl->write_end = std::move(write_end);
    if (auto begun = impl->begin(); !begun)
        return wrap(begun.error(), fmt::format("take over the messages of worker {}", worker));
    return std::unique_ptr<LineChannel>(new LineChannel(std::move(impl)));
}

LineChannel::LineChannel(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

LineChannel::~LineChannel() {
    impl_->drop();
}

LineChannel::ChildFds LineChannel::child_fds() const {
    const auto& child = impl_->child;
    return {child.read.get(), child.write.get(), child.spare_write.get(), child.spare_read.get()};
}

void LineChannel::close_child_ends() {
    impl_->child = {};
}

Result<void> LineChannel::send(const std::string& data, uint64_t from) {
    return impl_->enqueue(message_line(data, from), kMaxQueued);
}

Result<void> LineChannel::disconnect(std::chrono::milliseconds deadline) {
    return impl_->enqueue(disconnect_line(deadline), kMaxQueued + kReserve);
}

Result<void> LineChannel::ping() {
    return impl_->enqueue(ping_line(), kMaxQueued);
}

void LineChannel::close() {
    impl_->close();
}

bool LineChannel::is_quiet() const {
    return impl_->queued() == 0 && impl_->splitter.unfinished().empty();
}

uint64_t LineChannel::unknown_total() const {
    return impl_->unknown_total;
}

size_t LineChannel::queued_bytes() const {
    return impl_->queued();
}

}  // namespace drover::worker
