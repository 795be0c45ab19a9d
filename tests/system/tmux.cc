// SPDX-License-Identifier: MIT
#include "tmux.h"

#include <fmt/format.h>

#include <cstdio>

namespace drover::test {

Tmux::Tmux(Sandbox& sandbox, int width, int height, const std::string& command,
           const Words& environment)
    : sandbox_(sandbox) {
    Words variables = {"LC_ALL=C.UTF-8", "NO_COLOR="};
    variables.insert(variables.end(), environment.begin(), environment.end());
    // Not as a daemon: it ends with the test, however that ends.
    server_ = sandbox_.start(
        {.command = {"tmux", "-u", "-S", sandbox_.path("tmux"), "-f", "/dev/null", "-D"},
         .extra_environment = variables,
         .identity = {},
         .cwd = {}});
    // Ctrl-C is for the command alone.
    auto line = fmt::format("trap : INT; echo before; {}; echo status $?; exec cat", command);
    auto started = [&] {
        return tmux({"new-session", "-d", "-x", std::to_string(width), "-y", std::to_string(height),
                     "sh", "-c", line})
                   .status == 0;
    };
    REQUIRE(eventually(started));
}

Tmux::~Tmux() {
    tmux({"kill-server"});
    server_.wait();  // its socket is gone with it
}

Outcome Tmux::tmux(const Words& words) {
    Words command = {"tmux", "-u", "-S", sandbox_.path("tmux"), "-f", "/dev/null", "-N"};
    command.insert(command.end(), words.begin(), words.end());
    return sandbox_.run(
        {.command = command, .extra_environment = {"LC_ALL=C.UTF-8"}, .identity = {}, .cwd = {}});
}

std::string Tmux::screen() {
    return tmux({"capture-pane", "-p"}).out;
}

std::string Tmux::colored_screen() {
    return tmux({"capture-pane", "-p", "-e"}).out;
}

bool Tmux::shows(const std::function<bool(const std::string& screen)>& what) {
    std::string last;
    if (eventually([&] { return what(last = screen()); })) return true;
    std::printf("the screen does not show it:\n%s\n", last.c_str());
    return false;
}

bool Tmux::shows(const std::string& text) {
    bool found = shows([&](const std::string& screen) { return contains(screen, text); });
    if (!found) std::printf("(it is \"%s\")\n", text.c_str());
    return found;
}

void Tmux::type(const std::string& key) {
    CHECK(tmux({"send-keys", key}).status == 0);
}

void Tmux::resize(int width, int height) {
    CHECK(
        tmux({"resize-window", "-x", std::to_string(width), "-y", std::to_string(height)}).status ==
        0);
}

bool Tmux::ended(int status) {
    return shows(fmt::format("status {}\n", status)) && shows([](const std::string& screen) {
               return screen.starts_with("before\n") && !contains(screen, "q quit");
           });
}

}  // namespace drover::test
