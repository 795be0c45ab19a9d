// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

#include "harness.h"

namespace drover::test {

// The counters that hello keeps in a shared file.
struct Counters {
    uint64_t accepted = 0;
    uint64_t answered = 0;
};

inline Counters read_counters(const std::string& path) {
    Counters counters;
    std::string bytes = read_file(path);
    if (bytes.size() >= sizeof(counters)) std::memcpy(&counters, bytes.data(), sizeof(counters));
    return counters;
}

}  // namespace drover::test
