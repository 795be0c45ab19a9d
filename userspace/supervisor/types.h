// SPDX-License-Identifier: MIT
//
// What the supervisor speaks of: the states of a worker, the events it reports, the status it
// shows. Plain data. Their JSON forms are made in admin/schema.cc and nowhere else.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/wall_time.h"
#include "worker/channel.h"

namespace drover::supervisor {

using WorkerId = uint64_t;  // counts up from 1, never reused
using drover::WallTime;

enum class State { starting, online, listening, ready, draining, stopped, backoff, failed };
const char* name_of(State state);
bool is_alive(State state);   // it has a process
bool is_moving(State state);  // it will be in another state without anybody's doing

enum class EventKind {
    fork,
    online,
    listening,
    ready,
    message,
    disconnect,
    exit,
    state,
    stalled,
    rescued,
    recovered,
    reload,
    scaled,
    conflict,
    restart_limit,
    error
};
const char* name_of(EventKind kind);  // as in VOCABULARY: restart_limit → "restart-limit"

// Why a worker exited, as `exit.reason`.
enum class ExitReason {
    crash,
    stopped,
    reload,
    recycle,
    memory,
    stalled,
    unhealthy,
    timeout,
    exec
};
const char* name_of(ExitReason reason);

struct Exit {
    std::optional<int> code;            // of exit()
    std::optional<std::string> signal;  // "KILL", without SIG
    ExitReason reason = ExitReason::crash;
};

struct WorkerRef {
    WorkerId id = 0;
    int instance = 0;
    int slot = 0;
    int pid = 0;
    int generation = 1;
};

struct ListeningData {
    std::string proto;  // "tcp"
    std::string addr;   // "0.0.0.0", "::1"
    int port = 0;
};
struct ExitData {
    Exit exit;
    std::chrono::milliseconds uptime{};
};
struct StateData {
    State from{};
    State to{};
    std::string reason;  // may be empty
};
struct ErrorData {
    std::string code;
    std::string text;
};
struct ConflictData {
    int port = 0;
    int pid = 0;            // 0 where unknown
    std::string command;    // of that pid
    std::string text;       // the sentence
    bool may_pass = false;  // it is nobody's: it could not be had just now
};
struct ScaledData {
    int from = 0;
    int to = 0;
};
struct RestartLimitData {
    int restarts = 0;                    // failed starts counted
    std::chrono::milliseconds within{};  // in this time
};

struct StalledData {
    uint64_t queued = 0;
};
struct RescuedData {
    uint64_t moved = 0;
};
struct RecoveredData {
    std::chrono::milliseconds after{};  // how long it was stalled
};

enum class ReloadPhase { started, worker, canary, promoted, rolled_back, done, failed };
const char* name_of(ReloadPhase phase);  // as in VOCABULARY: rolled_back → "rolled-back"

struct ReloadData {
    ReloadPhase phase{};
    int done = 0;  // instances that are served by their new worker
    int total = 0;
    std::string error;  // of phase failed
};

struct MessageData {
    WorkerId from = 0;  // 0: the master
    worker::Address to;
    std::string data;  // JSON text
};

using EventData = std::variant<std::monostate, ListeningData, ExitData, StateData, ErrorData,
                               ConflictData, ScaledData, RestartLimitData, MessageData, StalledData,
                               RescuedData, RecoveredData, ReloadData>;

struct Event {
    uint64_t seq = 0;
    WallTime time;
    EventKind kind{};
    std::optional<WorkerRef> worker;
    EventData data;
};

// What became of the runs of the steering program.
struct Decisions {
    uint64_t picked = 0, fallback = 0, keeper = 0, dropped = 0, moved = 0, stray = 0, pinned = 0;
};

struct GroupStatus {
    std::string proto = "tcp";
    std::string addr;
    int port = 0;
    bool v6only = false;
    std::vector<int> active;  // instances, sorted
    uint64_t parked = 0;      // connections that wait in the keeper
    Decisions decisions = {};
};

struct WorkerStatus {
    WorkerId id = 0;
    int instance = 0;
    std::optional<int> slot;
    int generation = 1;
    std::optional<int> pid;
    State state{};
    std::vector<std::string> flags;  // "held", "stalled", "unhealthy"
    std::optional<std::string> reason;
    std::optional<std::string> status;  // the worker's own words (sd_notify STATUS=)
    std::optional<double> load;         // as the worker itself last reported it
    std::optional<WallTime> retry_at;
    std::optional<WallTime> started_at;
    uint64_t restarts_total = 0;  // of this instance
    // Nothing where all workers have one socket: then the kernel does not say whose is what.
    std::optional<uint64_t> live = 0;
    std::optional<uint64_t> queued = 0;
    std::optional<uint64_t> accepted_total = 0;
    int weight = 1;
    uint64_t cpu_ms_total = 0;
    uint64_t memory_bytes = 0;
    uint64_t log_dropped_total = 0;  // lines that it printed beyond --log-rate
    std::optional<Exit> last_exit;   // of this instance's former worker
};

// What the workers that an instance had and that are gone have taken and used.
struct FormerWorkers {
    uint64_t accepted_total = 0;
    uint64_t cpu_ms_total = 0;
    bool operator==(const FormerWorkers&) const = default;
};

struct Status {
    std::string cluster;
    int pid = 0;
    std::string version;
    std::string state;        // "running", "degraded", "stopping"
    bool is_drained = false;  // load balancers are told to send no more
    std::string policy;
    int generation = 1;
    int wanted = 0;
    int ready = 0;
    std::string log;  // where the lines go: a file, "journal", or "" where nothing keeps them
    std::vector<GroupStatus> groups;
    std::vector<WorkerStatus> workers;
    std::map<int, FormerWorkers> former;  // by instance
    Decisions decisions_total;
    uint64_t corrections_total = 0;
    uint64_t moved_total = 0;
};

}  // namespace drover::supervisor
