// SPDX-License-Identifier: MIT
//
// What libbpf and the kernel's verifier say while programs are loaded: pages of it, of which a
// person needs the end.
#pragma once

#include <string>

namespace drover::steer {

// Keeps what is said while it lives, instead of letting libbpf print it. One at a time.
class LoadLog {
  public:
    LoadLog();
    ~LoadLog();
    LoadLog(const LoadLog&) = delete;
    LoadLog& operator=(const LoadLog&) = delete;

    [[nodiscard]] const std::string& text() const { return text_; }

  private:
    std::string text_;
};

// Without its end.
std::string first_line(const std::string& text);

// The last `count` lines.
std::string last_lines(const std::string& text, int count);

// Of the verifier's log on the program that it refused: the last `count` lines that are for people.
// Those are lines of the source ("; return i;") and at last the verdict; the instructions and what
// was known of registers are left out, and what is not printable is replaced. Empty where the
// verifier refused none.
std::string verifier_lines(const std::string& log, int count);

// Of those the last one.
std::string verdict_of(const std::string& log);

}  // namespace drover::steer
