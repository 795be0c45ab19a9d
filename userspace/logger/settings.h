// SPDX-License-Identifier: MIT
//
// What the master tells the logger about a cluster's logs, as one JSON text on its command line:
//
//     {"file":"/var/log/drover/web.log","size":10485760,"keep":5,"rate":{"lines":10000,"ms":1000}}
//
// Without "file" there is none, without "rate" no limit.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "logger/rate.h"

namespace drover::logger {

struct Settings {
    std::string file;
    uint64_t size = 10 << 20;  // bytes
    int keep = 5;
    RateLimit rate;
    bool operator==(const Settings&) const = default;
};

// Pure. What makes no sense is as if it were not there.
Settings parse_settings(std::string_view text);

}  // namespace drover::logger
