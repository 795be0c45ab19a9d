// SPDX-License-Identifier: MIT
//
// Where lines go: the logger's standard output or error. It takes everything, always: a sink that
// is broken, full, or that nobody empties costs lines, which are counted and told of once it takes
// lines again. Workers wait for a slow reader, but not for one that has stopped.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/fd.h"

namespace drover::logger {

class Sink {
  public:
    // `fd` is lent. `patience`: how long a write waits for a reader that takes nothing before lines
    // are discarded. After that none waits until the reader has come back.
    Sink(int fd, std::string prefix, std::chrono::milliseconds patience)
        : fd_(fd), prefix_(std::move(prefix)), patience_(patience) {}

    // Finds out what the fd is, and how to write to it without blocking.
    void open();

    // Lines for it must be made safe.
    [[nodiscard]] bool is_terminal() const { return is_terminal_; }

    // Whole lines, each with its newline.
    void write(std::string_view lines);

    [[nodiscard]] uint64_t discarded_lines_total() const { return discarded_total_; }

  private:
    size_t write_bytes(std::string_view bytes);  // how many it took
    bool wait_for_reader();
    bool write_what_is_due();  // whether all of it is out
    void discard(std::string_view lines);

    int fd_;
    std::string prefix_;
    std::chrono::milliseconds patience_;
    Fd nonblocking_;  // the same file, opened anew: O_NONBLOCK on fd_ itself would be the shell's
                      // too
    bool is_terminal_ = false;
    bool is_socket_ = false;
    bool is_stuck_ = false;  // the last write had to give up waiting
    std::string due_;        // the rest of a line of which a part is out; a note about lost lines
    uint64_t untold_ = 0;    // lines discarded since the last note
    uint64_t discarded_total_ = 0;
};

}  // namespace drover::logger
