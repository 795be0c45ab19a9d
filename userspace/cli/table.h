// SPDX-License-Identifier: MIT
//
// A table of text in aligned columns.
#pragma once

#include <string>
#include <vector>

namespace drover::cli {

struct Cell {
    std::string text;   // already escaped
    const char* paint;  // an escape sequence, or "" for none
    Cell(std::string content, const char* paint_with = "")
        : text(std::move(content)), paint(paint_with) {}
};

using Row = std::vector<Cell>;

// Columns two spaces apart, no blanks at the end of a line. The first row is the heading, bold
// where `color`. Without `color` no paint is used.
std::string render_table(const std::vector<Row>& rows, bool color);

}  // namespace drover::cli
