// SPDX-License-Identifier: MIT
#include "base/log_line.h"

#include <fmt/format.h>

#include <charconv>

namespace drover {

namespace {

// The text up to the next blank, which is taken away with it; nothing where there is no blank.
std::optional<std::string_view> take_word(std::string_view& text) {
    auto blank = text.find(' ');
    if (blank == std::string_view::npos) return std::nullopt;
    auto word = text.substr(0, blank);
    text.remove_prefix(blank + 1);
    return word;
}

template <class Number>
std::optional<Number> parse_number(std::string_view text) {
    Number number{};
    const char* end = text.data() + text.size();
    auto [stop, error] = std::from_chars(text.data(), end, number);
    if (text.empty() || error != std::errc() || stop != end) return std::nullopt;
    return number;
}

// "0/7"
std::optional<LogWorker> parse_worker(std::string_view text) {
    auto slash = text.find('/');
    if (slash == std::string_view::npos) return std::nullopt;
    auto instance = parse_number<int>(text.substr(0, slash));
    auto id = parse_number<uint64_t>(text.substr(slash + 1));
    if (!instance || !id) return std::nullopt;
    return LogWorker{*instance, *id};
}

}  // namespace

std::string_view name_of(LogStream stream) {
    switch (stream) {
        case LogStream::out:
            return "out";
        case LogStream::err:
            return "err";
        case LogStream::drover:
            break;
    }
    return "drover";
}

std::optional<LogStream> log_stream_of(std::string_view name) {
    for (auto stream : {LogStream::out, LogStream::err, LogStream::drover})
        if (name == name_of(stream)) return stream;
    return std::nullopt;
}

std::string log_line_head(WallTime time, const std::optional<LogWorker>& worker, LogStream stream) {
    auto who = worker ? fmt::format("{}/{}", worker->instance, worker->id) : "-";
    return fmt::format("{} {} {} ", format_time(time), who, name_of(stream));
}

std::optional<LogLine> parse_log_line(std::string_view line) {
    auto time_text = take_word(line);
    auto who = time_text ? take_word(line) : std::nullopt;
    auto stream_text = who ? take_word(line) : std::nullopt;
    if (!stream_text) return std::nullopt;
    auto time = parse_time(*time_text);
    auto stream = log_stream_of(*stream_text);
    auto worker = parse_worker(*who);
    if (!time || !stream || (!worker && *who != "-")) return std::nullopt;
    return LogLine{*time, worker, *stream, std::string(line)};
}

}  // namespace drover
