// SPDX-License-Identifier: MIT
//
// What a datagram of sd_notify(3) says: lines of NAME=VALUE. Pure.
//
//     READY=1   STOPPING=1   STATUS=a sentence   WATCHDOG=1   WATCHDOG_USEC=20000000
//
// Every other name is passed over: MAINPID (who a worker is, drover knows by itself), FDSTORE,
// BARRIER, RELOADING, and whatever systemd thinks of next. So is a known name with a value that
// means nothing. The datagram comes from a worker, which is foreign: whatever the bytes are, the
// function returns, in time linear to the length.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace drover::worker {

constexpr size_t kMaxNotification = 4096;  // bytes of one datagram, as in systemd
constexpr size_t kMaxStatus = 200;         // bytes of a status that are kept

struct Notification {
    bool is_ready = false;
    bool is_stopping = false;
    bool is_alive = false;  // WATCHDOG=1
    // Valid UTF-8 (what is none becomes U+FFFD), at most kMaxStatus bytes, cut between characters.
    // It may have control characters, but no line break. Empty: there is nothing to say any more.
    std::optional<std::string> status;
    // The interval that the worker wishes its watchdog to have; more than 0.
    std::optional<std::chrono::microseconds> watchdog_interval;

    bool operator==(const Notification&) const = default;
};

// Of a name that stands there more than once the first counts. Errors: "oversized"; "malformed": a
// NUL byte within the datagram (one at its end is allowed, as systemd allows it).
Result<Notification> parse_notification(std::string_view datagram);

}  // namespace drover::worker
