// SPDX-License-Identifier: MIT
#include "supervisor/channels.h"

#include <fmt/format.h>

namespace drover::supervisor {

Result<Channels::Inheritance> Channels::open(WorkerId id, Ipc kind, int instance, int workers,
                                             int first_number) {
    Inheritance inheritance;
    if (kind == Ipc::none) return inheritance;
    Open& open = channels_[id];
    if (kind == Ipc::node) {
        auto channel = worker::NodeChannel::open(loop_, id, *this);
        if (!channel) return tl::unexpected(channel.error());
        open.node = std::move(*channel);
        // Both ends, so that a master that dies is no end of file for it.
        inheritance.fds = {{open.node->child_fd(), first_number},
                           {open.node->second_child_fd(), first_number + 1}};
        inheritance.environment = open.node->environment(first_number);
        return inheritance;
    }
    auto channel = worker::LineChannel::open(loop_, id, instance, workers, *this);
    if (!channel) return tl::unexpected(channel.error());
    open.line = std::move(*channel);
    auto ends = open.line->child_fds();
    inheritance.fds = {{ends.read, first_number},
                       {ends.write, first_number + 1},
                       {ends.spare_write, first_number + 2},
                       {ends.spare_read, first_number + 3}};
    inheritance.environment = {fmt::format("DROVER_IPC_READ_FD={}", first_number),
                               fmt::format("DROVER_IPC_WRITE_FD={}", first_number + 1)};
    return inheritance;
}

Result<void> Channels::adopt(WorkerId id, bool is_node, Fd&& read_end, Fd&& write_end) {
    Open& open = channels_[id];
    if (is_node) {
        open.node = worker::NodeChannel::adopt(loop_, id, *this, std::move(read_end));
        return {};
    }
    auto channel =
        worker::LineChannel::adopt(loop_, id, *this, std::move(read_end), std::move(write_end));
    if (!channel) return tl::unexpected(channel.error());
    open.line = std::move(*channel);
    return {};
}

void Channels::started(WorkerId id) {
    auto found = channels_.find(id);
    if (found == channels_.end()) return;
    if (found->second.line) found->second.line->close_child_ends();
    if (found->second.node) found->second.node->close_child_end();
}

void Channels::close(WorkerId id) {
    auto found = channels_.find(id);
    if (found == channels_.end()) return;
    if (found->second.line) found->second.line->close();
    channels_.erase(id);
}

std::optional<WorkerId> Channels::busy() const {
    for (const auto& [id, open] : channels_)
        if (open.channel() != nullptr && !open.channel()->is_quiet()) return id;
    return std::nullopt;
}

Result<void> Channels::send(WorkerId id, const std::string& data, WorkerId from) {
    auto found = channels_.find(id);
    worker::Channel* channel = found == channels_.end() ? nullptr : found->second.channel();
    if (channel == nullptr) return fail("no-channel", "it has no message channel");
    return channel->send(data, from);
}

void Channels::ask_to_finish(WorkerId id, std::chrono::milliseconds deadline) {
    auto found = channels_.find(id);
    worker::Channel* channel = found == channels_.end() ? nullptr : found->second.channel();
    if (channel != nullptr) (void)channel->disconnect(deadline);  // else the signal will tell it
}

bool Channels::is_node_connected(WorkerId id) const {
    auto found = channels_.find(id);
    return found != channels_.end() && found->second.node && !found->second.told_disconnect;
}

void Channels::on_channel_ready(uint64_t worker) {
    observer_->on_ready_message(worker);
}

void Channels::on_channel_message(uint64_t worker, const std::string& data, worker::Address to) {
    observer_->on_message(worker, data, to);
}

void Channels::on_channel_load(uint64_t worker, double value) {
    observer_->on_load(worker, value);
}

void Channels::on_channel_disconnect(uint64_t worker) {
    tell_disconnect(worker);
}

void Channels::on_channel_pong(uint64_t) {}

void Channels::on_channel_error(uint64_t worker, const Error& error) {
    observer_->on_trouble(worker, {error.code, fmt::format("worker {}: {}", worker, error.text)});
}

void Channels::on_channel_closed(uint64_t worker) {
    tell_disconnect(worker);
}

// Steering tells of TCP; of the others nobody else does.
void Channels::on_channel_listening(uint64_t worker, const worker::SocketQuery& where) {
    bool is_unix = where.address_type == -1;
    if (!where.udp && !is_unix && !tells_tcp_) return;
    observer_->on_listening(worker,
                            {is_unix     ? "unix"
                             : where.udp ? "udp"
                                         : "tcp",
                             where.address, where.port},
                            false);
}

void Channels::tell_disconnect(uint64_t worker) {
    auto found = channels_.find(worker);
    if (found == channels_.end() || found->second.told_disconnect) return;
    found->second.told_disconnect = true;
    observer_->on_disconnect(worker);
}

void Channels::on_channel_query(uint64_t worker, uint64_t query,
                                const worker::SocketQuery& wanted) {
    auto answer = sockets_.answer(worker, wanted);
    auto found = channels_.find(worker);
    if (found == channels_.end() || !found->second.node) return;
    auto answered = found->second.node->answer(query, std::move(answer));
    if (!answered) on_channel_error(worker, answered.error());
}

}  // namespace drover::supervisor
