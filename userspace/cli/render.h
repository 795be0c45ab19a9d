// SPDX-License-Identifier: MIT
//
// The control socket's JSON → what a person reads. Pure, and tolerant: a field that is absent, null
// or of another type is shown as "-". Every text in it may come from a worker and is escaped.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "cli/fields.h"

namespace drover::cli {

struct Style {
    bool color = false;
    std::chrono::system_clock::time_point now;  // for uptimes
};

// `ls`: one line per status object, under a heading.
std::string render_clusters(const std::vector<Json>& statuses, const Style& style);

// How a worker ended: "exit code 1", "killed by SIGKILL"; "" where unknown.
std::string ending(const Json& exit);

// Why a worker is as it is, or what it says itself, and when it is tried again; "" for nothing.
std::string reason(const Json& worker, const Style& style);

// `status`: some lines about the cluster, then the table of its workers.
std::string render_status(const Json& status, const Style& style);

// `events`: one line.
std::string render_event(const Json& event, const Style& style);

// `probe`: the status line, how long it took, the beginning of the body.
std::string render_probe(const Json& answer);

// "850ms" "3.2s" "12m 5s" "3h 12m" "4d 2h".
std::string human_duration(std::chrono::milliseconds duration);

// "512" "1.5K" "20M".
std::string human_bytes(uint64_t bytes);

}  // namespace drover::cli
