// SPDX-License-Identifier: MIT
//
// The systemd journal as the place where lines go: one entry a line, with the fields
//
//     MESSAGE            the line, made safe
//     PRIORITY           6 (info) of a worker's standard output and drover's own words, 4 (warning)
//                        of its standard error and drover's warnings, 3 (err) of drover's errors
//     SYSLOG_IDENTIFIER  the cluster
//     DROVER_CLUSTER, DROVER_INSTANCE, DROVER_WORKER_ID
//     DROVER_STREAM      out, err, or drover for its own words
//     OBJECT_SYSTEMD_UNIT  the master's unit, in which the logger may not be: journalctl -u finds
//     it
#pragma once

#include <string>
#include <string_view>

#include "logger/origin.h"

namespace drover::logger {

class JournalSink {
  public:
    // `unit`: of the master; empty where it has none.
    JournalSink(const std::string& cluster, const std::string& unit);

    void write(const Origin& origin, std::string_view line) const;

  private:
    std::string identifier_, cluster_, unit_;  // whole fields, NAME=VALUE
};

}  // namespace drover::logger
