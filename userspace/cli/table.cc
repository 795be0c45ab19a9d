// SPDX-License-Identifier: MIT
#include "cli/table.h"

#include <algorithm>

#include "cli/terminal.h"

namespace drover::cli {

namespace {

constexpr const char* kBold = "\033[1m";
constexpr const char* kPlain = "\033[0m";

std::string painted(const std::string& text, const std::string& paint) {
    return paint.empty() || text.empty() ? text : paint + text + kPlain;
}

}  // namespace

std::string render_table(const std::vector<Row>& rows, bool color) {
    std::vector<size_t> widths;
    for (const auto& row : rows) {
        widths.resize(std::max(widths.size(), row.size()));
        for (size_t i = 0; i < row.size(); ++i)
            widths[i] = std::max(widths[i], columns(row[i].text));
    }
    std::string result;
    for (const auto& row : rows) {
        bool is_heading = &row == &rows.front();
        size_t blanks = 0;  // owed before the next text
        for (size_t i = 0; i < row.size(); ++i) {
            const auto& [text, paint] = row[i];
            if (!text.empty()) {
                result.append(blanks, ' ');
                result += painted(text, !color ? "" : is_heading ? kBold : paint);
                blanks = 0;
            }
            blanks += widths[i] - columns(text) + 2;
        }
        result += '\n';
    }
    return result;
}

}  // namespace drover::cli
