// SPDX-License-Identifier: MIT
//
// The words of Node's IPC, in both directions, as pure functions over text: no fd, no clock, no
// state but a line's unfinished beginning. node_channel.h does the talking.
//
// Node's IPC is one JSON value a line. Objects whose "cmd" begins with NODE_ are Node's own: those
// of the cluster module (NODE_CLUSTER, with an "act"), and those that go with a file descriptor
// (NODE_HANDLE and its answers). Every other value is a message of the program's.
//
// All of it comes from a worker, which is not trusted: whatever the bytes are, the functions
// return, in time linear to the length and with a bounded stack. So a program's message is checked,
// not built up as a tree: it goes on as the text it came in.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "base/result.h"
#include "worker/channel.h"

namespace drover::worker {

// Cuts a stream of bytes into lines. It never holds more than one line of the greatest length and
// what was fed last.
class NodeLineCutter {
  public:
    explicit NodeLineCutter(size_t longest) : longest_(longest) {}

    void feed(std::span<const char> bytes);

    struct Line {
        std::string_view text;      // without the line break; valid until the next feed()
        bool is_oversized = false;  // then without text; told once, the rest is skipped
    };
    // The next whole line; nothing where more bytes are needed.
    std::optional<Line> next();

    // Bytes of a line whose end has not come yet.
    [[nodiscard]] bool is_within_line() const { return is_skipping_ || begin_ < buffer_.size(); }

  private:
    size_t longest_;
    std::string buffer_;
    size_t begin_ = 0;    // of the present line
    size_t scanned_ = 0;  // no line break before this
    bool is_skipping_ = false;
};

// What a worker says.
struct NodeMessage {   // the program's own: process.send(data)
    std::string data;  // JSON text, valid and without line breaks
};
struct NodeOnline {};
struct NodeQuery {  // queryServer: awaits an answer that carries `seq` as its ack
    uint64_t seq = 0;
    SocketQuery query;
};
struct NodeListening {
    SocketQuery query;
};
struct NodeServerClosed {};
struct NodeLeaving {  // exitedAfterDisconnect: waits for an ack
    uint64_t seq = 0;
};
struct NodeHandle {                      // comes with a file descriptor
    std::optional<std::string> message;  // of the program's, where one came with it
};
struct NodeHandleAnswer {
    bool is_received = false;
};
struct NodeUnknown {};  // Node's own, and of a kind that is not known here

using NodeFrame = std::variant<NodeMessage, NodeOnline, NodeQuery, NodeListening, NodeServerClosed,
                               NodeLeaving, NodeHandle, NodeHandleAnswer, NodeUnknown>;

// Error "malformed": not JSON, not UTF-8, nested deeper than kMaxDepth, or a frame of Node's own
// that lacks what it needs.
Result<NodeFrame> parse_node_line(std::string_view line);

// Whether `data` may be sent as a program's message. Errors: "malformed" (as above, or with a line
// break), "oversized", "reserved" (Node would take it for a frame of its own: one worker could make
// another believe that the master spoke).
Result<void> check_node_message(std::string_view data);

// What the master says. Each is a whole line, its line break included. `seq` counts the master's
// own cluster lines; `ack` is the worker's seq; `data` is JSON text.
std::string node_ack(uint64_t ack, uint64_t seq);
std::string node_disconnect(uint64_t seq);
std::string node_handle_ack();
// The answer to a query, to be sent together with the socket. `key` names the socket, once.
std::string node_socket_reply(uint64_t ack, uint64_t seq, const std::string& key, bool udp,
                              const std::string& data);
// The answer without a socket; `error` is a positive errno.
std::string node_error_reply(uint64_t ack, uint64_t seq, const std::string& key, int error,
                             const std::string& data);

}  // namespace drover::worker
