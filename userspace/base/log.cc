// SPDX-License-Identifier: MIT
#include "base/log.h"

#include <fmt/format.h>
#include <unistd.h>

namespace drover::log {

namespace {

// One write a line, so that lines of several processes do not mix. A failed write has nowhere to be
// reported.
void line(std::string_view level, std::string_view text) {
    std::string out = fmt::format("drover: {}{}\n", level, text);
    [[maybe_unused]] auto written = ::write(STDERR_FILENO, out.data(), out.size());
}

}  // namespace

void info(std::string_view text) {
    line("", text);
}
void warn(std::string_view text) {
    line("warning: ", text);
}
void error(std::string_view text) {
    line("error: ", text);
}

}  // namespace drover::log
