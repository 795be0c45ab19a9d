// SPDX-License-Identifier: MIT
//
// A cluster's log file. It takes lines always: what cannot be written (the disk is full, the folder
// is gone) is dropped and counted, and the file says so once it can be written again.
//
// Several processes write to it at once: after a take-over the former logger writes what the former
// workers print. So each write appends whole lines at the end, and before each write the file is
// looked for by its name: where it is another one than the open one, or none, somebody has rotated
// it (another logger, or logrotate, in any of its ways), and it is opened anew. Who finds it too
// large rotates it, NAME.log → NAME.log.1 → …, holding a lock of the folder.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/wall_time.h"

namespace drover::logger {

class LogFile {
  public:
    // Rotated once it has `size` bytes; `keep` rotated ones stay.
    LogFile(std::string path, uint64_t size, int keep)
        : path_(std::move(path)), size_(size), keep_(keep) {}

    // Whole lines, each with its newline.
    void write(std::string_view lines, WallTime now);

    // Why it cannot be written, told once each time that this begins.
    std::optional<std::string> take_trouble();

    [[nodiscard]] uint64_t dropped_lines_total() const { return dropped_total_; }

  private:
    bool prepare();  // the open file is the one of that name, and not too large
    bool open();
    void rotate();
    std::string_view append(std::string_view bytes);  // what it did not take
    void drop(std::string_view lines, int number);

    std::string path_;
    uint64_t size_;
    int keep_;
    Fd file_;
    bool is_mid_line_ = false;  // only a part of the last line could be written
    bool in_trouble_ = false;
    std::optional<std::string> trouble_;
    uint64_t untold_ = 0;  // lines that are missing in the file
    uint64_t dropped_total_ = 0;
};

// Where a file goes when it is rotated for the nth time.
std::string rotated_name(const std::string& path, int n);

}  // namespace drover::logger
