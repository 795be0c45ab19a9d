// SPDX-License-Identifier: MIT
//
// Foreign bytes against the parser of notify datagrams. Beside not crashing: a status is short and
// valid UTF-8, and what is understood survives being said again.
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "worker/notify_parse.h"

using namespace drover::worker;

namespace {

void must(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "does not hold: %s\n", what);
    std::abort();
}

bool is_utf8(const std::string& text) {
    // The library's strict handler fails on any invalid byte; nothing is thrown by this one.
    auto replaced =
        nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    auto ignored =
        nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::ignore);
    return replaced == ignored;
}

std::string said_again(const Notification& notification) {
    std::string text;
    if (notification.is_ready) text += "READY=1\n";
    if (notification.is_stopping) text += "STOPPING=1\n";
    if (notification.is_alive) text += "WATCHDOG=1\n";
    if (notification.status) text += "STATUS=" + *notification.status + "\n";
    if (notification.watchdog_interval)
        text += "WATCHDOG_USEC=" + std::to_string(notification.watchdog_interval->count());
    return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    std::string_view bytes(reinterpret_cast<const char*>(data), size);
    auto notification = parse_notification(bytes);
    if (!notification) {
        bool may_refuse = size > kMaxNotification || bytes.find('\0') != std::string_view::npos;
        must(may_refuse, "only what is too long or has a NUL byte is refused");
        return 0;
    }
    must(size <= kMaxNotification, "what is too long is refused");
    if (const auto& status = notification->status) {
        must(status->size() <= kMaxStatus, "a status is short");
        must(status->find_first_of(std::string_view("\n\0", 2)) == std::string::npos,
             "a status is one line");
        must(is_utf8(*status), "a status is UTF-8");
    }
    if (notification->watchdog_interval)
        must(notification->watchdog_interval->count() > 0, "an interval is more than 0");
    must(parse_notification(said_again(*notification)) == *notification,
         "what is understood is understood again");
    return 0;
}
