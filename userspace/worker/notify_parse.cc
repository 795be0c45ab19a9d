// SPDX-License-Identifier: MIT
#include "worker/notify_parse.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace drover::worker {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// Bytes of the character that `text` begins with; 0 where it begins with none.
size_t character_length(std::string_view text) {
    auto byte = [&](size_t at) {
        return at < text.size() ? static_cast<unsigned char>(text[at]) : 0U;
    };
    auto continues = [&](size_t at) { return (byte(at) & 0xC0) == 0x80; };
    unsigned first = byte(0);
    if (first < 0x80) return 1;
    // The second byte's range shuts out overlong forms, surrogates and what lies past U+10FFFF.
    unsigned least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    unsigned most = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (first < 0xC2 || first > 0xF4 || byte(1) < least || byte(1) > most) return 0;
    if (first < 0xE0) return 2;
    if (!continues(2)) return 0;
    if (first < 0xF0) return 3;
    return continues(3) ? 4 : 0;
}

std::string status_of(std::string_view text) {
    std::string status;
    while (!text.empty()) {
        size_t length = character_length(text);
        auto character = length > 0 ? text.substr(0, length) : kReplacement;
        if (status.size() + character.size() > kMaxStatus) break;
        status += character;
        text.remove_prefix(length > 0 ? length : 1);
    }
    return status;
}

// Nothing for 0, for more than 64 signed bits hold, and for what is no number.
std::optional<std::chrono::microseconds> interval_of(std::string_view text) {
    int64_t number = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size() || number <= 0) return {};
    return std::chrono::microseconds(number);
}

void take(Notification& notification, std::string_view name, std::string_view value) {
    if (name == "READY" && value == "1") notification.is_ready = true;
    if (name == "STOPPING" && value == "1") notification.is_stopping = true;
    if (name == "WATCHDOG" && value == "1") notification.is_alive = true;
    if (name == "STATUS" && !notification.status) notification.status = status_of(value);
    if (name == "WATCHDOG_USEC" && !notification.watchdog_interval)
        notification.watchdog_interval = interval_of(value);
}

}  // namespace

Result<Notification> parse_notification(std::string_view datagram) {
    if (datagram.size() > kMaxNotification)
        return fail("oversized",
                    fmt::format("a notification of more than {} bytes", kMaxNotification));
    if (!datagram.empty() && datagram.back() == '\0') datagram.remove_suffix(1);
    if (datagram.find('\0') != std::string_view::npos)
        return fail("malformed", "a notification with a NUL byte in it");

    Notification notification;
    while (!datagram.empty()) {
        auto line = datagram.substr(0, datagram.find('\n'));
        datagram.remove_prefix(std::min(line.size() + 1, datagram.size()));
        auto equals = line.find('=');
        if (equals == std::string_view::npos) continue;
        take(notification, line.substr(0, equals), line.substr(equals + 1));
    }
    return notification;
}

}  // namespace drover::worker
