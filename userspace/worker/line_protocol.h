// SPDX-License-Identifier: MIT
//
// The language of a worker's two pipes: one JSON object a line, UTF-8, at most kMaxLine bytes.
//
//     worker → master   {"type":"ready"}
//                       {"type":"message","data":…,"to":"master"|"all"|ID}   without to: master
//                       {"type":"load","value":0.7}
//                       {"type":"disconnect"}   {"type":"pong"}
//     master → worker   {"type":"hello","v":1,"id":7,"instance":0,"workers":4}
//                       {"type":"message","data":…,"from":"master"|ID}
//                       {"type":"disconnect","deadline_ms":10000}   {"type":"ping"}
//
// Everything here is pure: bytes in, values out. What a worker writes is foreign: nothing that it
// says can do more than be refused.
//
// `data` is cut out of the line as it stands, not parsed and written anew: numbers keep their
// digits, and nobody pays for a tree that nobody looks at. Values may be nested kMaxDepth deep
// (channel.h), the line's own object not counted.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <variant>

#include "base/result.h"
#include "worker/channel.h"

namespace drover::worker {

struct ReadyLine {};
struct MessageLine {
    std::string data;  // JSON text without line breaks
    Address to;
};
struct LoadLine {
    double value = 0;  // finite, not negative; 1: all that the worker can do
};
struct DisconnectLine {};
struct PongLine {};
struct UnknownLine {};  // well formed, of a type that this version does not know

using WorkerLine =
    std::variant<ReadyLine, MessageLine, LoadLine, DisconnectLine, PongLine, UnknownLine>;

// Reads one line, without its line break. Fields that the type does not have are ignored. Error
// code "malformed"; the text says what is wrong, and quotes at most kMaxExcerpt bytes of it.
Result<WorkerLine> parse_worker_line(std::string_view line);

// The master's lines, with their line breaks. `data` is JSON text; line breaks in it, which can
// only stand between its tokens, become spaces. `from` is a worker's id, 0: the master.
std::string hello_line(uint64_t worker, int instance, int workers);
std::string message_line(std::string_view data, uint64_t from);
std::string disconnect_line(std::chrono::milliseconds deadline);
std::string ping_line();

// Bytes for a person to read: printable ASCII, everything else escaped; cut so that the result is
// no longer than kMaxExcerpt.
constexpr size_t kMaxExcerpt = 80;
std::string excerpt(std::string_view bytes);

// Cuts a stream of bytes into lines. A line longer than the limit is told once, when it passes the
// limit, and then skipped up to its line break without being kept.
class LineSplitter {
  public:
    explicit LineSplitter(size_t max_line = kMaxLine) : max_line_(max_line) {}

    // Each whole line, without its break, valid during the call. False: stop, drop everything.
    using OnLine = std::function<bool(std::string_view line)>;
    // The beginning of a line that is too long. False: as above.
    using OnOversized = std::function<bool(std::string_view beginning)>;

    // May not be called from within its own callbacks.
    void feed(std::string_view bytes, const OnLine& on_line, const OnOversized& on_oversized);

    // The beginning of a line whose end has not come yet; empty while an oversized one is skipped.
    [[nodiscard]] std::string_view unfinished() const { return begun_; }

  private:
    size_t max_line_;
    std::string begun_;
    bool skipping_ = false;
};

}  // namespace drover::worker
