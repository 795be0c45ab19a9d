// SPDX-License-Identifier: MIT
#include "cli/checks.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/cli.h"
#include "cli/terminal.h"

namespace drover::cli {

namespace {

bool are_good(const std::vector<Check>& checks) {
    return std::none_of(checks.begin(), checks.end(),
                        [](const Check& check) { return !check.ok && check.fatal; });
}

std::string as_json(const std::vector<Check>& checks) {
    auto list = nlohmann::ordered_json::array();
    for (const auto& check : checks)
        list.push_back(
            {{"name", check.name}, {"ok", check.ok}, {"fatal", check.fatal}, {"text", check.text}});
    nlohmann::ordered_json all = {{"v", 1}, {"ok", are_good(checks)}, {"checks", std::move(list)}};
    return all.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string render_checks(const std::vector<Check>& checks, bool json, bool color) {
    if (json) return as_json(checks);
    size_t width = 0;
    for (const auto& check : checks) width = std::max(width, columns(escape(check.name)));
    std::string text;
    for (const auto& check : checks) {
        const char* word = check.ok ? "ok  " : check.fatal ? "FAIL" : "warn";
        const char* paint = check.ok ? "\033[32m" : check.fatal ? "\033[31m" : "\033[33m";
        auto name = escape(check.name);
        text += color ? fmt::format("{}{}\033[0m", paint, word) : word;
        text += fmt::format("  {}{:{}}  {}\n", name, "", width - columns(name), escape(check.text));
    }
    return text;
}

int print_checks(const std::vector<Check>& checks, bool json) {
    put(render_checks(checks, json, use_color(STDOUT_FILENO)));
    return are_good(checks) ? kDone : kFailed;
}

}  // namespace drover::cli
