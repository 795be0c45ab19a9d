// SPDX-License-Identifier: MIT
//
// The master's end of a worker's message channel, whichever language it speaks: JSON lines over two
// pipes (line_channel.h), or Node's IPC over a socket pair (node_channel.h).
//
// The master never blocks on a worker that reads slowly: what it sends waits in a bounded queue,
// and a send beyond that fails. What a worker sends is never trusted: whatever is malformed is an
// error told to the observer, is skipped, and the channel goes on.
//
// Message data is passed on as JSON text, valid and without line breaks: nobody between the two
// ends needs to look into it.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace drover::worker {

// Whom a worker's message is for.
struct Address {
    enum class Kind { master, all, worker } kind = Kind::master;
    uint64_t worker = 0;  // with Kind::worker
};

// A listening socket that a Node worker asks for (queryServer).
struct SocketQuery {
    std::string address;  // "" where the worker named none
    int port = 0;
    int address_type = 4;  // 4, 6, -1 (a unix socket's path is the address)
    bool udp = false;
    int fd = -1;  // listen({fd}): an fd of the master's table; else -1
    int flags = 0;
    int backlog = 0;
    // Sockets with the same address, port and type in two workers are the same one where the index
    // is too: it tells the second listen(0) of a worker from its first.
    int index = 0;
    bool readable_all = false;  // a unix socket's path: for everybody
    bool writable_all = false;
    std::string data = "null";  // JSON text, to be echoed; "null" where there is none
};

// The answer: a bound socket (TCP: not necessarily listening yet), or an errno.
struct SocketAnswer {
    Fd socket;
    int error = 0;              // positive errno; 0 with a socket
    std::string data = "null";  // what goes back in `data`
};

class ChannelObserver {
  public:
    virtual ~ChannelObserver() = default;
    virtual void on_channel_online(uint64_t /*worker*/) {}  // Node's "online"
    virtual void on_channel_ready(uint64_t worker) = 0;
    virtual void on_channel_message(uint64_t worker, const std::string& data, Address to) = 0;
    virtual void on_channel_load(uint64_t worker, double value) = 0;
    virtual void on_channel_disconnect(uint64_t worker) = 0;  // it will take no more messages
    virtual void on_channel_pong(uint64_t worker) = 0;
    // Something that the worker sent was refused: code "malformed", "oversized", "unknown" …
    virtual void on_channel_error(uint64_t worker, const Error& error) = 0;
    virtual void on_channel_closed(uint64_t worker) = 0;  // end of file: nothing more will come
    // Node alone. The answer may be given later, through NodeChannel::answer.
    virtual void on_channel_query(uint64_t /*worker*/, uint64_t /*query*/, const SocketQuery&) {}
    // Node's "listening": the socket that it asked for is in use; `port` is the real one. Of TCP
    // the kernel tells the same; of UDP and unix sockets this alone does.
    virtual void on_channel_listening(uint64_t /*worker*/, const SocketQuery&) {}
};

class Channel {
  public:
    virtual ~Channel() = default;

    // Queues a message for the worker. `data` is JSON text; `from` a worker's id, 0: the master.
    // Errors: "queue-full" (nothing of it was queued), "closed".
    virtual Result<void> send(const std::string& data, uint64_t from) = 0;
    // Asks the worker to finish its work and end.
    virtual Result<void> disconnect(std::chrono::milliseconds deadline) = 0;

    // Nothing is on its way in it: neither a part of a line nor what the worker has still to read.
    [[nodiscard]] virtual bool is_quiet() const = 0;

    // Lines that were of an unknown type, and were ignored.
    [[nodiscard]] virtual uint64_t unknown_total() const = 0;
};

constexpr size_t kMaxLine = 1024 * 1024;     // bytes of one message, its line break not counted
constexpr size_t kMaxQueued = 4 * kMaxLine;  // bytes waiting for one worker
constexpr int kMaxDepth = 128;               // arrays and objects within each other, in a message

}  // namespace drover::worker
