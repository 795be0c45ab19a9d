// SPDX-License-Identifier: MIT
//
// Foreign bytes against both readers of the line protocol: the master's (line_protocol.h) and the
// one for workers (worker.hpp). Beside not crashing they must agree with each other, and with the
// JSON library about what JSON is.
#include <drover/worker.hpp>

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "worker/line_protocol.h"

using namespace drover::worker;
namespace detail = drover::worker_detail;

namespace {

void must(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "does not hold: %s\n", what);
    std::abort();
}

struct Cut {
    std::vector<std::string> lines;
    int oversized = 0;
};

Cut cut(std::string_view bytes, size_t max_line, size_t step) {
    LineSplitter splitter(max_line);
    Cut result;
    for (size_t at = 0; at < bytes.size(); at += step) {
        splitter.feed(
            bytes.substr(at, step),
            [&](std::string_view line) {
                must(line.size() <= max_line, "no line is longer than the limit");
                result.lines.emplace_back(line);
                return true;
            },
            [&](std::string_view) {
                ++result.oversized;
                return true;
            });
        must(splitter.unfinished().size() <= max_line, "no more is kept than the limit");
    }
    return result;
}

void check_json(std::string_view text) {
    bool ours = detail::is_json(text, kMaxDepth);
    bool theirs = nlohmann::json::accept(text);
    // The library refuses numbers that no double holds.
    bool may_be_huge = text.find_first_of("eE") != std::string_view::npos || text.size() > 300;
    if (ours && !may_be_huge) must(theirs, "what worker.hpp takes for JSON is JSON");
    // It takes a NUL for the end, passes over a byte order mark, and has no limit of depth.
    bool is_odd =
        text.find('\0') != std::string_view::npos || text.substr(0, 1) == "\xEF" ||
        std::count(text.begin(), text.end(), '[') + std::count(text.begin(), text.end(), '{') >
            kMaxDepth;
    if (theirs && !is_odd) must(ours, "what is JSON, worker.hpp takes for it");
    must(detail::is_json(drover::json_string(text), 0), "json_string makes JSON of any bytes");
}

void check_message(const std::string& data) {
    must(data.find_first_of("\r\n") == std::string::npos, "data is on one line");
    must(nlohmann::json::accept(data), "data is JSON");
    must(detail::is_json(data, kMaxDepth), "data is JSON to worker.hpp");
    auto line = message_line(data, 7);
    std::string got;
    must(detail::each_field(line, kMaxDepth + 1,
                            [&](std::string_view key, std::string_view value) {
                                if (key == "data") got = value;
                            }),
         "worker.hpp understands the master's line");
    must(got == data, "data arrives as it was sent");
}

void check_line(std::string_view line) {
    auto parsed = parse_worker_line(line);
    if (!parsed) {
        const auto& text = parsed.error().text;
        must(text.size() < 100 + kMaxExcerpt, "an error is short");
        for (char byte : text) must(byte >= 0x20 && byte < 0x7F, "an error is printable");
        return;
    }
    must(detail::is_json(line, kMaxDepth + 1), "a line that is understood is JSON to worker.hpp");
    if (const auto* message = std::get_if<MessageLine>(&*parsed)) check_message(message->data);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    std::string_view bytes(reinterpret_cast<const char*>(data), size);
    for (size_t max_line : {size_t{16}, kMaxLine}) {
        auto whole = cut(bytes, max_line, std::max<size_t>(size, 1));
        auto pieces = cut(bytes, max_line, 1 + size % 7);
        must(whole.lines == pieces.lines, "lines do not depend on how the bytes arrive");
        // One whose end has not come may be known already to be too long.
        must(whole.oversized == pieces.oversized, "nor do oversized ones");
        if (max_line == kMaxLine)
            for (const auto& line : whole.lines) check_line(line);
    }
    check_line(bytes);
    check_json(bytes);
    return 0;
}
