// SPDX-License-Identifier: MIT
//
// What `drover top` knows: a master's status objects, one after the other, become rows with rates.
// Pure: the time of each status is given.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/fields.h"

namespace drover::cli {

// Nothing: unknown, as live is with the policy shared, or a rate at the first look.
struct TopRow {
    uint64_t id = 0;
    uint64_t instance = 0;
    uint64_t generation = 0;
    uint64_t weight = 1;
    std::string pid;    // "-" where it has none
    std::string state;  // "ready"
    std::string flags;  // "held,stalled", or ""
    std::optional<std::chrono::milliseconds> uptime;
    std::optional<uint64_t> live;
    std::optional<uint64_t> queued;
    std::optional<uint64_t> accepted;
    std::optional<double> new_per_second;
    std::optional<double> cpu_percent;  // of one CPU
    std::optional<uint64_t> memory_bytes;
    uint64_t restarts = 0;
    std::string note;            // why it is so, or what it says itself; escaped
    std::string last_exit;       // of the instance's former worker: "killed by SIGKILL (crash)"
    std::deque<double> history;  // new_per_second, the latest last
};

struct TopCluster {
    std::string name, state, policy, generation, wanted, ready, pid, version;
    std::vector<std::string> ports;  // "tcp [::]:80: 4 active, 0 parked"
    // Decisions a second by reason, in the master's order: the first four always, the others once
    // there was one.
    std::vector<std::pair<std::string, std::optional<double>>> decisions;
    uint64_t corrections = 0;
    uint64_t moved = 0;
};

enum class TopSort { instance, live, rate, cpu, memory };
TopSort next(TopSort sort);
const char* name_of(TopSort sort);

class TopModel {
  public:
    using Steady = std::chrono::steady_clock::time_point;
    using Wall = std::chrono::system_clock::time_point;

    // Takes a status that came at `at`. Looks less than half a second apart show the new state but
    // keep the rates: over so short a time they would jump.
    void add(const Json& status, Steady at, Wall now);

    // Another cluster: nothing is known.
    void clear();

    void set_sort(TopSort sort);
    [[nodiscard]] TopSort sort() const { return sort_; }

    [[nodiscard]] bool is_empty() const { return !has_status_; }
    [[nodiscard]] const TopCluster& cluster() const { return cluster_; }
    // By the chosen order: instances upwards, everything else downwards.
    [[nodiscard]] const std::vector<TopRow>& rows() const { return rows_; }
    // Of what is known.
    [[nodiscard]] TopRow total() const;

    // The worker that is meant by the keys. It stays the same when rows move, and when it is
    // replaced it is its instance's new one.
    [[nodiscard]] std::optional<size_t> selected() const;  // index in rows()
    void select(size_t index);                             // the last row where it is beyond
    void move_selection(int steps);

  private:
    struct Counts {
        std::optional<uint64_t> accepted;
        uint64_t cpu_ms = 0;
    };
    void sort_rows();

    bool has_status_ = false;
    TopCluster cluster_;
    std::vector<TopRow> rows_;
    TopSort sort_ = TopSort::instance;
    uint64_t selected_id_ = 0;
    uint64_t selected_instance_ = 0;

    // The look that rates count from.
    std::optional<Steady> base_;
    std::map<uint64_t, Counts> base_workers_;         // by id
    std::map<std::string, uint64_t> base_decisions_;  // by reason
};

}  // namespace drover::cli
