// SPDX-License-Identifier: MIT
//
// Where lines come from.
#pragma once

#include <optional>
#include <string>

#include "base/log.h"
#include "base/log_line.h"

namespace drover::logger {

struct Origin {
    std::optional<LogWorker> worker;  // nothing: drover itself, about the whole cluster
    LogStream stream = LogStream::out;
    log::Level level = log::Level::info;  // of drover's own words
};

}  // namespace drover::logger
