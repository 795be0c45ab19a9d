// SPDX-License-Identifier: MIT
#include "supervisor/config_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/fd.h"
#include "base/nearest.h"
#include "base/paths.h"

namespace drover::supervisor {

namespace {

constexpr off_t kLongestFile = 1 << 20;

tl::unexpected<Error> refuse(std::string text) {
    return fail("usage", std::move(text));
}

std::string folder_of(const std::string& path) {
    return std::filesystem::path(path).parent_path();
}

// What it says is run as root, so only who may become root may write it.
Result<std::string> read_text(const std::string& path) {
    Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    struct stat info {};
    if (!file.is_open() || ::fstat(file.get(), &info) != 0)
        return refuse(fmt::format("cannot read it: {}", std::strerror(errno)));
    if (!S_ISREG(info.st_mode)) return refuse("it is no file");
    if (::geteuid() == 0 && (info.st_mode & 022) != 0)
        return refuse(
            fmt::format("others than its owner can write it, and what it says is run as root: "
                        "chmod go-w {}",
                        path));
    if (info.st_size > kLongestFile) return refuse("it is longer than 1 MiB");
    std::string text(static_cast<size_t>(info.st_size), '\0');
    if (::read(file.get(), text.data(), text.size()) != info.st_size)
        return refuse("cannot read it whole");
    return text;
}

ParsedFile parse_file(const std::string& path) {
    auto text = read_text(path);
    if (!text) return {{}, {{0, text.error().text}}};
    return parse_config_toml(*text, folder_of(path));
}

// `wanted` is "" where none is named.
Result<FileCluster> choose(const ParsedFile& file, const std::string& path,
                           const std::string& wanted) {
    // One that is no table has the name that the command line gives it.
    if (!file.clusters.front().is_table) return file.clusters.front();
    std::vector<std::string> names;
    for (const FileCluster& cluster : file.clusters) names.push_back(cluster.name);
    if (wanted.empty() && names.size() == 1) return file.clusters.front();
    if (wanted.empty())
        return refuse(fmt::format("{} has several clusters, {}: name the one that is meant", path,
                                  fmt::join(names, ", ")));
    for (const FileCluster& cluster : file.clusters)
        if (cluster.name == wanted) return cluster;
    auto hint = did_you_mean(wanted, names);
    return refuse(
        fmt::format("{} has no cluster [{}]{}", path, wanted,
                    hint.empty() ? fmt::format(", only [{}]", fmt::join(names, "], [")) : hint));
}

// The error does not say where in the file.
Result<Config> lay_over(const FileCluster& cluster, const Source& source) {
    Config config;
    for (const FileValue& own : cluster.values) {
        bool is_replaced =
            !adds_up(*own.option) && std::ranges::any_of(source.options, [&](const auto& said) {
                return said.first == own.option->name;
            });
        if (is_replaced) continue;
        if (auto set = own.option->set(config, own.value); !set)
            return wrap(set.error(), key_of(*own.option));
        config.given.all.emplace_back(own.option->name, own.value);
    }
    for (const auto& [name, value] : source.options)
        if (auto set = set_option(config, name, value); !set) return tl::unexpected(set.error());
    config.source = source;
    config.command = source.command.empty() ? cluster.command : source.command;
    std::string which = cluster.is_table ? fmt::format("[{}]", cluster.name) : "it";
    if (config.command.empty())
        return refuse(fmt::format("{} has no command: command = [\"node\", \"server.js\"]", which));
    auto whole = complete(std::move(config));
    if (!whole) return wrap(whole.error(), which);
    return whole;
}

}  // namespace

std::string place_of(const std::string& file, int line) {
    return line > 0 ? fmt::format("{}:{}: ", file, line) : fmt::format("{}: ", file);
}

Result<Configured> configure_anew(const Source& source, const std::string& cluster) {
    auto file = parse_file(source.file);
    if (!file.problems.empty()) {
        const Problem& first = file.problems.front();
        auto text = place_of(source.file, first.line) + first.text;
        if (file.problems.size() > 1)
            text += fmt::format(" (and {} more: drover config check {})", file.problems.size() - 1,
                                source.file);
        return refuse(text);
    }
    auto chosen = choose(file, source.file, cluster);
    if (!chosen) return tl::unexpected(chosen.error());
    auto config = lay_over(*chosen, source);
    if (!config) return refuse(place_of(source.file, chosen->line) + config.error().text);
    return Configured{std::move(*config), std::move(*chosen)};
}

Result<Config> configure(Config command_line) {
    if (command_line.source.file.empty()) return complete(std::move(command_line));
    Source source = std::move(command_line.source);
    source.file = absolute_path(source.file);
    for (auto& option : command_line.given.all)
        if (option.first != "config") source.options.push_back(std::move(option));
    source.command = std::move(command_line.command);
    auto configured = configure_anew(source, command_line.name);
    if (!configured) return tl::unexpected(configured.error());
    return std::move(configured->config);
}

CheckedFile check_config_file(const std::string& path) {
    auto file = parse_file(path);
    CheckedFile checked;
    checked.problems = std::move(file.problems);
    bool is_readable = checked.problems.empty();
    for (const FileCluster& cluster : file.clusters) {
        checked.clusters.push_back(cluster.name);
        if (!is_readable) continue;
        auto config = lay_over(cluster, {});
        if (config) checked.clusters.back() = config->name;
        auto read = config ? read_env_files(*config) : tl::unexpected(config.error());
        if (!read) checked.problems.push_back({cluster.line, read.error().text});
    }
    std::ranges::stable_sort(checked.problems, {}, &Problem::line);
    return checked;
}

}  // namespace drover::supervisor
