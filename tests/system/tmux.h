// SPDX-License-Identifier: MIT
//
// A terminal with somebody at it: a tmux of the test's own, in its sandbox, which runs one command,
// is typed into and looked at.
#pragma once

#include <string>

#include "harness.h"

namespace drover::test {

class Tmux {
  public:
    // The command's line for the shell; "before" stands above it, and below it, when it has ended,
    // "status N".
    Tmux(Sandbox& sandbox, int width, int height, const std::string& command,
         const Words& environment = {});
    ~Tmux();
    Tmux(const Tmux&) = delete;
    Tmux& operator=(const Tmux&) = delete;

    // What is on the screen; with colours as escape sequences.
    std::string screen();
    std::string colored_screen();
    // Until it shows the text; prints the screen where it does not.
    bool shows(const std::string& text);
    bool shows(const std::function<bool(const std::string& screen)>& what);

    void type(const std::string& key);  // as tmux calls it: "d", "Down", "C-c"
    void resize(int width, int height);

    // The command has ended so, and the screen is as it was before.
    bool ended(int status);

  private:
    Outcome tmux(const Words& words);

    Sandbox& sandbox_;
    Child server_;
};

}  // namespace drover::test
