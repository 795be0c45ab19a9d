// SPDX-License-Identifier: MIT
#include "cli/render.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/wall_time.h"
#include "cli/table.h"
#include "cli/terminal.h"

namespace drover::cli {

namespace {

constexpr const char* kGreen = "\033[32m";
constexpr const char* kYellow = "\033[33m";
constexpr const char* kRed = "\033[31m";

constexpr size_t kWorkerColumns = 12;  // of the table in status; the last is the reason

std::string sum_up(const Json& counts) {
    std::string result;
    if (!counts.is_object()) return show(counts);
    for (const auto& [name, value] : counts.items())
        result += fmt::format("{}{} {}", result.empty() ? "" : ", ", escape(name), show(value));
    return result;
}

// The first four reasons always; the others, which are rare, where there was one.
std::string decisions(const Json& totals) {
    Json shown = Json::object();
    if (!totals.is_object()) return show(totals);
    for (const auto& [reason, total] : totals.items())
        if (shown.size() < 4 || total != 0) shown[reason] = total;
    return sum_up(shown);
}

const char* paint_of(const std::string& state) {
    if (state == "ready" || state == "running") return kGreen;
    if (state == "failed" || state == "backoff" || state == "degraded") return kRed;
    return kYellow;
}

std::string ports(const Json& status) {
    std::set<uint64_t> numbers;
    for (const auto& group : field(status, "groups")) numbers.insert(number_of(group, "port"));
    return numbers.empty() ? "-" : fmt::format("{}", fmt::join(numbers, ","));
}

std::string count_text(uint64_t count) {
    return fmt::format("{}", count);
}

// Over all workers; "-" where none says it.
std::string sum_of(const Json& status, const char* key, std::string (*text)(uint64_t)) {
    std::optional<uint64_t> sum;
    for (const auto& worker : field(status, "workers"))
        if (field(worker, key).is_number()) sum = sum.value_or(0) + number_of(worker, key);
    return sum ? text(*sum) : "-";
}

std::string uptime(const Json& worker, const Style& style) {
    auto started = parse_time(text_of(worker, "started_at"));
    if (!started) return "-";
    using std::chrono::milliseconds;
    auto up = std::chrono::duration_cast<milliseconds>(style.now - *started);
    return human_duration(std::max(up, milliseconds(0)));
}

Row worker_row(const Json& worker, const Style& style) {
    auto state = show(worker, "state");
    const auto& flags = field(worker, "flags");
    bool lives = !field(worker, "pid").is_null();
    return {
        show(worker, "id"),
        show(worker, "instance"),
        show(worker, "pid"),
        {flags.empty() ? state : state + " " + join(flags, ","),
         flags.empty() ? paint_of(state) : kYellow},
        lives ? uptime(worker, style) : "-",
        show(worker, "live"),
        show(worker, "queued"),
        show(worker, "accepted_total"),
        show(worker, "restarts_total"),
        lives ? human_duration(std::chrono::milliseconds(number_of(worker, "cpu_ms_total"))) : "-",
        lives ? human_bytes(number_of(worker, "memory_bytes")) : "-",
        reason(worker, style)};
}

std::string exit_text(const Json& data) {
    auto text = ending(data);
    if (text.empty()) text = "ended";
    if (field(data, "uptime_ms").is_number())
        text += " after " + human_duration(std::chrono::milliseconds(number_of(data, "uptime_ms")));
    if (auto why = text_of(data, "reason"); !why.empty()) text += fmt::format(" ({})", why);
    return text;
}

// The event's data in words, without its worker.
std::string event_text(const std::string& kind, const Json& worker, const Json& data) {
    if (kind == "fork") return fmt::format("pid {}", show(worker, "pid"));
    if (kind == "listening") return "on " + listener(data);
    if (kind == "exit") return exit_text(data);
    if (kind == "state") {
        auto why = text_of(data, "reason");
        return fmt::format("from {} to {}{}{}", show(data, "from"), show(data, "to"),
                           why.empty() ? "" : ": ", why);
    }
    if (kind == "stalled")
        return fmt::format("takes no connections, {} wait", show(data, "queued"));
    if (kind == "rescued")
        return fmt::format("{} waiting connections went to others", show(data, "moved"));
    if (kind == "recovered" && field(data, "after_ms").is_number())
        return "takes connections again, after " +
               human_duration(std::chrono::milliseconds(number_of(data, "after_ms")));
    if (kind == "scaled")
        return fmt::format("from {} to {} workers", show(data, "from"), show(data, "to"));
    if (kind == "restart-limit" && field(data, "restarts").is_number())
        return fmt::format("{} failed starts within {}: given up", show(data, "restarts"),
                           human_duration(std::chrono::milliseconds(number_of(data, "within_ms"))));
    if (auto text = text_of(data, "text"); !text.empty()) return text;
    return data.is_object() && !data.empty() ? sum_up(data) : "";
}

}  // namespace

std::string human_duration(std::chrono::milliseconds duration) {
    auto ms = duration.count();
    auto seconds = ms / 1000;
    if (ms < 1000) return fmt::format("{}ms", ms);
    if (seconds < 10) return fmt::format("{}.{}s", seconds, ms % 1000 / 100);
    if (seconds < 60) return fmt::format("{}s", seconds);
    if (seconds < 3600) return fmt::format("{}m {}s", seconds / 60, seconds % 60);
    if (seconds < 86400) return fmt::format("{}h {}m", seconds / 3600, seconds / 60 % 60);
    return fmt::format("{}d {}h", seconds / 86400, seconds / 3600 % 24);
}

std::string human_bytes(uint64_t bytes) {
    if (bytes < 1024) return fmt::format("{}", bytes);
    auto value = static_cast<double>(bytes) / 1024;
    const char* unit = "KMGTPE";
    while (value >= 1023.5) {
        value /= 1024;
        ++unit;
    }
    return value < 9.95 ? fmt::format("{:.1f}{}", value, *unit)
                        : fmt::format("{:.0f}{}", value, *unit);
}

std::string ending(const Json& exit) {
    if (auto signal = text_of(exit, "signal"); !signal.empty())
        return fmt::format("killed by SIG{}", signal);
    if (auto code = text_of(exit, "code"); !code.empty()) return fmt::format("exit code {}", code);
    return "";
}

std::string reason(const Json& worker, const Style& style) {
    auto text = text_of(worker, "reason");
    if (text.empty()) text = text_of(worker, "status");  // its own words
    auto retry = parse_time(text_of(worker, "retry_at"));
    if (retry && *retry > style.now) {
        using std::chrono::milliseconds;
        auto wait = std::chrono::duration_cast<milliseconds>(*retry - style.now);
        text += fmt::format("{}again in {}", text.empty() ? "" : ", ", human_duration(wait));
    }
    return text;
}

std::string render_clusters(const std::vector<Json>& statuses, const Style& style) {
    std::vector<Row> rows = {{{"NAME"},
                              {"STATE"},
                              {"READY"},
                              {"POLICY"},
                              {"PORTS"},
                              {"LIVE"},
                              {"MEM"},
                              {"RESTARTS"},
                              {"PID"}}};
    for (const auto& status : statuses) {
        auto state = show(status, "state");
        rows.push_back({show(status, "cluster"),
                        {state, paint_of(state)},
                        fmt::format("{}/{}", show(status, "ready"), show(status, "wanted")),
                        show(status, "policy"),
                        ports(status),
                        sum_of(status, "live", count_text),
                        sum_of(status, "memory_bytes", human_bytes),
                        sum_of(status, "restarts_total", count_text),
                        show(status, "pid")});
    }
    return render_table(rows, style.color);
}

std::string render_status(const Json& status, const Style& style) {
    auto state = show(status, "state");
    std::vector<Row> head = {
        {{"cluster"}, {show(status, "cluster")}},
        {{"state"},
         {fmt::format("{}, {} of {} ready", state, show(status, "ready"), show(status, "wanted")),
          paint_of(state)}},
        {{"master"},
         {fmt::format("pid {}, drover {}", show(status, "pid"), show(status, "version"))}},
        {{"policy"}, {show(status, "policy")}},
        {{"generation"}, {show(status, "generation")}},
        {{"log"}, {show(status, "log")}},
    };
    if (field(status, "drained") == true)
        head.insert(head.begin() + 2, {{"drained"},
                                       {"load balancers are told to send nothing "
                                        "new"}});
    for (const auto& group : field(status, "groups"))
        head.push_back({{"port"},
                        {fmt::format("{}, active instances {}, {} parked", listener(group),
                                     join(field(group, "active"), " "), show(group, "parked"))}});
    head.push_back({{"decisions"}, {decisions(field(status, "decisions_total"))}});
    head.push_back({{"moved"}, {show(status, "moved_total")}});
    head.push_back({{"corrections"}, {show(status, "corrections_total")}});

    std::vector<Row> rows = {{{"ID"},
                              {"INST"},
                              {"PID"},
                              {"STATE"},
                              {"UPTIME"},
                              {"LIVE"},
                              {"QUEUED"},
                              {"ACCEPTED"},
                              {"RESTARTS"},
                              {"CPU"},
                              {"MEM"}}};
    for (const auto& worker : field(status, "workers")) rows.push_back(worker_row(worker, style));
    bool has_reason = std::ranges::any_of(rows, [](const Row& row) {
        return row.size() == kWorkerColumns && !row.back().text.empty();
    });
    if (has_reason) rows.front().push_back({"REASON"});
    return render_table(head, style.color) + "\n" + render_table(rows, style.color);
}

std::string render_probe(const Json& answer) {
    auto body = field(answer, "body").is_string() ? field(answer, "body").get<std::string>() : "";
    auto bytes = number_of(answer, "body_bytes");
    auto took = field(answer, "took_ms");
    auto text = fmt::format("{}\n{:.1f} ms, {} bytes\n", show(answer, "line"),
                            took.is_number() ? took.get<double>() : 0.0, bytes);
    if (body.empty()) return text;
    bool is_all = body.size() >= bytes;
    while (is_all && body.ends_with('\n')) body.pop_back();
    return text + escape_lines(body) + (is_all ? "" : "…") + "\n";
}

std::string render_event(const Json& event, const Style& style) {
    const auto& worker = field(event, "worker");
    auto kind = show(event, "event");
    auto who = show(event, "cluster");
    if (worker.is_object()) who += "/" + show(worker, "instance");
    bool bad =
        kind == "error" || kind == "conflict" || kind == "stalled" || kind == "restart-limit";
    auto text = event_text(kind, worker, field(event, "data"));
    if (worker.is_object())
        text = fmt::format("worker {}{}{}", show(worker, "id"), text.empty() ? "" : ": ", text);
    auto padded = fmt::format("{:<13}", kind);
    if (style.color && bad) padded = kRed + padded + "\033[0m";
    auto line = fmt::format("{}  {} {:<12} {}", show(event, "time"), padded, who, text);
    return line.erase(line.find_last_not_of(' ') + 1) + "\n";
}

}  // namespace drover::cli
