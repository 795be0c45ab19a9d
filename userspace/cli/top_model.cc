// SPDX-License-Identifier: MIT
#include "cli/top_model.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/wall_time.h"
#include "cli/render.h"

namespace drover::cli {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kShortestInterval{500};
constexpr size_t kHistory = 200;  // as many as the widest terminal shows
constexpr size_t kAlwaysShown = 4;

std::optional<uint64_t> count_of(const Json& object, const char* key) {
    if (!field(object, key).is_number_integer()) return std::nullopt;
    return number_of(object, key);
}

// A count that has fallen is another worker's or a corrected one: nothing happened.
double per_second(uint64_t before, uint64_t after, double seconds) {
    return after > before ? static_cast<double>(after - before) / seconds : 0;
}

std::optional<milliseconds> uptime(const Json& worker, TopModel::Wall now) {
    auto started = parse_time(text_of(worker, "started_at"));
    if (!started || field(worker, "pid").is_null()) return std::nullopt;
    return std::max(std::chrono::duration_cast<milliseconds>(now - *started), milliseconds(0));
}

std::string last_exit(const Json& worker) {
    const auto& exit = field(worker, "last_exit");
    auto text = ending(exit);
    auto why = text_of(exit, "reason");
    return why.empty() ? text : fmt::format("{}{}({})", text, text.empty() ? "" : " ", why);
}

TopRow row_of(const Json& worker, TopModel::Wall now) {
    TopRow row;
    row.id = number_of(worker, "id");
    row.instance = number_of(worker, "instance");
    row.generation = number_of(worker, "generation");
    row.weight = number_of(worker, "weight");
    row.pid = show(worker, "pid");
    row.state = show(worker, "state");
    if (const auto& flags = field(worker, "flags"); !flags.empty()) row.flags = join(flags, ",");
    row.uptime = uptime(worker, now);
    row.live = count_of(worker, "live");
    row.queued = count_of(worker, "queued");
    row.accepted = count_of(worker, "accepted_total");
    if (!field(worker, "pid").is_null()) row.memory_bytes = count_of(worker, "memory_bytes");
    row.restarts = number_of(worker, "restarts_total");
    row.note = reason(worker, {false, now});
    row.last_exit = last_exit(worker);
    return row;
}

std::string port_text(const Json& group) {
    const auto& active = field(group, "active");
    return fmt::format("{}: {} active, {} parked", listener(group),
                       active.is_array() ? active.size() : 0, show(group, "parked"));
}

TopCluster cluster_of(const Json& status) {
    TopCluster cluster;
    cluster.name = show(status, "cluster");
    cluster.state = show(status, "state");
    cluster.policy = show(status, "policy");
    cluster.generation = show(status, "generation");
    cluster.wanted = show(status, "wanted");
    cluster.ready = show(status, "ready");
    cluster.pid = show(status, "pid");
    cluster.version = show(status, "version");
    if (const auto& groups = field(status, "groups"); groups.is_array())
        for (const auto& group : groups) cluster.ports.push_back(port_text(group));
    cluster.corrections = number_of(status, "corrections_total");
    cluster.moved = number_of(status, "moved_total");
    return cluster;
}

// What a row is sorted by, the greatest first; the unknown comes last.
double key_of(const TopRow& row, TopSort sort) {
    switch (sort) {
        case TopSort::instance:
            break;
        case TopSort::live:
            return row.live ? static_cast<double>(*row.live) : -1;
        case TopSort::rate:
            return row.new_per_second.value_or(-1);
        case TopSort::cpu:
            return row.cpu_percent.value_or(-1);
        case TopSort::memory:
            return row.memory_bytes ? static_cast<double>(*row.memory_bytes) : -1;
    }
    return 0;
}

template <class T>
void add_to(std::optional<T>& sum, const std::optional<T>& more) {
    if (more) sum = sum.value_or(T{}) + *more;
}

}  // namespace

TopSort next(TopSort sort) {
    return sort == TopSort::memory ? TopSort::instance
                                   : static_cast<TopSort>(static_cast<int>(sort) + 1);
}

const char* name_of(TopSort sort) {
    switch (sort) {
        case TopSort::instance:
            return "instance";
        case TopSort::live:
            return "live";
        case TopSort::rate:
            return "new/s";
        case TopSort::cpu:
            return "cpu";
        case TopSort::memory:
            return "mem";
    }
    return "";
}

void TopModel::add(const Json& status, Steady at, Wall now) {
    std::map<uint64_t, TopRow> former;
    for (auto& row : rows_) former[row.id] = std::move(row);
    auto former_decisions = std::move(cluster_.decisions);
    bool is_too_soon = base_ && at - *base_ < kShortestInterval;
    double seconds = base_ ? std::chrono::duration<double>(at - *base_).count() : 0;

    has_status_ = true;
    cluster_ = cluster_of(status);
    rows_.clear();
    std::map<uint64_t, Counts> counts;
    if (const auto& workers = field(status, "workers"); workers.is_array()) {
        for (const auto& worker : workers) {
            auto row = row_of(worker, now);
            counts[row.id] = {row.accepted, number_of(worker, "cpu_ms_total")};
            auto known = former.find(row.id);
            auto before = base_workers_.find(row.id);
            if (known != former.end()) row.history = std::move(known->second.history);
            if (is_too_soon && known != former.end()) {
                row.new_per_second = known->second.new_per_second;
                row.cpu_percent = known->second.cpu_percent;
            }
            if (!is_too_soon && before != base_workers_.end()) {
                const auto& [accepted, cpu_ms] = before->second;
                if (accepted && row.accepted)
                    row.new_per_second = per_second(*accepted, *row.accepted, seconds);
                if (row.uptime)
                    row.cpu_percent = per_second(cpu_ms, counts[row.id].cpu_ms, seconds) / 10;
                row.history.push_back(row.new_per_second.value_or(0));
                if (row.history.size() > kHistory) row.history.pop_front();
            }
            rows_.push_back(std::move(row));
        }
    }

    std::map<std::string, uint64_t> decisions;
    if (const auto& totals = field(status, "decisions_total"); totals.is_object()) {
        for (const auto& [reason, ignored] : totals.items()) {
            auto total = number_of(totals, reason.c_str());
            decisions[reason] = total;
            if (decisions.size() > kAlwaysShown && total == 0) continue;
            std::optional<double> rate;
            if (is_too_soon) {
                for (const auto& [name, known] : former_decisions)
                    if (name == show(Json(reason))) rate = known;
            } else if (base_) {
                rate = per_second(base_decisions_[reason], total, seconds);
            }
            cluster_.decisions.emplace_back(show(Json(reason)), rate);
        }
    }
    if (!is_too_soon) {
        base_ = at;
        base_workers_ = std::move(counts);
        base_decisions_ = std::move(decisions);
    }
    sort_rows();
}

void TopModel::clear() {
    auto sort = sort_;
    *this = TopModel();
    sort_ = sort;
}

void TopModel::set_sort(TopSort sort) {
    sort_ = sort;
    sort_rows();
}

void TopModel::sort_rows() {
    std::ranges::sort(rows_, [this](const TopRow& one, const TopRow& other) {
        double first = key_of(one, sort_), second = key_of(other, sort_);
        if (first != second) return first > second;
        return std::pair(one.instance, one.id) < std::pair(other.instance, other.id);
    });
}

TopRow TopModel::total() const {
    TopRow total;
    for (const auto& row : rows_) {
        add_to(total.live, row.live);
        add_to(total.queued, row.queued);
        add_to(total.new_per_second, row.new_per_second);
        add_to(total.cpu_percent, row.cpu_percent);
        add_to(total.memory_bytes, row.memory_bytes);
    }
    return total;
}

std::optional<size_t> TopModel::selected() const {
    if (rows_.empty()) return std::nullopt;
    std::optional<size_t> heir;
    for (size_t i = 0; i < rows_.size(); ++i) {
        if (rows_[i].id == selected_id_) return i;
        // While a worker is replaced its instance has two: the newer one is what stays.
        if (rows_[i].instance == selected_instance_ && (!heir || rows_[i].id > rows_[*heir].id))
            heir = i;
    }
    return heir.value_or(0);
}

void TopModel::select(size_t index) {
    if (rows_.empty()) return;
    const auto& row = rows_[std::min(index, rows_.size() - 1)];
    selected_id_ = row.id;
    selected_instance_ = row.instance;
}

void TopModel::move_selection(int steps) {
    auto from = static_cast<int64_t>(selected().value_or(0));
    select(static_cast<size_t>(std::max<int64_t>(from + steps, 0)));
}

}  // namespace drover::cli
