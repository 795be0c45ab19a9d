// SPDX-License-Identifier: MIT
//
// What the user asked for. One table (option_table) is the source of the command line's options,
// their help texts, the keys of a configuration file, the completion and the man pages.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace drover::supervisor {

using Duration = std::chrono::milliseconds;

enum class Policy { least_busy, least_conn, round_robin, hash, source, shared, custom };

// A policy, and of a custom one the object file that it is in. A Policy is one by itself.
struct PolicyChoice {
    Policy kind = Policy::least_busy;
    std::string file;
    PolicyChoice() = default;
    PolicyChoice(Policy kind) : kind(kind) {}
    PolicyChoice(Policy kind, std::string file) : kind(kind), file(std::move(file)) {}
    bool operator==(const PolicyChoice&) const = default;
};

enum class Restart { always, on_failure, never };
enum class Ready { listening, exec, notify, message, http, tcp };
// Whether drover itself looks if the worker answers.
inline bool is_probed(Ready ready) {
    return ready == Ready::http || ready == Ready::tcp;
}
enum class HealthCheck { none, http, tcp };
enum class Ipc { automatic, pipe, node, none };

// A port that the cluster shares. With an address its keeper stands before the first worker starts;
// without one, from the first listen on.
struct Port {
    int number = 0;
    std::string address;  // "", "0.0.0.0", "::1"
    bool operator==(const Port&) const = default;
};

struct RestartLimit {
    int count = 5;
    Duration within{60'000};
    bool operator==(const RestartLimit&) const = default;
};

// How much each worker may print; what is beyond is dropped and counted.
struct LogRate {
    int lines = 10'000;
    Duration within{1'000};
    bool operator==(const LogRate&) const = default;
};

// How many bits of a client's address count for the policy `source`.
struct SourcePrefix {
    int v4 = 32;
    int v6 = 64;
    bool operator==(const SourcePrefix&) const = default;
};

// A number of instances, or a percentage of them.
struct Share {
    int number = 0;
    bool is_percent = false;
    bool operator==(const Share&) const = default;
};
// Of so many instances: rounded up, at least 1, at most all.
int count_of(Share share, int instances);

// The options as texts, in the order in which they were set: by these a configuration is written
// down and read back. How it was said makes no difference between two configurations.
struct GivenOptions {
    std::vector<std::pair<std::string, std::string>> all;
    bool operator==(const GivenOptions&) const { return true; }
};

// Where a configuration comes from: by this a reload puts it together anew.
struct Source {
    std::string file;  // of --config, absolute; "": there is none, and the rest is empty
    // Of the command line; they win over the file.
    std::vector<std::pair<std::string, std::string>> options;
    std::vector<std::string> command;  // empty: the file's
    bool operator==(const Source&) const = default;
};

struct Config {
    GivenOptions given;  // by set_option()
    Source source;
    std::string name;            // empty: derived from the command
    std::optional<int> workers;  // nothing: auto
    std::vector<Port> ports;     // empty: every port that the workers bind
    PolicyChoice policy;
    SourcePrefix source_prefix;
    Duration slow_start{0};  // until a new worker has its full share; 0: at once
    std::string user;        // a name or a number; empty: as the master
    std::string group;
    std::string cwd;
    std::vector<std::string> env;  // NAME=VALUE
    std::vector<std::string> env_files;
    std::vector<std::string> file_env;  // what is in these, by read_env_files()
    std::optional<mode_t> umask;
    std::optional<uint64_t> nofile;
    int backlog = 0;  // of the keepers; 0: the system's maximum
    Ipc ipc = Ipc::automatic;
    std::vector<Port> listen;  // sockets that drover makes and passes on (LISTEN_FDS)
    Ready ready = Ready::listening;
    std::string ready_path;  // of Ready::http
    Duration ready_timeout{30'000};
    Restart restart = Restart::always;
    RestartLimit max_restarts;
    Duration drain_timeout{10'000};
    int stop_signal = 15;
    Duration stop_timeout{10'000};
    Duration stall_after{500};  // 0: never
    Duration stall_kill{0};     // 0: never
    Duration watchdog{0};  // a worker without a sign of life for that long is replaced; 0: never
    // A worker that has reached one of these is replaced before it ends; 0: never.
    Duration max_lifetime{0};
    uint64_t max_memory = 0;  // bytes
    uint64_t max_connections = 0;
    std::string log_file;          // empty: the cluster's own; "none": none
    uint64_t log_size = 10 << 20;  // bytes, from which on it is rotated
    int log_keep = 5;              // rotated ones
    std::optional<LogRate> log_rate = LogRate{};
    std::optional<Port> admin;  // where metrics and health are told over HTTP
    HealthCheck health = HealthCheck::none;
    std::string health_path;  // of HealthCheck::http
    Duration health_interval{5'000};
    int health_failures = 3;             // in a row, and the worker is unhealthy
    std::optional<Port> agent;           // where a load balancer asks; it always has an address
    std::optional<Duration> stop_delay;  // nothing: see stop_delay_of()
    std::string controller;              // a program that steers the cluster, for /bin/sh -c
    std::vector<std::string> command;    // program and arguments
    bool operator==(const Config&) const = default;
};

inline bool is_checked(const Config& config) {
    return config.health != HealthCheck::none;
}
// From when a stop is announced until new connections are refused: with --agent some seconds.
Duration stop_delay_of(const Config& config);

struct Option {
    std::string_view name;      // "drain-timeout"; the TOML key is the same with '_'
    char letter;                // 'n' for -n; 0: none
    std::string_view argument;  // "DURATION", for the help text
    std::string_view initial;   // the default, as one would write it; "" where there is none
    std::string_view help;      // one line
    bool repeatable;
    std::function<Result<void>(Config&, const std::string& value)> set;
    std::string_view fixed = {};  // why it cannot change while the cluster runs; "": it can
};

// Every option of run and start, in the order of the help text.
const std::vector<Option>& option_table();

const Option* find_option(std::string_view name);  // nullptr where there is none

// "drain-timeout" → "drain_timeout", as it is called in a file.
std::string key_of(const Option& option);
// Whether its value is a path, which is relative to where it was written.
bool is_path(const Option& option);
// Whether its value can be a number.
bool is_number(const Option& option);
// Whether a further place (a file's table, the command line, a reload) adds to it; else it
// replaces.
bool adds_up(const Option& option);
// The words that it takes, where these are few: "always", "on-failure", "never".
std::vector<std::string_view> choices_of(const Option& option);

// What it was set to: of an option that is not repeatable the last value. Empty: it is as by
// default.
std::vector<std::string> values_of(const Config& config, const Option& option);

// Sets one option by name; the error names the option, the value and what is allowed.
Result<void> set_option(Config& config, std::string_view name, const std::string& value);

// Fills in what follows from the rest (the name from the command) and checks what needs more than
// one option to be seen. Error code "usage".
Result<Config> complete(Config config);

// Reads the files of --env-file into `file_env`, anew. Error "usage": the file, the line, what is
// wrong.
Result<void> read_env_files(Config& config);

// Parsers, pure. The errors say what was read and what is allowed.
Result<Duration> parse_duration(std::string_view text);           // 500ms 10s 5m 24h
Result<uint64_t> parse_size(std::string_view text);               // 512 10K 512M 2G, in bytes
Result<int> parse_signal(std::string_view text);                  // TERM SIGTERM 15
Result<Port> parse_port(std::string_view text);                   // 80, 127.0.0.1:80, [::]:80
Result<RestartLimit> parse_restart_limit(std::string_view text);  // 5/60s
Result<Share> parse_share(std::string_view text);                 // 2, 25%
// A name, or the path of an object file: what has a '/' in it or ends with ".o".
Result<PolicyChoice> parse_policy(std::string_view text);
// NAME=VALUE lines, as in systemd's EnvironmentFile: empty lines and lines that begin with # are
// skipped, a value may stand in quotes. The error names the line.
Result<std::vector<std::string>> parse_env_file(std::string_view content);
bool is_http_path(std::string_view text);                                // "/health?all"
Result<std::string> parse_env(std::string_view text);                    // NAME=VALUE
Result<void> check_name(std::string_view name);                          // [a-z][a-z0-9_-]{0,31}
std::string name_from_command(const std::vector<std::string>& command);  // node server.js → server
std::string name_of(const PolicyChoice& policy);  // "hash"; of an object file the file's name
std::string signal_name(int number);              // 9 → "KILL"

// The CPUs that a cpu.max file's content allows, rounded up; nothing where it sets no limit.
std::optional<int> cpus_of_quota(const std::string& cpu_max);

// The CPUs that this process may use: affinity and the cgroup's cpu.max; at least 1.
int usable_cpus();

}  // namespace drover::supervisor
