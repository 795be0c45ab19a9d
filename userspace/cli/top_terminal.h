// SPDX-License-Identifier: MIT
//
// The terminal that `drover top` has while it runs: lines are drawn, keys are read. All that is
// known of ncurses is in its source. Its end gives the terminal back as it was.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/result.h"
#include "cli/top_screen.h"

namespace drover::cli {

struct Key {
    enum class Kind { character, up, down, page_up, page_down, home, end, other };
    Kind kind = Kind::other;
    char character = 0;
};

class TopTerminal {
  public:
    // Error code "usage" where the TERM of the environment is not known.
    static Result<std::unique_ptr<TopTerminal>> open();
    ~TopTerminal();
    TopTerminal(const TopTerminal&) = delete;
    TopTerminal& operator=(const TopTerminal&) = delete;

    [[nodiscard]] size_t width() const;
    [[nodiscard]] size_t height() const;
    [[nodiscard]] bool is_utf8() const { return is_utf8_; }

    // Its size has changed (SIGWINCH).
    void resize();
    void draw(const std::vector<TopLine>& lines);
    // The next key that was pressed; nothing where none was.
    std::optional<Key> key();

  private:
    TopTerminal() = default;
    void* screen_ = nullptr;  // ncurses' SCREEN
    bool is_utf8_ = false;
    bool has_color_ = false;
};

}  // namespace drover::cli
