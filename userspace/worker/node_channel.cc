// SPDX-License-Identifier: MIT
//
// What waits to be written are lines, and handles: a line with a socket. A handle must be written
// by itself, so it goes between two lines, before those that wait: a worker that is sent a lot
// still gets its sockets. Nothing waits for a handle's receipt but the next handle.
//
// What the worker says may make the master answer. A worker that talks and does not listen is not
// read any more until it has taken the answers: so both sides' memory is bounded.
#include "worker/node_channel.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace drover::worker {

namespace {

// Of one worker, in one turn: then the others are served.
constexpr size_t kReadAtOnce = size_t{64} * 1024;
constexpr int kReadsPerTurn = 4;
constexpr int kLinesPerTurn = 256;

// Answers may wait beyond what send() may fill; above this the worker is not read.
constexpr size_t kMaxWithAnswers = 2 * kMaxQueued;

// Sockets asked for and not yet received. An app with hundreds of servers asks for all at once.
constexpr size_t kMaxQueries = 1024;

// Node's own limit, for sockets that get lost because the receiver had no fd number free.
constexpr int kMaxTimesSent = 1 + 3;

// SCM_MAX_FD, the most that one sendmsg can carry.
constexpr size_t kMaxFdsReceived = 253;

bool is_full(int error) {
    return error == EAGAIN || error == EWOULDBLOCK;
}

ssize_t send_bytes(int socket, std::string_view bytes) {
    ssize_t size = 0;
    do size = ::send(socket, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    while (size < 0 && errno == EINTR);
    return size;
}

ssize_t send_with_fd(int socket, std::string_view bytes, int fd) {
    alignas(cmsghdr) char rights[CMSG_SPACE(sizeof(int))] = {};
    iovec buffer{const_cast<char*>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_iov = &buffer;
    message.msg_iovlen = 1;
    message.msg_control = rights;
    message.msg_controllen = sizeof(rights);
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(part), &fd, sizeof(fd));
    ssize_t size = 0;
    do size = ::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (size < 0 && errno == EINTR);
    return size;
}

// Closes the fds that came with a message: nobody here has a use for them.
void close_received(msghdr& message) {
    for (auto* part = CMSG_FIRSTHDR(&message); part != nullptr;
         part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
        auto count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; ++i) {
            int number = -1;
            std::memcpy(&number, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
            Fd fd(number);
            // The last close of a socket waits for as long as its owner has set.
            linger none{};
            ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &none, sizeof(none));
        }
    }
}

ssize_t receive(int socket, std::span<char> bytes) {
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFdsReceived * sizeof(int))> rights;
    iovec buffer{bytes.data(), bytes.size()};
    msghdr message{};
    message.msg_iov = &buffer;
    message.msg_iovlen = 1;
    message.msg_control = rights.data();
    message.msg_controllen = rights.size();
    ssize_t size = 0;
    do size = ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (size < 0 && errno == EINTR);
    if (size >= 0) close_received(message);
    return size;
}

}  // namespace

Result<std::unique_ptr<NodeChannel>> NodeChannel::open(EventLoop& loop, uint64_t worker,
                                                       ChannelObserver& observer, Role role) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return fail_errno(errno, fmt::format("make the channel of worker {}", worker));
    std::unique_ptr<NodeChannel> channel(new NodeChannel(loop, worker, observer, role));
    channel->master_end_.reset(ends[0]);
    channel->child_end_.reset(ends[1]);
    // Reads and writes here do not block in any case; this is for whoever inherits the end.
    if (::fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0)
        return fail_errno(errno, fmt::format("make the channel of worker {}", worker));
    channel->watch();
    return channel;
}

std::unique_ptr<NodeChannel> NodeChannel::adopt(EventLoop& loop, uint64_t worker,
                                                ChannelObserver& observer, Fd&& master_end) {
    std::unique_ptr<NodeChannel> channel(
        new NodeChannel(loop, worker, observer, Role::cluster_worker));
    channel->master_end_ = std::move(master_end);
    // Keys must differ from those that the dead master gave out; each master has another pid.
    channel->last_key_ = static_cast<uint64_t>(::getpid()) << 32;
    channel->watch();
    return channel;
}

std::vector<std::string> NodeChannel::environment(int number) const {
    std::vector<std::string> variables = {fmt::format("NODE_CHANNEL_FD={}", number),
                                          "NODE_CHANNEL_SERIALIZATION_MODE=json"};
    // Even an empty one would make Node a cluster worker.
    if (role_ == Role::cluster_worker)
        variables.push_back(fmt::format("NODE_UNIQUE_ID={}", worker_));
    return variables;
}

// --- What the master wants to say ----------------------------------------------------------------

Result<void> NodeChannel::send(const std::string& data, uint64_t) {
    if (is_closed_ || is_write_closed_ || (is_disconnecting_ && role_ == Role::child))
        return fail("closed", fmt::format("the channel of worker {} is closed", worker_));
    if (auto checked = check_node_message(data); !checked) return checked;
    if (queued_bytes_ + data.size() + 1 > kMaxQueued)
        return fail("queue-full",
                    fmt::format("worker {} reads too slowly: {} bytes wait for it, at most {} may",
                                worker_, queued_bytes_, kMaxQueued));
    queue_line(data + "\n");
    return {};
}

Result<void> NodeChannel::disconnect(std::chrono::milliseconds) {
    if (is_closed_ || is_write_closed_)
        return fail("closed", fmt::format("the channel of worker {} is closed", worker_));
    if (is_disconnecting_) return {};
    is_disconnecting_ = true;
    // A worker that has begun to close down does not expect an answer to a listen any more. What is
    // half written must be finished, or nothing after it could be read.
    queries_.clear();
    bool is_begun = is_handle_on_its_way_ || handle_written_ > 0;
    while (handles_.size() > (is_begun ? 1 : 0)) handles_.pop_back();
    if (role_ == Role::cluster_worker)
        queue_line(node_disconnect(last_seq_++));
    else
        flush();
    return {};
}

Result<void> NodeChannel::answer(uint64_t query, SocketAnswer&& answer) {
    if (is_closed_ || is_write_closed_)
        return fail("closed", fmt::format("the channel of worker {} is closed", worker_));
    if (is_disconnecting_) return {};
    auto found = queries_.find(query);
    if (found == queries_.end())
        return fail("no-such-query",
                    fmt::format("worker {} waits for no answer to query {}", worker_, query));
    auto [ack, udp] = found->second;
    queries_.erase(found);
    auto key = fmt::format("drover:{}", ++last_key_);
    if (answer.error == 0) {
        // Node 18 hangs on a blocking socket. Where it is none at all, the worker is told so.
        int flags = ::fcntl(answer.socket.get(), F_GETFL);
        if (flags < 0 || ::fcntl(answer.socket.get(), F_SETFL, flags | O_NONBLOCK) != 0)
            answer.error = errno;
    }
    if (answer.error != 0) {
        queue_line(node_error_reply(ack, last_seq_++, key, answer.error, answer.data));
        return {};
    }
    auto line = node_socket_reply(ack, last_seq_++, key, udp, answer.data);
    handles_.push_back(Handle{std::move(line), std::move(answer.socket), ack, std::move(key),
                              std::move(answer.data), 0});
    flush();
    return {};
}

// --- Writing -------------------------------------------------------------------------------------

void NodeChannel::queue_line(std::string line) {
    if (is_write_closed_) return;
    queued_bytes_ += line.size();
    lines_.push_back(std::move(line));
    flush();
}

bool NodeChannel::is_handle_due() const {
    return !handles_.empty() && !is_handle_on_its_way_ && line_written_ == 0;
}

void NodeChannel::flush() {
    while (!is_write_closed_ && (is_handle_due() || !lines_.empty())) {
        auto written = is_handle_due() ? write_handle() : write_line();
        if (written == Written::blocked) break;
    }
    bool is_last_word = is_disconnecting_ && role_ == Role::child && !is_write_closed_;
    if (is_last_word && lines_.empty()) {
        // close() would not do: the worker holds this end too.
        ::shutdown(master_end_.get(), SHUT_WR);
        is_write_closed_ = true;
    }
    watch();
}

NodeChannel::Written NodeChannel::write_handle() {
    auto& handle = handles_.front();
    auto rest = std::string_view(handle.line).substr(handle_written_);
    // The socket goes with the first byte.
    auto size = handle_written_ == 0 ? send_with_fd(master_end_.get(), rest, handle.socket.get())
                                     : send_bytes(master_end_.get(), rest);
    if (size < 0 && is_full(errno)) return Written::blocked;
    if (size < 0 && (errno == EPIPE || handle_written_ > 0)) {
        give_up_writing();
        return Written::blocked;
    }
    if (size < 0) {
        // Too many fds on their way, or no memory: this listen fails, the channel does not.
        lose_handle(errno);
        return Written::all;
    }
    handle_written_ += static_cast<size_t>(size);
    if (handle_written_ < handle.line.size()) return Written::blocked;
    handle_written_ = 0;
    handle.times_sent += 1;
    is_handle_on_its_way_ = true;
    return Written::all;
}

NodeChannel::Written NodeChannel::write_line() {
    const auto& line = lines_.front();
    auto size = send_bytes(master_end_.get(), std::string_view(line).substr(line_written_));
    if (size < 0 && is_full(errno)) return Written::blocked;
    if (size < 0) {
        give_up_writing();
        return Written::blocked;
    }
    line_written_ += static_cast<size_t>(size);
    if (line_written_ < line.size()) return Written::blocked;
    queued_bytes_ -= line.size();
    line_written_ = 0;
    lines_.pop_front();
    return Written::all;
}

// The first handle did not reach the worker: its listen fails with this errno.
void NodeChannel::lose_handle(int error) {
    auto handle = std::move(handles_.front());
    handles_.pop_front();
    is_handle_on_its_way_ = false;
    if (is_disconnecting_) return;
    auto line = node_error_reply(handle.ack, last_seq_++, handle.key, error, handle.data);
    queued_bytes_ += line.size();
    lines_.push_back(std::move(line));
}

// The worker's end is closed. What it said before may still be read.
void NodeChannel::give_up_writing() {
    is_write_closed_ = true;
    lines_.clear();
    handles_.clear();
    queries_.clear();
    line_written_ = queued_bytes_ = handle_written_ = 0;
    is_handle_on_its_way_ = false;
}

// --- Reading -------------------------------------------------------------------------------------

// Waits for what is wanted now: the rest of what is to be written, and more to read unless too much
// waits already.
void NodeChannel::watch() {
    if (is_closed_) return;
    bool has_lines_left = more_lines_.is_active();
    uint32_t wanted = 0;
    if (!has_lines_left && queued_bytes_ <= kMaxWithAnswers) wanted |= EPOLLIN;
    if (!is_write_closed_ && (is_handle_due() || handle_written_ > 0 || !lines_.empty()))
        wanted |= EPOLLOUT;
    if (source_.is_active() && wanted == watched_) return;
    watched_ = wanted;
    source_.reset();
    // Without either, a hang-up would be told over and over: more_lines_ or its end comes first.
    if (wanted == 0) return;
    source_ = loop_.on_io(master_end_.get(), wanted, [this](uint32_t events) { on_ready(events); });
}

void NodeChannel::on_ready(uint32_t events) {
    // A hang-up too: writing finds it out and lets go of what would hold up the reading.
    if ((watched_ & EPOLLOUT) != 0 && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0) flush();
    if ((watched_ & EPOLLIN) != 0 && (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0) read();
}

void NodeChannel::read() {
    std::weak_ptr<char> life = life_;
    std::array<char, kReadAtOnce> bytes;
    for (int reads = 0; reads < kReadsPerTurn; ++reads) {
        auto size = receive(master_end_.get(), bytes);
        if (size < 0 && is_full(errno)) return;
        // ECONNRESET: the worker has closed its end without reading all: an end like any other.
        if (size <= 0) {
            on_end();
            return;
        }
        cutter_.feed(std::span<const char>(bytes.data(), static_cast<size_t>(size)));
        read_lines();
        if (life.expired() || more_lines_.is_active() || (watched_ & EPOLLIN) == 0) return;
    }
}

// Takes the lines that have been read. Where they are too many for one turn, or their answers too
// much, the rest waits, and so does what has not been read.
void NodeChannel::read_lines() {
    std::weak_ptr<char> life = life_;
    for (int count = 0; count < kLinesPerTurn; ++count) {
        auto line = cutter_.next();
        if (!line) {
            watch();
            return;
        }
        on_line(*line);
        if (life.expired()) return;
    }
    more_lines_ = loop_.soon([this] {
        more_lines_.reset();
        read_lines();
    });
    watch();
}

void NodeChannel::on_end() {
    is_closed_ = true;
    source_.reset();
    give_up_writing();
    std::weak_ptr<char> life = life_;
    if (cutter_.is_within_line())
        observer_.on_channel_error(
            worker_, Error{"malformed", "the channel ended within a message, which is lost", 0});
    if (!life.expired()) observer_.on_channel_closed(worker_);
}

void NodeChannel::on_line(const NodeLineCutter::Line& line) {
    if (line.is_oversized) {
        observer_.on_channel_error(
            worker_,
            Error{"oversized", fmt::format("a message of more than {} bytes", kMaxLine), 0});
        return;
    }
    auto frame = parse_node_line(line.text);
    if (!frame) {
        observer_.on_channel_error(worker_, frame.error());
        return;
    }
    std::visit([this](const auto& known) { on_frame(known); }, *frame);
}

// In each of these a callback is the last step: the observer may destroy the channel in it.

void NodeChannel::on_frame(const NodeMessage& frame) {
    observer_.on_channel_message(worker_, frame.data, Address{});
}

void NodeChannel::on_frame(const NodeOnline&) {
    observer_.on_channel_online(worker_);
}

void NodeChannel::on_frame(const NodeQuery& frame) {
    if (is_disconnecting_ || is_write_closed_) return;
    if (queries_.size() + handles_.size() >= kMaxQueries) {
        queue_line(node_error_reply(frame.seq, last_seq_++, fmt::format("drover:{}", ++last_key_),
                                    ENOBUFS, frame.query.data));
        return;
    }
    auto query = ++last_query_;
    queries_[query] = Query{frame.seq, frame.query.udp};
    observer_.on_channel_query(worker_, query, frame.query);
}

void NodeChannel::on_frame(const NodeListening& frame) {
    observer_.on_channel_listening(worker_, frame.query);
}

// The key will not come again, and the kernel tells that the socket is gone.
void NodeChannel::on_frame(const NodeServerClosed&) {}

void NodeChannel::on_frame(const NodeLeaving& frame) {
    queue_line(node_ack(frame.seq, last_seq_++));
    observer_.on_channel_disconnect(worker_);
}

// The sender holds back all that it has to say until its handle is acknowledged. The fd itself has
// been closed when it was read.
void NodeChannel::on_frame(const NodeHandle& frame) {
    queue_line(node_handle_ack());
    std::weak_ptr<char> life = life_;
    observer_.on_channel_error(
        worker_, Error{"handle-refused", "a socket that came with a message was closed", 0});
    if (life.expired() || !frame.message) return;
    observer_.on_channel_message(worker_, *frame.message, Address{});
}

void NodeChannel::on_frame(const NodeHandleAnswer& frame) {
    if (!is_handle_on_its_way_) {
        unknown_total_ += 1;
        return;
    }
    is_handle_on_its_way_ = false;
    bool is_lost = !frame.is_received && handles_.front().times_sent >= kMaxTimesSent;
    if (frame.is_received || (!is_lost && is_disconnecting_))
        handles_.pop_front();
    else if (is_lost)
        lose_handle(EMFILE);
    flush();
    if (is_lost)
        observer_.on_channel_error(
            worker_, Error{"handle-lost",
                           "a socket that was sent several times did not arrive: the limit of open "
                           "files may be reached",
                           EMFILE});
}

void NodeChannel::on_frame(const NodeUnknown&) {
    unknown_total_ += 1;
}

}  // namespace drover::worker
