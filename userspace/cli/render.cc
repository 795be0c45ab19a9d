// SPDX-License-Identifier: MIT
#include "cli/render.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <set>

#include "cli/table.h"
#include "cli/terminal.h"

namespace drover::cli {

namespace {

constexpr const char* kGreen = "\033[32m";
constexpr const char* kYellow = "\033[33m";
constexpr const char* kRed = "\033[31m";

// Reading JSON without surprises: a missing or strange field is null.
// ------------------------------

const Json& field(const Json& object, const char* key) {
    static const Json kNull;
    if (!object.is_object()) return kNull;
    auto found = object.find(key);
    return found == object.end() ? kNull : *found;
}

// Any value as a short text; "-" for null and for an empty text.
std::string show(const Json& value) {
    if (value.is_null()) return "-";
    if (!value.is_string())
        return escape(value.dump(-1, ' ', false, Json::error_handler_t::replace));
    const auto& text = value.get_ref<const std::string&>();
    return text.empty() ? "-" : escape(text);
}

std::string show(const Json& object, const char* key) {
    return show(field(object, key));
}

// "" for null.
std::string text_of(const Json& object, const char* key) {
    const auto& value = field(object, key);
    return value.is_null() || value == "" ? "" : show(value);
}

uint64_t number_of(const Json& object, const char* key) {
    const auto& value = field(object, key);
    if (value.is_number_unsigned()) return value.get<uint64_t>();
    if (value.is_number_integer())
        return static_cast<uint64_t>(std::max(value.get<int64_t>(), int64_t{0}));
    return 0;
}

// Elements of an array of texts or numbers, joined; "-" where there is none.
std::string join(const Json& array, std::string_view separator) {
    std::string result;
    if (!array.is_array()) return show(array);
    for (const auto& element : array)
        result += (result.empty() ? "" : std::string(separator)) + show(element);
    return result.empty() ? "-" : result;
}

std::string sum_up(const Json& counts) {
    std::string result;
    if (!counts.is_object()) return show(counts);
    for (const auto& [name, value] : counts.items())
        result += fmt::format("{}{} {}", result.empty() ? "" : ", ", escape(name), show(value));
    return result;
}

// -------------------------------------------------------------------------------------------------

const char* paint_of(const std::string& state) {
    if (state == "ready" || state == "running") return kGreen;
    if (state == "failed" || state == "backoff" || state == "degraded") return kRed;
    return kYellow;
}

// "tcp 0.0.0.0:80", "tcp [::1]:80"; "v6" where it is IPv6 alone.
std::string listener(const Json& data) {
    auto address = show(data, "addr");
    if (address.find(':') != std::string::npos) address = fmt::format("[{}]", address);
    return fmt::format("{} {}:{}{}", show(data, "proto"), address, show(data, "port"),
                       field(data, "v6only") == true ? " (IPv6 only)" : "");
}

std::string ports(const Json& status) {
    std::set<uint64_t> numbers;
    for (const auto& group : field(status, "groups")) numbers.insert(number_of(group, "port"));
    return numbers.empty() ? "-" : fmt::format("{}", fmt::join(numbers, ","));
}

std::string uptime(const Json& worker, const Style& style) {
    auto started = parse_time(text_of(worker, "started_at"));
    if (!started) return "-";
    using std::chrono::milliseconds;
    auto up = std::chrono::duration_cast<milliseconds>(style.now - *started);
    return human_duration(std::max(up, milliseconds(0)));
}

// How it ended: "exit code 1", "killed by SIGKILL"; "" where unknown.
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

Row worker_row(const Json& worker, const Style& style) {
    auto state = show(worker, "state");
    bool lives = !field(worker, "pid").is_null();
    return {
        show(worker, "id"),
        show(worker, "instance"),
        show(worker, "pid"),
        {state, paint_of(state)},
        join(field(worker, "flags"), ","),
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
    auto value = static_cast<double>(bytes);
    const char* unit = "KMGTPE";
    for (value /= 1024; value >= 1023.5; value /= 1024) ++unit;
    return value < 9.95 ? fmt::format("{:.1f}{}", value, *unit)
                        : fmt::format("{:.0f}{}", value, *unit);
}

std::optional<std::chrono::system_clock::time_point> parse_time(const std::string& text) {
    std::tm date{};
    int parsed = 0;
    if (std::sscanf(text.c_str(), "%4d-%2d-%2dT%2d:%2d:%2d%n", &date.tm_year, &date.tm_mon,
                    &date.tm_mday, &date.tm_hour, &date.tm_min, &date.tm_sec, &parsed) != 6)
        return std::nullopt;
    std::string_view rest = std::string_view(text).substr(static_cast<size_t>(parsed));
    std::chrono::milliseconds fraction{0};
    if (rest.starts_with('.')) {
        rest.remove_prefix(1);
        int unit = 100;
        for (; !rest.empty() && rest.front() >= '0' && rest.front() <= '9'; unit /= 10) {
            fraction += std::chrono::milliseconds((rest.front() - '0') * unit);
            rest.remove_prefix(1);
        }
    }
    if (rest != "Z") return std::nullopt;
    date.tm_year -= 1900;
    date.tm_mon -= 1;
    return std::chrono::system_clock::from_time_t(::timegm(&date)) + fraction;
}

std::string render_clusters(const std::vector<Json>& statuses, const Style& style) {
    std::vector<Row> rows = {
        {{"NAME"}, {"STATE"}, {"READY/WANTED"}, {"POLICY"}, {"PORTS"}, {"PID"}}};
    for (const auto& status : statuses) {
        auto state = show(status, "state");
        rows.push_back({show(status, "cluster"),
                        {state, paint_of(state)},
                        fmt::format("{}/{}", show(status, "ready"), show(status, "wanted")),
                        show(status, "policy"),
                        ports(status),
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
    };
    if (field(status, "drained") == true)
        head.insert(head.begin() + 2, {{"drained"},
                                       {"load balancers are told to send nothing "
                                        "new"}});
    for (const auto& group : field(status, "groups"))
        head.push_back({{"port"},
                        {fmt::format("{}, active instances {}, {} parked", listener(group),
                                     join(field(group, "active"), " "), show(group, "parked"))}});
    head.push_back({{"decisions"}, {sum_up(field(status, "decisions_total"))}});
    head.push_back({{"moved"}, {show(status, "moved_total")}});
    head.push_back({{"corrections"}, {show(status, "corrections_total")}});

    std::vector<Row> rows = {{{"ID"},
                              {"INST"},
                              {"PID"},
                              {"STATE"},
                              {"FLAGS"},
                              {"UPTIME"},
                              {"LIVE"},
                              {"QUEUED"},
                              {"ACCEPTED"},
                              {"RESTARTS"},
                              {"CPU"},
                              {"MEM"},
                              {"REASON"}}};
    for (const auto& worker : field(status, "workers")) rows.push_back(worker_row(worker, style));
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
