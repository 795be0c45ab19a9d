// SPDX-License-Identifier: MIT
#include "base/log.h"

#include <fmt/format.h>
#include <unistd.h>

namespace drover::log {

namespace {

Keeper& keeper() {
    static Keeper the_keeper;
    return the_keeper;
}

// One write a line, so that lines of several processes do not mix. A failed write has nowhere to be
// reported.
void line(Level level, std::string_view text) {
    if (keeper() && keeper()(level, text)) return;
    std::string out = fmt::format("drover: {}{}\n", prefix_of(level), text);
    [[maybe_unused]] auto written = ::write(STDERR_FILENO, out.data(), out.size());
}

}  // namespace

std::string_view prefix_of(Level level) {
    return level == Level::info ? "" : level == Level::warning ? "warning: " : "error: ";
}

void info(std::string_view text) {
    line(Level::info, text);
}
void warn(std::string_view text) {
    line(Level::warning, text);
}
void error(std::string_view text) {
    line(Level::error, text);
}

void set_keeper(Keeper the_keeper) {
    keeper() = std::move(the_keeper);
}

}  // namespace drover::log
