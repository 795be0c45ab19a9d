// SPDX-License-Identifier: MIT
#include "cli/top_screen.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "cli/render.h"
#include "cli/terminal.h"

namespace drover::cli {

namespace {

constexpr size_t kLeastSpark = 4;
constexpr size_t kUsualSpark = 24;  // below that it gives no room to further columns
constexpr size_t kLongestSpark = 60;
constexpr size_t kLeastNote = 16;

template <class T>
std::string or_dash(const std::optional<T>& value, std::string (*text)(T)) {
    return value ? text(*value) : "-";
}

Paint paint_of(const TopRow& row) {
    if (row.state == "failed" || row.state == "backoff") return Paint::bad;
    return row.state == "ready" && row.flags.empty() ? Paint::good : Paint::warn;
}

Paint paint_of_cluster(const std::string& state) {
    return state == "running" ? Paint::good : state == "degraded" ? Paint::bad : Paint::warn;
}

// A column of the table. Where there is little room those of high rank are left out first; those
// that are further come only where there is much.
struct Column {
    const char* heading;
    int rank;
    bool is_left;
    size_t
        least;  // of its width: state and the counts change often, and are not to move the others
    std::string (*text)(const TopRow& row);
    bool is_further = false;
};

std::string state_text(const TopRow& row) {
    return row.flags.empty() ? row.state : row.state + " " + row.flags;
}

constexpr std::array kColumns = {
    Column{"INST", 1, false, 4, [](const TopRow& row) { return fmt::format("{}", row.instance); }},
    Column{"ID", 1, false, 3, [](const TopRow& row) { return fmt::format("{}", row.id); }},
    Column{"PID", 3, false, 6, [](const TopRow& row) { return row.pid; }},
    Column{"STATE", 0, true, 9, state_text},
    Column{"UP", 4, false, 3,
           [](const TopRow& row) { return or_dash(row.uptime, short_duration); }},
    Column{"LIVE", 0, false, 4, [](const TopRow& row) { return or_dash(row.live, short_count); }},
    Column{"QUEUED", 0, false, 6,
           [](const TopRow& row) { return or_dash(row.queued, short_count); }},
    Column{"NEW/S", 0, false, 5,
           [](const TopRow& row) { return or_dash(row.new_per_second, short_rate); }},
    Column{"CPU%", 2, false, 4,
           [](const TopRow& row) { return or_dash(row.cpu_percent, short_rate); }},
    Column{"MEM", 2, false, 4,
           [](const TopRow& row) { return or_dash(row.memory_bytes, human_bytes); }},
    Column{"RESTARTS", 5, false, 8, [](const TopRow& row) { return short_count(row.restarts); }},
    Column{"GEN", 6, false, 3, [](const TopRow& row) { return short_count(row.generation); }, true},
    Column{"ACCEPTED", 7, false, 8,
           [](const TopRow& row) { return or_dash(row.accepted, short_count); }, true},
    Column{"WEIGHT", 8, false, 6, [](const TopRow& row) { return short_count(row.weight); }, true},
};

// What is shown of the table in this width.
struct Plan {
    std::vector<std::pair<const Column*, size_t>> columns;  // with their widths
    size_t spark = 0;
    size_t note = 0;
};

size_t width_of(const Column& column, const std::vector<TopRow>& rows) {
    size_t width = std::max(columns(column.heading), column.least);
    for (const auto& row : rows) width = std::max(width, columns(column.text(row)));
    return width;
}

Plan plan_table(const std::vector<TopRow>& rows, size_t width) {
    Plan plan;
    size_t used = 1;  // the marker; each column brings the blank before it
    for (const auto& column : kColumns) {
        if (column.is_further) continue;
        plan.columns.emplace_back(&column, width_of(column, rows));
        used += plan.columns.back().second + 1;
    }
    auto rank = [](const auto& one) { return one.first->rank; };
    while (used > width && plan.columns.size() > 1) {
        auto least = std::ranges::max_element(plan.columns, {}, rank);
        used -= least->second + 1;
        plan.columns.erase(least);
    }
    for (const auto& column : kColumns) {
        if (!column.is_further) continue;
        size_t more = width_of(column, rows) + 1;
        if (used + more + kUsualSpark + 1 > width) continue;
        plan.columns.emplace_back(&column, more - 1);
        used += more;
    }
    size_t left = width > used ? width - used : 0;
    size_t longest = 0;
    for (const auto& row : rows) longest = std::max(longest, columns(row.note));
    if (longest > 0 && left >= 1 + kUsualSpark + 1 + kLeastNote)
        plan.note = std::min(std::max<size_t>(longest, 4), left - kUsualSpark - 2);
    if (plan.note > 0) left -= plan.note + 1;
    if (left >= kLeastSpark + 1) plan.spark = std::min(left - 1, kLongestSpark);
    return plan;
}

std::string padded(const std::string& text, size_t width, bool is_left) {
    auto taken = columns(text);
    std::string blanks(width > taken ? width - taken : 0, ' ');
    return is_left ? text + blanks : blanks + text;
}

std::string spark_heading(size_t width) {
    auto text = fmt::format("LAST {}S", width);
    return padded(columns(text) <= width ? text : "", width, true);
}

TopLine heading_line(const Plan& plan) {
    std::string text = " ";
    for (const auto& [column, width] : plan.columns)
        text += " " + padded(column->heading, width, column->is_left);
    if (plan.spark > 0) text += " " + spark_heading(plan.spark);
    if (plan.note > 0) text += " NOTE";
    return {{{text, Paint::bold}}, false};
}

TopLine row_line(const TopRow& row, const Plan& plan, bool is_selected, double most,
                 const TopFrame& frame) {
    TopLine line{{{is_selected ? ">" : " ", Paint::plain}}, is_selected};
    for (const auto& [column, width] : plan.columns) {
        auto paint = column->text == state_text ? paint_of(row) : Paint::plain;
        auto text = clip(column->text(row), width, frame.utf8 ? "…" : "~");
        line.spans.push_back({" " + padded(text, width, column->is_left), paint});
    }
    if (plan.spark > 0)
        line.spans.push_back(
            {" " + spark(row.history, plan.spark, most, frame.utf8), Paint::plain});
    if (plan.note > 0)
        line.spans.push_back(
            {" " + clip(row.note, plan.note, frame.utf8 ? "…" : "..."), Paint::plain});
    return line;
}

// The items, two blanks apart, as many as fit in whole; a mark where some do not.
TopLine line_of(const std::vector<Span>& items, const TopFrame& frame) {
    TopLine line;
    size_t used = 0;
    for (size_t i = 0; i < items.size(); ++i) {
        size_t gap = i == 0 ? 0 : 2;
        size_t reserve = i + 1 < items.size() ? 3 : 0;  // for the mark behind it
        size_t needed = gap + columns(items[i].text);
        if (used + needed + reserve > frame.width) {
            if (i == 0)
                line.spans.push_back(
                    {clip(items[i].text, frame.width, frame.utf8 ? "…" : "..."), items[i].paint});
            else
                line.spans.push_back({frame.utf8 ? " …" : " ..", Paint::dim});
            break;
        }
        line.spans.push_back({std::string(gap, ' ') + items[i].text, items[i].paint});
        used += needed;
    }
    return line;
}

TopLine cluster_line(const TopModel& model, const TopFrame& frame) {
    const auto& cluster = model.cluster();
    std::vector<Span> items = {{cluster.name, Paint::bold},
                               {cluster.state, paint_of_cluster(cluster.state)},
                               {fmt::format("{} of {} ready", cluster.ready, cluster.wanted)},
                               {cluster.policy},
                               {fmt::format("generation {}", cluster.generation)}};
    auto own = std::ranges::find(frame.clusters, cluster.name);
    if (frame.clusters.size() > 1 && own != frame.clusters.end())
        items.push_back({fmt::format("{} of {} clusters (Tab)", own - frame.clusters.begin() + 1,
                                     frame.clusters.size()),
                         Paint::bold});
    items.push_back({fmt::format("pid {}", cluster.pid)});
    items.push_back({fmt::format("drover {}", cluster.version)});
    return line_of(items, frame);
}

std::vector<TopLine> port_lines(const TopModel& model, const TopFrame& frame) {
    const auto& ports = model.cluster().ports;
    if (ports.empty()) return {{{{"no port is shared yet", Paint::dim}}, false}};
    size_t most = frame.height < 16 ? 1 : frame.height / 8;
    std::vector<TopLine> lines;
    for (size_t i = 0; i < ports.size(); ++i) {
        if (lines.size() + 1 == most && i + 1 < ports.size()) {
            lines.push_back(
                line_of({{ports[i]}, {fmt::format("and {} more", ports.size() - i - 1)}}, frame));
            break;
        }
        lines.push_back(line_of({{ports[i]}}, frame));
    }
    return lines;
}

std::vector<TopLine> head_lines(const TopModel& model, const TopFrame& frame) {
    const auto& cluster = model.cluster();
    std::vector<TopLine> lines = {cluster_line(model, frame)};
    for (auto& line : port_lines(model, frame)) lines.push_back(std::move(line));

    std::vector<Span> decisions = {{"decisions/s", Paint::dim}};
    for (const auto& [reason, rate] : cluster.decisions) {
        bool is_bad = reason == "dropped" && rate.value_or(0) > 0;
        decisions.push_back({fmt::format("{} {}", reason, or_dash(rate, short_rate)),
                             is_bad ? Paint::bad : Paint::plain});
    }
    lines.push_back(line_of(decisions, frame));

    auto total = model.total();
    auto cpu = or_dash(total.cpu_percent, short_rate);
    lines.push_back(line_of({{"total", Paint::dim},
                             {"live " + or_dash(total.live, short_count)},
                             {"queued " + or_dash(total.queued, short_count)},
                             {"new/s " + or_dash(total.new_per_second, short_rate)},
                             {fmt::format("cpu {}{}", cpu, total.cpu_percent ? "%" : "")},
                             {"mem " + or_dash(total.memory_bytes, human_bytes)},
                             {"corrections " + short_count(cluster.corrections),
                              cluster.corrections > 0 ? Paint::warn : Paint::plain},
                             {"moved " + short_count(cluster.moved)}},
                            frame));
    if (frame.height >= 14) lines.emplace_back();
    return lines;
}

// What has no room in its row.
TopLine detail_line(const TopModel& model, const TopFrame& frame, bool is_cut) {
    auto selected = model.selected();
    if (!selected) return {{{"no workers", Paint::dim}}, false};
    const auto& row = model.rows()[*selected];
    auto text = fmt::format("worker {}", row.id);
    if (is_cut) text += fmt::format(" ({} of {})", *selected + 1, model.rows().size());
    if (!row.note.empty()) text += ": " + row.note;
    if (!row.last_exit.empty()) text += "; the one before it: " + row.last_exit;
    return {{{clip(text, frame.width, frame.utf8 ? "…" : "..."), Paint::plain}}, false};
}

TopLine footer_line(const TopModel& model, const TopFrame& frame) {
    return line_of({{"q quit"},
                    {"d drain"},
                    {"r resume"},
                    {"u rescue"},
                    {"R restart"},
                    {fmt::format("s by {}", name_of(model.sort()))},
                    {"h help"},
                    {frame.utf8 ? "↑↓ select" : "jk select"}},
                   frame);
}

std::vector<TopLine> finished(std::vector<TopLine> lines, const TopFrame& frame) {
    lines.resize(frame.height);
    if (frame.utf8) return lines;
    for (auto& line : lines)
        for (auto& span : line.spans) span.text = only_ascii(span.text);
    return lines;
}

std::vector<TopLine> too_small(const TopFrame& frame) {
    return {{{{clip(fmt::format("{}x{} is too small: {}x{} needed", frame.width, frame.height,
                                kTopLeastWidth, kTopLeastHeight),
                    frame.width, ""),
               Paint::plain}},
             false}};
}

bool is_too_small(const TopFrame& frame) {
    return frame.width < kTopLeastWidth || frame.height < kTopLeastHeight;
}

}  // namespace

std::string short_count(uint64_t count) {
    if (count < 10'000) return fmt::format("{}", count);
    auto value = static_cast<double>(count) / 1000;
    const char* unit = "kMGTPE";
    while (value >= 999.5) {
        value /= 1000;
        ++unit;
    }
    return value < 99.95 ? fmt::format("{:.1f}{}", value, *unit)
                         : fmt::format("{:.0f}{}", value, *unit);
}

std::string short_rate(double rate) {
    if (rate <= 0) return "0";
    if (rate < 9.95) return fmt::format("{:.1f}", rate);
    return short_count(static_cast<uint64_t>(std::llround(rate)));
}

std::string short_duration(std::chrono::milliseconds duration) {
    auto seconds = duration.count() / 1000;
    if (seconds < 100) return fmt::format("{}s", seconds);
    if (seconds < 100 * 60) return fmt::format("{}m", seconds / 60);
    if (seconds < 48 * 3600) return fmt::format("{}h", seconds / 3600);
    return fmt::format("{}d", seconds / 86400);
}

std::string spark(const std::deque<double>& values, size_t width, double most, bool utf8) {
    static constexpr std::array kBlocks = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    static constexpr std::array kAscii = {"_", ".", ":", "-", "=", "+", "*", "#"};
    size_t shown = std::min(width, values.size());
    std::string text(width - shown, ' ');
    for (size_t i = values.size() - shown; i < values.size(); ++i) {
        // The lowest is for nothing at all.
        double share = most > 0 ? std::clamp(values[i] / most, 0.0, 1.0) : 0;
        auto level = static_cast<size_t>(std::ceil(share * (kBlocks.size() - 1)));
        text += utf8 ? kBlocks[level] : kAscii[level];
    }
    return text;
}

size_t top_page(const TopModel& model, const TopFrame& frame) {
    size_t others = head_lines(model, frame).size() + 4;  // heading, detail, message, keys
    return frame.height > others ? frame.height - others : 1;
}

std::vector<TopLine> render_top(const TopModel& model, const TopFrame& frame) {
    if (is_too_small(frame)) return finished(too_small(frame), frame);
    auto mark = frame.utf8 ? "…" : "...";
    TopLine message{
        {{clip(frame.message, frame.width, mark), frame.is_error ? Paint::bad : Paint::bold}},
        false};
    if (model.is_empty()) {
        std::vector<TopLine> lines = {{{{"waiting for the master's answer", Paint::plain}}, false}};
        lines.resize(frame.height - 2);
        lines.push_back(message);
        lines.push_back(line_of({{"q quit"}, {"Tab other cluster"}}, frame));
        return finished(std::move(lines), frame);
    }

    const auto& rows = model.rows();
    auto lines = head_lines(model, frame);
    auto plan = plan_table(rows, frame.width);
    lines.push_back(heading_line(plan));

    // The selected one is kept in the middle of a list that is cut.
    size_t page = top_page(model, frame);
    size_t selected = model.selected().value_or(0);
    size_t first = rows.size() <= page ? 0
                                       : std::min(selected > page / 2 ? selected - page / 2 : 0,
                                                  rows.size() - page);
    // One scale for all rows, so that they can be compared.
    double most = 1;
    for (const auto& row : rows)
        for (size_t i = 0; i < std::min(plan.spark, row.history.size()); ++i)
            most = std::max(most, row.history[row.history.size() - 1 - i]);
    for (size_t i = first; i < std::min(first + page, rows.size()); ++i)
        lines.push_back(row_line(rows[i], plan, i == selected, most, frame));

    lines.resize(frame.height - 3);
    lines.push_back(detail_line(model, frame, rows.size() > page));
    lines.push_back(message);
    lines.push_back(footer_line(model, frame));
    return finished(std::move(lines), frame);
}

std::vector<TopLine> render_top_help(const TopFrame& frame) {
    if (is_too_small(frame)) return finished(too_small(frame), frame);
    static constexpr std::array kText = {
        "d drain     no new connections for the selected worker; its flag is held",
        "r resume    connections again",
        "u rescue    what waits for it goes to the others",
        "R restart   end it and start its replacement; asks first",
        "s sort      by instance, live, new/s, cpu, mem",
        "j k, arrows, PgUp, PgDn, Home, End   select a worker",
        "Tab, 1-9    another cluster          q quit",
        "",
        "UP       since its start      LIVE   open connections, waiting ones included",
        "QUEUED   wait for accept      NEW/S  accepted a second, over the last second",
        "CPU%     of one CPU           MEM    its processes' memory",
        "LAST nS  new/s over the last n seconds; one scale for all workers",
        "parked   wait with the master while no worker is ready",
    };
    std::vector<TopLine> lines = {{{{"drover top", Paint::bold}}, false}};
    for (const char* text : kText) lines.push_back(line_of({{text}}, frame));
    if (frame.clusters.size() > 1) {
        std::vector<Span> items = {{"clusters", Paint::dim}};
        for (size_t i = 0; i < frame.clusters.size(); ++i)
            items.push_back({fmt::format("{} {}", i + 1, frame.clusters[i])});
        lines.push_back(line_of(items, frame));
    }
    lines.resize(std::min(lines.size(), frame.height - 1));
    lines.resize(frame.height - 1);
    lines.push_back({{{"any key: back", Paint::bold}}, false});
    return finished(std::move(lines), frame);
}

}  // namespace drover::cli
