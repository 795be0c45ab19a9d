// SPDX-License-Identifier: MIT
#include "logger/journal_sink.h"

#include <fmt/format.h>
#include <sys/uio.h>
#include <syslog.h>
#include <systemd/sd-journal.h>

#include <vector>

#include "base/safe_text.h"

namespace drover::logger {

namespace {

int priority_of(const Origin& origin) {
    if (origin.stream == LogStream::out) return LOG_INFO;
    if (origin.stream == LogStream::err) return LOG_WARNING;
    return origin.level == log::Level::info      ? LOG_INFO
           : origin.level == log::Level::warning ? LOG_WARNING
                                                 : LOG_ERR;
}

}  // namespace

JournalSink::JournalSink(const std::string& cluster, const std::string& unit)
    : identifier_("SYSLOG_IDENTIFIER=" + cluster),
      cluster_("DROVER_CLUSTER=" + cluster),
      unit_(unit.empty() ? "" : "OBJECT_SYSTEMD_UNIT=" + unit) {}

// Where nobody listens, the library takes it silently: then nothing keeps it.
void JournalSink::write(const Origin& origin, std::string_view line) const {
    std::vector<std::string> own = {"MESSAGE=" + made_safe(line),
                                    fmt::format("PRIORITY={}", priority_of(origin)),
                                    fmt::format("DROVER_STREAM={}", name_of(origin.stream))};
    if (origin.worker) {
        own.push_back(fmt::format("DROVER_INSTANCE={}", origin.worker->instance));
        own.push_back(fmt::format("DROVER_WORKER_ID={}", origin.worker->id));
    }
    std::vector<iovec> fields;
    auto add = [&fields](const std::string& field) {
        if (!field.empty()) fields.push_back({const_cast<char*>(field.data()), field.size()});
    };
    for (const std::string& field : own) add(field);
    for (const std::string* field : {&identifier_, &cluster_, &unit_}) add(*field);
    (void)::sd_journal_sendv(fields.data(), static_cast<int>(fields.size()));
}

}  // namespace drover::logger
