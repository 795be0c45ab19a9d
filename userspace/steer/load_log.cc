// SPDX-License-Identifier: MIT
#include "steer/load_log.h"

#include <bpf/libbpf.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <sstream>

namespace drover::steer {

namespace {

// libbpf's print function gets no argument of ours.
std::string* kept = nullptr;

int keep(libbpf_print_level level, const char* format, va_list arguments) {
    if (level == LIBBPF_DEBUG || kept == nullptr) return 0;
    // The verifier's log comes as one text of any length.
    char* text = nullptr;
    if (::vasprintf(&text, format, arguments) < 0) return 0;
    *kept += text;
    ::free(text);
    return 0;
}

// Instructions, and what the verifier knew of registers at each: thousands of lines.
bool is_trace(std::string_view line) {
    if (line.empty() || (line.front() >= '0' && line.front() <= '9')) return true;
    for (std::string_view begin :
         {"from ", "cur state:", "old state:", "processed ", "mark_precise: ", "regs=", "last_idx ",
          "parent ", "R0=", "R0_w=", "R1=", "R1_w="})
        if (line.starts_with(begin)) return true;
    return false;
}

}  // namespace

LoadLog::LoadLog() {
    kept = &text_;
    libbpf_set_print(keep);
}

LoadLog::~LoadLog() {
    kept = nullptr;
}

std::string first_line(const std::string& text) {
    return text.substr(0, text.find('\n'));
}

std::string last_lines(const std::string& text, int count) {
    size_t begin = text.size();
    while (begin > 0 && count >= 0)
        if (text[--begin] == '\n') count--;
    return begin == 0 ? text : text.substr(begin + 1);
}

std::string verifier_lines(const std::string& log, int count) {
    constexpr std::string_view kBegin = "-- BEGIN PROG LOAD LOG --\n";
    auto begin = log.rfind(kBegin);
    if (begin == std::string::npos) return {};
    begin += kBegin.size();
    std::istringstream said(log.substr(begin, log.find("-- END PROG LOAD LOG --", begin) - begin));
    std::string lines;
    size_t verdict_end = 0;
    for (std::string line; std::getline(said, line);) {
        if (is_trace(line)) continue;
        lines += line + "\n";
        if (line.front() != ';') verdict_end = lines.size();
    }
    lines.resize(verdict_end);
    lines = last_lines(lines, count);
    if (lines.ends_with('\n')) lines.pop_back();
    for (char& c : lines)
        if ((c < ' ' && c != '\n') || c == '\x7f') c = c == '\t' ? ' ' : '?';
    return lines;
}

std::string verdict_of(const std::string& log) {
    return verifier_lines(log, 1);
}

}  // namespace drover::steer
