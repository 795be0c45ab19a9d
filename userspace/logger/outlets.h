// SPDX-License-Identifier: MIT
//
// The places where a cluster's lines go, each in its own form:
//
//   - what the master has as standard output and error: "[web/0] hello"; where that is the journal,
//     entries with fields instead;
//   - the log file, where there is one: see base/log_line.h.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "logger/journal_sink.h"
#include "logger/log_file.h"
#include "logger/origin.h"
#include "logger/settings.h"
#include "logger/sink.h"

namespace drover::logger {

class Outlets {
  public:
    // The fds are lent. `unit`: the master's, see JournalSink.
    Outlets(const std::string& cluster, int out_fd, int err_fd, const Settings& settings,
            const std::string& unit);

    // Finds out what the fds are.
    void open();

    // Whole lines of a worker, each with its newline.
    void write(const Origin& origin, std::string_view lines);

    // The master's own words, which are on its standard error already, where that is not the
    // journal. May have several lines.
    void keep(log::Level level, std::string_view text);

    // The logger's own words.
    void tell(const Origin& origin, const std::string& text);

    [[nodiscard]] uint64_t discarded_lines_total() const {
        return out_.discarded_lines_total() + err_.discarded_lines_total();
    }

  private:
    void write_to_file(const Origin& origin, std::string_view lines);

    std::string cluster_;
    bool out_is_journal_, err_is_journal_;
    Sink out_, err_;
    JournalSink journal_;
    std::optional<LogFile> file_;
};

}  // namespace drover::logger
