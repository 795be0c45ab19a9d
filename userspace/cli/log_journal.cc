// SPDX-License-Identifier: MIT
#include "cli/log_journal.h"

#include <fmt/format.h>
#include <systemd/sd-journal.h>

#include <charconv>
#include <memory>

namespace drover::cli {

namespace {

struct Close {
    void operator()(sd_journal* journal) const { ::sd_journal_close(journal); }
};
using Journal = std::unique_ptr<sd_journal, Close>;

Result<Journal> open_journal(const LogQuery& query) {
    sd_journal* opened = nullptr;
    if (int error = ::sd_journal_open(&opened, SD_JOURNAL_LOCAL_ONLY); error < 0)
        return fail_errno(-error, "open the journal");
    Journal journal(opened);
    auto match = [&](const std::string& field) {
        return ::sd_journal_add_match(journal.get(), field.data(), field.size());
    };
    int error = match("DROVER_CLUSTER=" + query.cluster);
    if (error >= 0) error = match(fmt::format("_UID={}", 0));
    if (error >= 0 && query.worker)
        error = match(fmt::format("DROVER_WORKER_ID={}", *query.worker));
    if (error < 0) return fail_errno(-error, "search the journal");
    return journal;
}

// The value of a field; empty where the entry has none.
std::string field(sd_journal* journal, const char* name) {
    const void* data = nullptr;
    size_t size = 0;
    if (::sd_journal_get_data(journal, name, &data, &size) < 0) return "";
    std::string_view whole(static_cast<const char*>(data), size);
    return std::string(whole.substr(whole.find('=') + 1));
}

template <class Number>
std::optional<Number> number(const std::string& text) {
    Number value{};
    auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc()) return std::nullopt;
    return value;
}

std::optional<LogLine> line_at(sd_journal* journal) {
    uint64_t microseconds = 0;
    if (::sd_journal_get_realtime_usec(journal, &microseconds) < 0) return std::nullopt;
    LogLine line;
    line.time = WallTime(std::chrono::microseconds(microseconds));
    auto instance = number<int>(field(journal, "DROVER_INSTANCE"));
    auto id = number<uint64_t>(field(journal, "DROVER_WORKER_ID"));
    if (instance && id) line.worker = LogWorker{*instance, *id};
    line.stream = log_stream_of(field(journal, "DROVER_STREAM")).value_or(LogStream::drover);
    line.text = field(journal, "MESSAGE");
    return line;
}

uint64_t microseconds_of(WallTime time) {
    return static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(time.time_since_epoch()).count());
}

// So that the next sd_journal_next() is at the first wanted one.
int seek_begin(sd_journal* journal, const LogQuery& query) {
    if (!query.last)
        return query.since ? ::sd_journal_seek_realtime_usec(journal, microseconds_of(*query.since))
                           : ::sd_journal_seek_head(journal);
    // "previous" goes to the last one itself at first, and "next" away from where it has come to.
    int error = ::sd_journal_seek_tail(journal);
    if (error < 0) return error;
    error = ::sd_journal_previous_skip(journal, *query.last + 1);
    if (error < 0) return error;
    bool are_fewer = static_cast<uint64_t>(error) < *query.last + 1;
    return are_fewer ? ::sd_journal_seek_head(journal) : 0;
}

}  // namespace

Result<void> read_log_journal(const LogQuery& query, const OnLogLine& tell) {
    auto opened = open_journal(query);
    if (!opened) return tl::unexpected(opened.error());
    sd_journal* journal = opened->get();
    if (int error = seek_begin(journal, query); error < 0)
        return fail_errno(-error, "search the journal");
    constexpr uint64_t kPatience = 1'000'000;  // microseconds
    for (;;) {
        int found = ::sd_journal_next(journal);
        if (found < 0) return fail_errno(-found, "read the journal");
        if (found == 0 && !query.follow) return {};
        if (found == 0) {
            if (int error = ::sd_journal_wait(journal, kPatience); error < 0)
                return fail_errno(-error, "wait for the journal");
            continue;
        }
        auto line = line_at(journal);
        if (line && query.wants(*line) && !tell(*line)) return {};
    }
}

bool journal_has(const std::string& cluster) {
    auto journal = open_journal({cluster, {}, {}, {}, false});
    return journal && ::sd_journal_seek_head(journal->get()) >= 0 &&
           ::sd_journal_next(journal->get()) > 0;
}

}  // namespace drover::cli
