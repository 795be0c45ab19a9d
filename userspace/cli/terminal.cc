// SPDX-License-Identifier: MIT
#include "cli/terminal.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <clocale>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cwchar>

namespace drover::cli {

namespace {

struct Character {
    uint32_t code = 0;
    size_t length = 0;  // in bytes; 0: not UTF-8
};

// The first character of a text that is not empty.
Character decode(std::string_view text) {
    auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
    unsigned first = byte(0);
    if (first < 0x80) return {first, 1};
    size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || text.size() < length) return {};
    uint32_t code = first & (0x7fU >> length);
    for (size_t i = 1; i < length; ++i) {
        if ((byte(i) & 0xc0U) != 0x80) return {};
        code = code << 6 | (byte(i) & 0x3fU);
    }
    bool shortest = code >= (length == 4 ? 0x10000U : length == 3 ? 0x800U : 0x80U);
    bool surrogate = code >= 0xd800 && code <= 0xdfff;
    return shortest && !surrogate && code <= 0x10ffff ? Character{code, length} : Character{};
}

bool is_harmless(uint32_t code) {
    if (code < 0x20 || (code >= 0x7f && code < 0xa0)) return false;  // C0, DEL, C1
    bool turns = code == 0x200e || code == 0x200f || code == 0x061c ||
                 (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
    bool breaks_line = code == 0x2028 || code == 0x2029;
    return !turns && !breaks_line;
}

// Of a character on a terminal: 2 where it is wide, 0 where it joins the one before. The process's
// own locale may be another.
size_t width_of(Character character) {
    if (character.length <= 1) return 1;
    static const locale_t kUtf8 = ::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
    if (kUtf8 == nullptr) return 1;
    locale_t own = ::uselocale(kUtf8);
    int width = ::wcwidth(static_cast<wchar_t>(character.code));
    ::uselocale(own);
    return width < 0 ? 1 : static_cast<size_t>(width);
}

}  // namespace

bool use_color(int fd) {
    const char* no_color = std::getenv("NO_COLOR");
    const char* term = std::getenv("TERM");
    if (no_color != nullptr && *no_color != '\0') return false;
    if (term == nullptr || std::string_view(term) == "dumb") return false;
    return ::isatty(fd) == 1;
}

std::string escape(std::string_view text) {
    std::string result;
    while (!text.empty()) {
        auto [code, length] = decode(text);
        if (length == 0) {
            result += fmt::format("\\x{:02x}", static_cast<unsigned char>(text.front()));
            length = 1;
        } else if (is_harmless(code)) {
            result += text.substr(0, length);
        } else if (code == '\n' || code == '\t' || code == '\r') {
            result += code == '\n' ? "\\n" : code == '\t' ? "\\t" : "\\r";
        } else {
            result +=
                code < 0x100 ? fmt::format("\\x{:02x}", code) : fmt::format("\\u{:04x}", code);
        }
        text.remove_prefix(length);
    }
    return result;
}

std::string escape_lines(std::string_view text) {
    auto end = text.find('\n');
    auto result = escape(text.substr(0, end));
    while (end != std::string_view::npos) {
        text.remove_prefix(end + 1);
        end = text.find('\n');
        result += "\n  " + escape(text.substr(0, end));
    }
    return result;
}

void put(std::string_view text) {
    [[maybe_unused]] size_t written = std::fwrite(text.data(), 1, text.size(), stdout);
}

size_t columns(std::string_view text) {
    size_t count = 0;
    while (!text.empty()) {
        auto character = decode(text);
        count += width_of(character);
        text.remove_prefix(std::max<size_t>(character.length, 1));
    }
    return count;
}

std::string clip(std::string_view text, size_t width, std::string_view mark) {
    if (columns(text) <= width) return std::string(text);
    if (columns(mark) > width) return "";
    size_t room = width - columns(mark), length = 0;
    for (auto rest = text; !rest.empty();) {
        auto character = decode(rest);
        auto taken = width_of(character);
        if (taken > room) break;
        room -= taken;
        length += std::max<size_t>(character.length, 1);
        rest.remove_prefix(std::max<size_t>(character.length, 1));
    }
    return std::string(text.substr(0, length)) + std::string(mark);
}

std::string only_ascii(std::string_view text) {
    std::string result;
    while (!text.empty()) {
        auto character = decode(text);
        bool is_ascii = character.length == 1;
        if (is_ascii) result += text.front();
        if (!is_ascii) result.append(width_of(character), '?');
        text.remove_prefix(std::max<size_t>(character.length, 1));
    }
    return result;
}

}  // namespace drover::cli
