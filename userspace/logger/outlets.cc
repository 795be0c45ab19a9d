// SPDX-License-Identifier: MIT
#include "logger/outlets.h"

#include <fmt/format.h>

#include "base/journal.h"
#include "base/safe_text.h"
#include "logger/lines.h"

namespace drover::logger {

namespace {

// How long one reader that takes nothing may hold up everybody.
constexpr std::chrono::seconds kPatience{2};

}  // namespace

Outlets::Outlets(const std::string& cluster, int out_fd, int err_fd, const Settings& settings,
                 const std::string& unit)
    : cluster_(cluster),
      out_is_journal_(is_journal(out_fd)),
      err_is_journal_(is_journal(err_fd)),
      out_(out_fd, fmt::format("[{}] ", cluster), kPatience),
      err_(err_fd, fmt::format("[{}] ", cluster), kPatience),
      journal_(cluster, unit) {
    if (!settings.file.empty()) file_.emplace(settings.file, settings.size, settings.keep);
}

void Outlets::open() {
    out_.open();
    err_.open();
}

void Outlets::write(const Origin& origin, std::string_view lines) {
    // First, so that `drover logs` has whatever somebody has seen.
    write_to_file(origin, lines);
    bool is_err = origin.stream == LogStream::err;
    if (is_err ? err_is_journal_ : out_is_journal_) {
        each_line(lines, [&](std::string_view line) { journal_.write(origin, line); });
    } else {
        Sink& sink = is_err ? err_ : out_;
        auto prefix = fmt::format("[{}/{}] ", cluster_, origin.worker->instance);
        std::string text;
        text.reserve(lines.size() + prefix.size());
        each_line(lines, [&](std::string_view line) {
            text += prefix;
            if (sink.is_terminal())
                append_safe(line, text);
            else
                text += line;
            text += '\n';
        });
        sink.write(text);
    }
}

void Outlets::write_to_file(const Origin& origin, std::string_view lines) {
    if (!file_) return;
    auto now = std::chrono::system_clock::now();
    auto head = log_line_head(now, origin.worker, origin.stream);
    std::string text;
    text.reserve(lines.size() + head.size());
    each_line(lines, [&](std::string_view line) {
        text += head;
        append_safe(line, text);
        text += '\n';
    });
    file_->write(text, now);
    if (auto trouble = file_->take_trouble()) {
        Origin own{std::nullopt, LogStream::drover, log::Level::warning};
        if (err_is_journal_)
            journal_.write(own, "warning: " + *trouble);
        else
            err_.write(fmt::format("drover: warning: {}\n", *trouble));
    }
}

void Outlets::keep(log::Level level, std::string_view text) {
    Origin own{std::nullopt, LogStream::drover, level};
    auto whole = fmt::format("{}{}", log::prefix_of(level), text);
    if (err_is_journal_)
        each_line(whole, [&](std::string_view line) { journal_.write(own, line); });
    write_to_file(own, whole);
}

void Outlets::tell(const Origin& origin, const std::string& text) {
    auto whole = fmt::format("{}{}", log::prefix_of(origin.level), text);
    if (err_is_journal_)
        journal_.write(origin, whole);
    else
        err_.write(fmt::format("drover: {}\n", whole));
    write_to_file(origin, whole);
}

}  // namespace drover::logger
