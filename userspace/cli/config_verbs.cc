// SPDX-License-Identifier: MIT
#include "cli/config_verbs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>

#include "cli/terminal.h"
#include "supervisor/config_file.h"

namespace drover::cli {

namespace {

// In quotes, with escapes that TOML knows, and harmless to a terminal. The text is UTF-8.
std::string toml_string(std::string_view text) {
    std::string result = "\"";
    while (!text.empty()) {
        auto first = static_cast<unsigned char>(text.front());
        size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 1;
        auto character = text.substr(0, length);
        auto safe = escape(character);
        if (character == "\"" || character == "\\") {
            result += "\\" + std::string(character);
        } else if (safe.starts_with("\\x")) {
            result += "\\u00" + safe.substr(2);
        } else {
            result += safe;
        }
        text.remove_prefix(std::min(length, text.size()));
    }
    return result + "\"";
}

std::string text_of(const Json& value) {
    return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string value_of(const supervisor::Option& option, const Json& value) {
    auto text = text_of(value);
    constexpr size_t kMostDigits = 18;
    bool is_bare = supervisor::is_number(option) && option.argument != "OCTAL" && !text.empty() &&
                   text.size() <= kMostDigits && text.front() != '0' &&
                   text.find_first_not_of("0123456789") == std::string::npos;
    return is_bare ? text : toml_string(text);
}

std::string joined(const std::vector<std::string>& values) {
    return fmt::format("[{}]", fmt::join(values, ", "));
}

}  // namespace

std::string render_config(const Json& config) {
    if (!config.is_object()) return "";
    auto cluster = config.value("cluster", "");
    std::string text;
    if (auto file = config.find("file"); file != config.end() && file->is_string())
        text = fmt::format("# from {}\n", escape(file->get<std::string>()));
    text += fmt::format("[{}]\n", escape(cluster));
    std::vector<std::string> words;
    if (auto command = config.find("command"); command != config.end() && command->is_array())
        for (const auto& word : *command) words.push_back(toml_string(text_of(word)));
    text += fmt::format("command = {}\n", joined(words));
    auto options = config.value("options", Json::object());
    for (const auto& option : supervisor::option_table()) {
        auto found = options.find(supervisor::key_of(option));
        if (found == options.end() || option.name == "name") continue;
        std::vector<std::string> values;
        if (found->is_array())
            for (const auto& value : *found) values.push_back(value_of(option, value));
        text += fmt::format("{} = {}\n", supervisor::key_of(option),
                            found->is_array() ? joined(values) : value_of(option, *found));
    }
    return text;
}

int show_config(Connection& connection, const Invocation& invocation) {
    Result<Json> config = fail("closed", "");
    auto sent = connection.send(make_request("config", Json::object()));
    auto line = sent ? connection.read_line() : tl::unexpected(sent.error());
    if (!line) {
        config = tl::unexpected(line.error());
    } else if (!*line) {
        config = fail("closed", "its master ended before it answered");
    } else {
        config = parse_reply(**line);
    }
    if (!config) {
        std::fputs(fmt::format("drover: {}: {}\n", invocation.cluster, config.error().text).c_str(),
                   stderr);
        return kFailed;
    }
    put(invocation.json ? config->dump(-1, ' ', true, Json::error_handler_t::replace) + "\n"
                        : render_config(*config));
    return kDone;
}

int check_config(const Invocation& invocation) {
    const auto& path = invocation.arguments.front();
    auto checked = supervisor::check_config_file(absolute_path(path));
    bool is_right = checked.problems.empty();
    if (invocation.json) {
        Json problems = Json::array();
        for (const auto& problem : checked.problems)
            problems.push_back({{"line", problem.line > 0 ? Json(problem.line) : Json(nullptr)},
                                {"text", problem.text}});
        Json result = {{"v", 1},
                       {"ok", is_right},
                       {"file", path},
                       {"clusters", checked.clusters},
                       {"problems", std::move(problems)}};
        put(result.dump(-1, ' ', true, Json::error_handler_t::replace) + "\n");
        return is_right ? kDone : kUsage;
    }
    for (const auto& problem : checked.problems)
        std::fputs(fmt::format("{}{}\n", escape(supervisor::place_of(path, problem.line)),
                               escape(problem.text))
                       .c_str(),
                   stderr);
    if (is_right)
        put(fmt::format("{} is right: {} {}\n", escape(path),
                        checked.clusters.size() == 1 ? "cluster" : "clusters",
                        fmt::join(checked.clusters, ", ")));
    return is_right ? kDone : kUsage;
}

}  // namespace drover::cli
