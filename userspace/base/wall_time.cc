// SPDX-License-Identifier: MIT
#include "base/wall_time.h"

#include <fmt/format.h>

#include <cstdio>
#include <ctime>

namespace drover {

std::string format_time(WallTime time) {
    auto since_epoch = time.time_since_epoch();
    auto milliseconds = std::chrono::floor<std::chrono::milliseconds>(since_epoch);
    auto seconds = std::chrono::floor<std::chrono::seconds>(milliseconds);
    std::time_t clock = seconds.count();
    std::tm utc{};
    ::gmtime_r(&clock, &utc);
    return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", utc.tm_year + 1900,
                       utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
                       (milliseconds - seconds).count());
}

std::optional<WallTime> parse_time(std::string_view view) {
    constexpr size_t kLongest = 40;
    if (view.size() > kLongest) return std::nullopt;
    std::string text(view);
    std::tm date{};
    int parsed = 0;
    if (std::sscanf(text.c_str(), "%4d-%2d-%2dT%2d:%2d:%2d%n", &date.tm_year, &date.tm_mon,
                    &date.tm_mday, &date.tm_hour, &date.tm_min, &date.tm_sec, &parsed) != 6)
        return std::nullopt;
    std::string_view rest = std::string_view(text).substr(static_cast<size_t>(parsed));
    std::chrono::milliseconds fraction{0};
    if (rest.starts_with('.')) {
        rest.remove_prefix(1);
        int unit = 100;
        for (; !rest.empty() && rest.front() >= '0' && rest.front() <= '9'; unit /= 10) {
            fraction += std::chrono::milliseconds((rest.front() - '0') * unit);
            rest.remove_prefix(1);
        }
    }
    if (rest != "Z") return std::nullopt;
    date.tm_year -= 1900;
    date.tm_mon -= 1;
    return std::chrono::system_clock::from_time_t(::timegm(&date)) + fraction;
}

}  // namespace drover
