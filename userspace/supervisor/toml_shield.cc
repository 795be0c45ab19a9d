// SPDX-License-Identifier: MIT
#include "supervisor/toml_shield.h"

#include <algorithm>
#include <cstdint>

namespace drover::supervisor {

namespace {

constexpr uint32_t kFirst = 0x80, kLast = 0xFEFF, kUp = 0xF0000;

unsigned byte(std::string_view text, size_t i) {
    return static_cast<unsigned char>(text[i]);
}

// The code of the whole UTF-8 character of so many bytes at the text's begin; 0 where it is none.
uint32_t decode(std::string_view text, size_t length) {
    if (text.size() < length) return 0;
    uint32_t code = byte(text, 0) & (0x7FU >> length);
    for (size_t i = 1; i < length; ++i) {
        if ((byte(text, i) & 0xC0U) != 0x80) return 0;
        code = code << 6 | (byte(text, i) & 0x3FU);
    }
    bool is_shortest = code >= (length == 4 ? 0x10000U : length == 3 ? 0x800U : 0x80U);
    bool is_surrogate = code >= 0xD800 && code <= 0xDFFF;
    return is_shortest && !is_surrogate ? code : 0;
}

void append(std::string& text, uint32_t code) {
    auto put = [&text](uint32_t bits) { text += static_cast<char>(bits); };
    auto more = [&put, code](int shift) { put(0x80 | (code >> shift & 0x3F)); };
    if (code < 0x800) {
        put(0xC0 | code >> 6);
    } else if (code < 0x10000) {
        put(0xE0 | code >> 12);
        more(6);
    } else {
        put(0xF0 | code >> 18);
        more(12);
        more(6);
    }
    more(0);
}

size_t length_of(unsigned first) {
    return first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 1;
}

// Moves the characters from `first` to `last`.
std::string moved(std::string_view text, uint32_t first, uint32_t last, int64_t by) {
    std::string result;
    while (!text.empty()) {
        size_t length = length_of(byte(text, 0));
        uint32_t code = length > 1 ? decode(text, length) : 0;
        if (code == 0) length = 1;
        if (code >= first && code <= last) {
            append(result, static_cast<uint32_t>(code + by));
        } else {
            result += text.substr(0, length);
        }
        text.remove_prefix(length);
    }
    return result;
}

}  // namespace

std::string shielded(std::string_view text) {
    constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
    if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
    return moved(text, kFirst, kLast, kUp);
}

std::string unshielded(std::string_view text) {
    return moved(text, kUp + kFirst, kUp + kLast, -int64_t{kUp});
}

}  // namespace drover::supervisor
