// SPDX-License-Identifier: MIT
//
// What `drover top` shows: a model becomes as many lines as the terminal has, none of them wider
// than it. Pure; top_terminal.h draws them.
//
//     web  running  4 of 4 ready  least-busy  generation 1        cluster
//     tcp 0.0.0.0:8080: 4 active, 0 parked
//     decisions/s  picked 120  fallback 0  keeper 0  dropped 0
//     total  live 12  queued 0  new/s 120  cpu 34%  mem 21M  corrections 0  moved 0
//
//       INST ID   PID STATE      UP LIVE QUEUED NEW/S CPU%  MEM RESTARTS LAST 12S
//     >    0  1  9799 ready     12m    3      0    31  8.1  56M        0 ▁▁▂▃▅▆█▇▅▃▂▁
//     …
//     worker 1: its reason, or its own words          what was said of the selected worker
//     drained worker 1 …                              what came of a key
//     d drain  r resume …                             the keys
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "cli/top_model.h"

namespace drover::cli {

enum class Paint { plain, bold, dim, good, warn, bad };

struct Span {
    std::string text;
    Paint paint = Paint::plain;
};

struct TopLine {
    std::vector<Span> spans;
    bool is_selected = false;  // the whole line is shown in reverse; its ">" says so, too
};

// The terminal, and what is on it beside the model.
struct TopFrame {
    size_t width = 80;
    size_t height = 24;
    bool utf8 = true;
    std::string message;  // "" for none
    bool is_error = false;
    std::vector<std::string> clusters;  // that can be switched to; the shown one among them
};

constexpr size_t kTopLeastWidth = 60;
constexpr size_t kTopLeastHeight = 10;

// Exactly frame.height lines.
std::vector<TopLine> render_top(const TopModel& model, const TopFrame& frame);

// The keys and the columns in words.
std::vector<TopLine> render_top_help(const TopFrame& frame);

// How many rows of workers a frame has, for a page up or down.
size_t top_page(const TopModel& model, const TopFrame& frame);

// The latest `width` values, the last at the right; `most` is the highest bar.
std::string spark(const std::deque<double>& values, size_t width, double most, bool utf8);

// "9999" "12.3k" "123k" "1.2M": at most five characters.
std::string short_count(uint64_t count);

// "0" "0.4" "12": what comes a second, or per cent.
std::string short_rate(double rate);

// "42s" "12m" "3h" "4d".
std::string short_duration(std::chrono::milliseconds duration);

}  // namespace drover::cli
