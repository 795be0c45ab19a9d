// SPDX-License-Identifier: MIT
//
// The parsers of option values: pure functions of a text. What they refuse, they refuse with a
// sentence that says what was read and what would be right; the caller puts the option's name in
// front.
#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <csignal>
#include <cstring>
#include <limits>

#include "supervisor/config.h"

namespace drover::supervisor {

namespace {

constexpr Duration kLongestDuration = std::chrono::hours(24 * 365);

tl::unexpected<Error> refuse(std::string text) {
    return fail("usage", std::move(text));
}

// The whole text as a decimal number; nothing where it is anything else or too big.
std::optional<uint64_t> number_of(std::string_view text) {
    uint64_t number = 0;
    const char* end = text.data() + text.size();
    auto [stop, error] = std::from_chars(text.data(), end, number);
    if (text.empty() || error != std::errc() || stop != end) return std::nullopt;
    return number;
}

std::string upper(std::string_view text) {
    std::string result(text);
    for (char& c : result) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    return result;
}

std::string_view trim(std::string_view text) {
    constexpr std::string_view kSpace = " \t\r";
    size_t begin = text.find_first_not_of(kSpace);
    if (begin == std::string_view::npos) return {};
    return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

// The address in its usual form ("0:0::1" → "::1"); nothing where it is none of that family.
std::optional<std::string> normal_address(int family, std::string_view text) {
    unsigned char bytes[sizeof(in6_addr)];
    char normal[INET6_ADDRSTRLEN];
    if (::inet_pton(family, std::string(text).c_str(), bytes) != 1) return std::nullopt;
    return ::inet_ntop(family, bytes, normal, sizeof(normal));
}

// The value of one line of an environment file, from behind the '='.
Result<std::string> unquote(std::string_view text) {
    text = trim(text);
    if (text.empty() || (text.front() != '"' && text.front() != '\'')) return std::string(text);
    char quote = text.front();
    std::string value;
    size_t i = 1;
    for (; i < text.size() && text[i] != quote; ++i) {
        bool escaped = quote == '"' && text[i] == '\\' && i + 1 < text.size();
        if (!escaped) {
            value += text[i];
            continue;
        }
        char next = text[++i];
        if (next == 'n') {
            value += '\n';
        } else {
            if (std::strchr("\"\\$`", next) == nullptr) value += '\\';
            value += next;
        }
    }
    if (i >= text.size()) return refuse("the quote is not closed");
    auto rest = trim(text.substr(i + 1));
    if (!rest.empty() && rest.front() != '#')
        return refuse(fmt::format("\"{}\" stands behind the closing quote", rest));
    return value;
}

}  // namespace

Result<Duration> parse_duration(std::string_view text) {
    size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    auto number = number_of(text.substr(0, digits));
    auto unit = text.substr(digits);
    if (number && unit.empty() && *number != 0)
        return refuse(fmt::format("\"{}\" has no unit: write {}ms, {}s, {}m or {}h", text, text,
                                  text, text, text));
    uint64_t factor = unit == "ms"                  ? 1
                      : unit == "s" || unit.empty() ? 1'000
                      : unit == "m"                 ? 60'000
                      : unit == "h"                 ? 3'600'000
                                                    : 0;
    if (!number || factor == 0)
        return refuse(fmt::format("\"{}\" is no duration: write 500ms, 10s, 5m or 24h", text));
    if (*number > static_cast<uint64_t>(kLongestDuration.count()) / factor)
        return refuse(fmt::format("\"{}\" is longer than a year (8760h)", text));
    return Duration(static_cast<int64_t>(*number * factor));
}

Result<uint64_t> parse_size(std::string_view text) {
    size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    auto number = number_of(text.substr(0, digits));
    auto unit = upper(text.substr(digits));
    static constexpr std::string_view kUnits[] = {"", "K", "M", "G", "T"};
    const auto* found = std::find(std::begin(kUnits), std::end(kUnits), unit);
    if (!number || found == std::end(kUnits))
        return refuse(fmt::format("\"{}\" is no size: write 512, 10K, 512M or 2G", text));
    auto shift = 10 * (found - std::begin(kUnits));
    if (*number > std::numeric_limits<uint64_t>::max() >> shift)
        return refuse(fmt::format("\"{}\" is too big", text));
    return *number << shift;
}

Result<int> parse_signal(std::string_view text) {
    auto name = upper(text);
    if (name.starts_with("SIG")) name.erase(0, 3);
    for (int number = 1; number <= SIGRTMAX; ++number)
        if (name == signal_name(number) || name == std::to_string(number)) return number;
    return refuse(
        fmt::format("\"{}\" is no signal: write TERM, SIGTERM or 15 (1 to {})", text, SIGRTMAX));
}

std::string signal_name(int number) {
    if (number == SIGRTMIN) return "RTMIN";
    if (number > SIGRTMIN && number <= SIGRTMAX) return fmt::format("RTMIN+{}", number - SIGRTMIN);
    const char* name = ::sigabbrev_np(number);
    return name != nullptr ? name : std::to_string(number);
}

Result<Port> parse_port(std::string_view text) {
    constexpr const char* kForms = "write 80, 127.0.0.1:80 or [::1]:80";
    Port port;
    auto digits = text;
    if (auto colon = text.rfind(':'); colon != std::string_view::npos) {
        auto host = text.substr(0, colon);
        digits = text.substr(colon + 1);
        bool brackets = host.size() >= 2 && host.front() == '[' && host.back() == ']';
        auto address = brackets ? normal_address(AF_INET6, host.substr(1, host.size() - 2))
                                : normal_address(AF_INET, host);
        if (!address && !brackets && host.find(':') != std::string_view::npos)
            return refuse(
                fmt::format("\"{}\": an IPv6 address stands in brackets, as in [::1]:80", text));
        if (!address)
            return refuse(fmt::format("\"{}\": \"{}\" is no IP address: {}", text, host, kForms));
        port.address = *address;
    }
    auto number = number_of(digits);
    if (!number) return refuse(fmt::format("\"{}\" is no port: {}", text, kForms));
    if (*number < 1 || *number > 65535)
        return refuse(fmt::format("\"{}\": a port is a number from 1 to 65535", text));
    port.number = static_cast<int>(*number);
    return port;
}

Result<RestartLimit> parse_restart_limit(std::string_view text) {
    auto slash = text.find('/');
    auto count = number_of(text.substr(0, slash));
    if (slash == std::string_view::npos || !count)
        return refuse(fmt::format("\"{}\" is no limit: write COUNT/DURATION, as in 5/60s", text));
    if (*count < 1 || *count > 1'000'000)
        return refuse(fmt::format("\"{}\": the count is a number from 1 to 1000000", text));
    auto within = parse_duration(text.substr(slash + 1));
    if (!within) return tl::unexpected(within.error());
    if (within->count() == 0) return refuse(fmt::format("\"{}\": the time must not be 0", text));
    return RestartLimit{static_cast<int>(*count), *within};
}

Result<std::string> parse_env(std::string_view text) {
    auto equals = text.find('=');
    auto name = text.substr(0, equals);
    // The kernel would take any bytes, but nobody means a name with a blank or a quote in it.
    bool is_name = !name.empty() && std::all_of(name.begin(), name.end(), [](unsigned char c) {
        return std::isgraph(c) != 0 && std::strchr("\"'`$\\", c) == nullptr;
    });
    if (equals == std::string_view::npos || !is_name)
        return refuse(fmt::format("\"{}\" is not of the form NAME=VALUE", text));
    if (text.find('\0') != std::string_view::npos)
        return refuse(fmt::format("the value of {} has a zero byte in it", name));
    return std::string(text);
}

Result<std::vector<std::string>> parse_env_file(std::string_view content) {
    constexpr std::string_view kExport = "export ";
    std::vector<std::string> variables;
    for (int number = 1; !content.empty(); ++number) {
        auto end = std::min(content.find('\n'), content.size());
        auto line = trim(content.substr(0, end));
        content.remove_prefix(std::min(end + 1, content.size()));
        if (line.empty() || line.front() == '#') continue;
        if (line.starts_with(kExport)) line = trim(line.substr(kExport.size()));

        auto where = fmt::format("line {}", number);
        auto equals = std::min(line.find('='), line.size());
        auto value = unquote(equals < line.size() ? line.substr(equals + 1) : "");
        if (!value) return wrap(value.error(), where);
        auto pair = std::string(line.substr(0, equals));
        if (equals < line.size()) pair += "=" + *value;
        auto variable = parse_env(pair);
        if (!variable) return wrap(variable.error(), where);
        variables.push_back(*variable);
    }
    return variables;
}

Result<void> check_name(std::string_view name) {
    constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyz0123456789_-";
    bool valid = !name.empty() && name.size() <= 32 && name.front() >= 'a' && name.front() <= 'z' &&
                 name.find_first_not_of(kAllowed) == std::string_view::npos;
    if (!valid)
        return refuse(
            fmt::format("\"{}\" is no name: a name is 1 to 32 of a-z, 0-9, _ and -, and "
                        "begins with a letter",
                        name));
    // The run folder holds one folder per cluster, and `ports` with the port locks beside them.
    if (name == "ports") return refuse("the name \"ports\" is drover's own: choose another");
    return {};
}

Result<Share> parse_share(std::string_view text) {
    Share share;
    std::string_view digits = text;
    if (digits.ends_with('%')) {
        share.is_percent = true;
        digits.remove_suffix(1);
    }
    const char* end = digits.data() + digits.size();
    auto [stop, error] = std::from_chars(digits.data(), end, share.number);
    if (digits.empty() || error != std::errc() || stop != end || share.number < 1 ||
        (share.is_percent && share.number > 100))
        return fail("usage", fmt::format("\"{}\" is neither a number of instances nor a share of "
                                         "them like 10%",
                                         text));
    return share;
}

int count_of(Share share, int instances) {
    int count = share.is_percent ? (share.number * instances + 99) / 100 : share.number;
    return std::clamp(count, 1, std::max(instances, 1));
}

}  // namespace drover::supervisor
