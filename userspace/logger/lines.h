// SPDX-License-Identifier: MIT
//
// Turns the bytes that a worker prints into whole, prefixed lines. Pure, and fit for hostile input:
// memory is bounded, and what goes to a terminal is stripped of everything that could steer it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace drover::logger {

// raw: as the worker printed it. terminal: control characters but tab, and escape sequences but
// colours (ESC [ digits m), become "\x1b"; so does what is no valid UTF-8. A carriage return at the
// end of a line is dropped.
enum class Target { raw, terminal };

// One line without its newline, as it is fit to be written to `target`.
std::string made_safe(std::string_view line, Target target);

class LineSplitter {
  public:
    static constexpr size_t kLongest = 64 * 1024;  // bytes; longer lines are cut into pieces

    LineSplitter(std::string prefix, Target target) : prefix_(std::move(prefix)), target_(target) {}

    // Takes the next bytes; returns the lines that are whole now, each with prefix and newline.
    // What is left waits for the next call.
    std::string feed(std::string_view bytes);

    // The end: what is left, completed by a newline.
    std::string finish();

  private:
    void append_line(std::string_view line, std::string& lines) const;

    std::string prefix_;
    Target target_;
    std::string partial_;   // at most kLongest bytes
    bool was_cut_ = false;  // the present line already gave a piece
};

}  // namespace drover::logger
