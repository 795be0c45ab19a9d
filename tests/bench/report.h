// SPDX-License-Identifier: MIT
//
// What a load has counted, as one line of JSON for programs and one line for people.
//
//     classes     what was asked, by class: sent, ok, failed, errors by kind, latencies in µs
//     workers     how many answers each worker gave
//     wanted_per_s  as the plan has it; sent_per_s  as it was done; answered_per_s
//     late_…      how late the generator itself was in beginning a request. Where this is not far
//                 below the latencies, the generator was the bottleneck, not the server
//     held, dropped   of the held connections: open at the end, ended by the server
//     sent … over_1s  as in a class, of all classes
//
// Latencies are those of the answered requests and of those given up: a request that was waited for
// in vain took at least that long, and to leave it out would make a hanging server look quick.
#pragma once

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "histogram.h"
#include "options.h"

namespace drover::bench {

struct Tally {
    uint64_t sent = 0;
    uint64_t ok = 0;
    std::map<std::string, uint64_t> errors;  // by kind
    Histogram latencies;

    void merge(const Tally& other) {
        sent += other.sent;
        ok += other.ok;
        for (const auto& [kind, count] : other.errors) errors[kind] += count;
        latencies.merge(other.latencies);
    }
};

struct Report {
    std::vector<Tally> tallies;  // one for each class
    std::map<std::string, uint64_t> workers;
    Histogram lateness;
    // From the beginning of the load to its last request, as planned and as sent, and to the last
    // answer.
    double planned_seconds = 0;
    double sent_seconds = 0;
    double answered_seconds = 0;
    uint64_t held = 0;
    uint64_t dropped = 0;
};

inline double microseconds(std::chrono::nanoseconds duration) {
    return std::round(static_cast<double>(duration.count()) / 100) / 10;
}

inline double per_second(uint64_t count, double seconds) {
    return seconds > 0 ? std::round(static_cast<double>(count) / seconds * 10) / 10 : 0;
}

inline nlohmann::ordered_json json_of(const Tally& tally) {
    using namespace std::chrono_literals;
    const auto& latencies = tally.latencies;
    return {{"sent", tally.sent},
            {"ok", tally.ok},
            {"failed", tally.sent - tally.ok},
            {"errors", nlohmann::json(tally.errors)},
            {"mean_us", microseconds(latencies.mean())},
            {"p50_us", microseconds(latencies.at(0.5))},
            {"p90_us", microseconds(latencies.at(0.9))},
            {"p99_us", microseconds(latencies.at(0.99))},
            {"p999_us", microseconds(latencies.at(0.999))},
            {"max_us", microseconds(latencies.at(1))},
            {"over_10ms", latencies.longer_than(10ms)},
            {"over_100ms", latencies.longer_than(100ms)},
            {"over_1s", latencies.longer_than(1s)}};
}

inline Tally total_of(const Report& report) {
    Tally total;
    for (const auto& tally : report.tallies) total.merge(tally);
    return total;
}

inline std::string json_line(const Options& options, const Report& report) {
    auto total = total_of(report);
    nlohmann::ordered_json json = {{"v", 1}, {"classes", nlohmann::ordered_json::object()}};
    for (size_t i = 0; i < options.classes.size(); ++i)
        json["classes"][options.classes[i].name] = json_of(report.tallies[i]);
    json["workers"] = report.workers;
    json["wanted_per_s"] = per_second(total.sent, report.planned_seconds);
    json["sent_per_s"] = per_second(total.sent, report.sent_seconds);
    json["answered_per_s"] = per_second(total.ok, report.answered_seconds);
    json["late_p50_us"] = microseconds(report.lateness.at(0.5));
    json["late_p99_us"] = microseconds(report.lateness.at(0.99));
    json["late_max_us"] = microseconds(report.lateness.at(1));
    if (options.mode == Mode::hold) {
        json["held"] = report.held;
        json["dropped"] = report.dropped;
    }
    json.update(json_of(total));
    // What a server or the command line named may not be UTF-8.
    return json.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
}

inline std::string line_for_people(const Options& options, const Report& report) {
    auto total = total_of(report);
    auto ms = [](auto duration) { return static_cast<double>(duration.count()) / 1e6; };
    std::string text = fmt::format("load: {} of {} answered, {:.0f} a second", total.ok, total.sent,
                                   per_second(total.ok, report.answered_seconds));
    for (const auto& [kind, count] : total.errors) text += fmt::format(", {} {}", count, kind);
    for (size_t i = 0; i < options.classes.size(); ++i) {
        const auto& latencies = report.tallies[i].latencies;
        text += fmt::format("; {} p50 {:.2f} p99 {:.2f} ms", options.classes[i].name,
                            ms(latencies.at(0.5)), ms(latencies.at(0.99)));
    }
    if (options.mode == Mode::hold)
        text += fmt::format("; {} held, {} dropped", report.held, report.dropped);
    return text + fmt::format("; sent p99 {:.2f} ms late", ms(report.lateness.at(0.99)));
}

}  // namespace drover::bench
