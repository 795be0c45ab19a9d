// SPDX-License-Identifier: MIT
#include "base/safe_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace drover {

namespace {

// Length of a colour sequence, ESC [ digits ; : … m, at the start of `text`; 0 where there is none.
size_t colour_length(std::string_view text) {
    if (!text.starts_with("\x1b[")) return 0;
    auto end = text.find_first_not_of("0123456789;:", 2);
    return end != std::string_view::npos && text[end] == 'm' ? end + 1 : 0;
}

// Length of a character that may go to a terminal as it is; 0 for control characters (those that
// UTF-8 writes as C2 80 … C2 9F included, which some terminals obey) and for what is not UTF-8.
size_t printable_length(std::string_view text) {
    auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    uint8_t first = byte(0);
    if (first < 0x80) return (first >= 0x20 && first != 0x7f) || first == '\t' ? 1 : 0;
    size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
    for (size_t i = 1; i < length; ++i)
        if ((byte(i) & 0xc0) != 0x80) return 0;
    if (first == 0xc2 && byte(1) < 0xa0) return 0;
    // Overlong forms, surrogates, and what lies above U+10FFFF.
    if ((first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) >= 0xa0) ||
        (first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) >= 0x90))
        return 0;
    return length;
}

// How many bytes at its start are plain ASCII: nearly all of nearly every text.
size_t plain_length(std::string_view text) {
    size_t length = 0;
    while (length < text.size() && text[length] >= 0x20 && text[length] < 0x7f) length++;
    return length;
}

}  // namespace

void append_safe(std::string_view line, std::string& to) {
    if (line.ends_with('\r')) line.remove_suffix(1);
    while (!line.empty()) {
        auto length = plain_length(line);
        if (length == 0) length = std::max(colour_length(line), printable_length(line));
        if (length > 0) {
            to += line.substr(0, length);
        } else {
            length = 1;
            fmt::format_to(std::back_inserter(to), "\\x{:02x}", static_cast<uint8_t>(line[0]));
        }
        line.remove_prefix(length);
    }
}

std::string made_safe(std::string_view line) {
    std::string safe;
    append_safe(line, safe);
    return safe;
}

}  // namespace drover
