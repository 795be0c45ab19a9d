// SPDX-License-Identifier: MIT
//
// The status as Prometheus reads it: its text format 0.0.4. Pure.
//
// The names are the status' own with drover_ in front, in Prometheus' base units (seconds, bytes).
// A worker's numbers are told by its instance, never by its id: ids are never used again, and each
// would be a series of its own. While two workers serve one instance (a reload) their numbers are
// added. What only grows goes on growing when an instance's worker is replaced; it begins anew with
// the master's program (a start, a take-over; after an upgrade the workers' own counts go on).
#pragma once

#include <cstdint>
#include <string>

#include "admin/tally.h"
#include "supervisor/types.h"

namespace drover::admin {

// The master itself.
struct OwnProcess {
    uint64_t resident_bytes = 0;
    double cpu_seconds = 0;
    uint64_t open_fds = 0;
    double started_at = 0;  // seconds since 1970
};

inline constexpr const char* kMetricsType = "text/plain; version=0.0.4; charset=utf-8";

[[nodiscard]] std::string to_metrics(const supervisor::Status& status, const Tally& tally,
                                     const OwnProcess& process);

}  // namespace drover::admin
