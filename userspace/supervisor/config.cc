// SPDX-License-Identifier: MIT
//
// The table of options, and what follows from several of them together. The values' parsers are in
// config_parse.cc, the name that a command gets by itself in config_name.cc.
//
// A new option is one row here and one field in Config: the command line, its help, the
// configuration file, the completion and the man pages read the table. Long because of that table.
#include "supervisor/config.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/cgroup.h"

namespace drover::supervisor {

namespace {

constexpr uint64_t kMostWorkers = 256;
constexpr uint64_t kMostFiles = 1U << 30;
constexpr uint64_t kLongestBacklog = 1U << 20;

template <class T>
struct Choice {
    std::string_view name;
    T value;
};

constexpr Choice<Policy> kPolicies[] = {
    {"least-busy", Policy::least_busy},   {"least-conn", Policy::least_conn},
    {"round-robin", Policy::round_robin}, {"hash", Policy::hash},
    {"source", Policy::source},           {"shared", Policy::shared}};
constexpr Choice<Restart> kRestarts[] = {
    {"always", Restart::always}, {"on-failure", Restart::on_failure}, {"never", Restart::never}};
constexpr Choice<Ready> kReadies[] = {{"listening", Ready::listening},
                                      {"exec", Ready::exec},
                                      {"notify", Ready::notify},
                                      {"message", Ready::message},
                                      {"tcp", Ready::tcp}};
constexpr Choice<Ipc> kIpcs[] = {
    {"auto", Ipc::automatic}, {"pipe", Ipc::pipe}, {"node", Ipc::node}, {"none", Ipc::none}};

template <class T, size_t N>
Result<T> choose(std::string_view text, const Choice<T> (&choices)[N]) {
    std::string allowed;
    for (size_t i = 0; i < N; ++i) {
        if (text == choices[i].name) return choices[i].value;
        allowed += i == 0 ? "" : i + 1 < N ? ", " : " or ";
        allowed += choices[i].name;
    }
    return fail("usage", fmt::format("\"{}\" is none of {}", text, allowed));
}

Result<uint64_t> parse_number(std::string_view text, uint64_t least, uint64_t most, int base = 10) {
    uint64_t number = 0;
    const char* end = text.data() + text.size();
    auto [stop, error] = std::from_chars(text.data(), end, number, base);
    if (text.empty() || error != std::errc() || stop != end || number < least || number > most) {
        auto range = base == 8 ? fmt::format("{:o} to {:o}, octal", least, most)
                               : fmt::format("{} to {}", least, most);
        return fail("usage", fmt::format("\"{}\" is not a number from {}", text, range));
    }
    return number;
}

Result<std::optional<int>> parse_workers(const std::string& text) {
    if (text == "auto") return std::optional<int>();
    auto number = parse_number(text, 1, kMostWorkers);
    if (!number) return fail("usage", number.error().text + ", or auto");
    return static_cast<int>(*number);
}

Result<std::string> parse_cluster_name(const std::string& text) {
    if (auto checked = check_name(text); !checked) return tl::unexpected(checked.error());
    return text;
}

Result<std::string> parse_text(const std::string& text) {
    if (text.empty()) return fail("usage", "the value is empty");
    return text;
}

Result<mode_t> parse_umask(const std::string& text) {
    return parse_number(text, 0, 0777, 8).map([](uint64_t mask) { return mode_t(mask); });
}

Result<uint64_t> parse_nofile(const std::string& text) {
    return parse_number(text, 1, kMostFiles);
}

Result<int> parse_backlog(const std::string& text) {
    return parse_number(text, 1, kLongestBacklog).map([](uint64_t length) { return int(length); });
}

Result<Restart> parse_restart(const std::string& text) {
    return choose(text, kRestarts);
}

// The path of http:/PATH; nothing where it is something else.
Result<std::optional<std::string>> parse_http(const std::string& text) {
    constexpr std::string_view kHttp = "http:";
    if (!text.starts_with(kHttp)) return std::nullopt;
    std::string path = text.substr(kHttp.size());
    if (!is_http_path(path))
        return fail("usage", fmt::format("\"{}\" is not like http:/health", text));
    return path;
}

// listening, …, tcp or http:/PATH
Result<void> set_ready(Config& config, const std::string& text) {
    config.ready_path.clear();
    auto path = parse_http(text);
    if (!path) return tl::unexpected(path.error());
    if (*path) {
        config.ready = Ready::http;
        config.ready_path = **path;
        return {};
    }
    auto ready = choose(text, kReadies);
    if (!ready) return fail("usage", ready.error().text + ", nor http:/PATH");
    config.ready = *ready;
    return {};
}

Result<void> set_health(Config& config, const std::string& text) {
    config.health_path.clear();
    auto path = parse_http(text);
    if (!path) return tl::unexpected(path.error());
    if (!*path && text != "tcp")
        return fail("usage", fmt::format("\"{}\" is neither tcp nor http:/PATH", text));
    config.health = *path ? HealthCheck::http : HealthCheck::tcp;
    config.health_path = path->value_or("");
    return {};
}

Result<int> parse_failures(const std::string& text) {
    return parse_number(text, 1, 1000).map([](uint64_t count) { return int(count); });
}

// Where it names no address, nobody but this machine can ask.
Result<Port> parse_agent(const std::string& text) {
    auto port = parse_port(text);
    if (port && port->address.empty()) port->address = "127.0.0.1";
    return port;
}

Result<Ipc> parse_ipc(const std::string& text) {
    return choose(text, kIpcs);
}

// 24, 24/56
Result<SourcePrefix> parse_source_prefix(const std::string& text) {
    SourcePrefix prefix;
    auto slash = text.find('/');
    auto v4 = parse_number(std::string_view(text).substr(0, slash), 0, 32);
    if (!v4) return tl::unexpected(v4.error());
    prefix.v4 = static_cast<int>(*v4);
    if (slash == std::string::npos) return prefix;
    auto v6 = parse_number(std::string_view(text).substr(slash + 1), 0, 128);
    if (!v6) return tl::unexpected(v6.error());
    prefix.v6 = static_cast<int>(*v6);
    return prefix;
}

// tcp://0.0.0.0:80, tcp://[::]:80
Result<Port> parse_listen(const std::string& text) {
    constexpr std::string_view kScheme = "tcp://";
    auto refuse = [&text] {
        return fail("usage",
                    fmt::format("\"{}\" is not like tcp://0.0.0.0:8080 or tcp://[::]:8080", text));
    };
    if (!text.starts_with(kScheme)) return refuse();
    auto port = parse_port(std::string_view(text).substr(kScheme.size()));
    if (!port || port->address.empty()) return refuse();
    return port;
}

// 9090 and :9090 are this machine's alone: 127.0.0.1:9090.
Result<Port> parse_admin(const std::string& text) {
    std::string_view rest = text;
    if (rest.starts_with(':') && rest.find(':', 1) == std::string_view::npos) rest.remove_prefix(1);
    auto port = parse_port(rest);
    if (port && port->address.empty()) port->address = "127.0.0.1";
    return port;
}

Result<Duration> parse_positive_duration(const std::string& text) {
    auto duration = parse_duration(text);
    if (duration && duration->count() == 0) return fail("usage", "the time must not be 0");
    return duration;
}

Result<uint64_t> parse_positive_size(const std::string& text) {
    auto size = parse_size(text);
    if (size && *size == 0) return fail("usage", "the size must not be 0");
    return size;
}

Result<uint64_t> parse_count(const std::string& text) {
    constexpr uint64_t kMost = 1'000'000'000'000;
    return parse_number(text, 1, kMost);
}

// More often than that would be load.
Result<Duration> parse_health_interval(const std::string& text) {
    constexpr Duration kLeast{100};
    auto interval = parse_duration(text);
    if (interval && *interval < kLeast)
        return fail("usage", fmt::format("\"{}\" is less than {} ms", text, kLeast.count()));
    return interval;
}

// "never" is 0.
Result<Duration> parse_duration_or_never(const std::string& text) {
    if (text == "never") return Duration(0);
    auto duration = parse_positive_duration(text);
    if (!duration) return fail("usage", duration.error().text + ", or never");
    return duration;
}

// The logger stands in the master's folder, `drover logs` in another one.
Result<std::string> parse_log_file(const std::string& text) {
    bool is_path = text.starts_with('/') && !text.ends_with('/');
    if (text != "none" && !is_path)
        return fail("usage", fmt::format("\"{}\" is neither a file's whole path, as in "
                                         "/var/log/web.log, nor none",
                                         text));
    return text;
}

Result<uint64_t> parse_log_size(const std::string& text) {
    constexpr uint64_t kLeast = 4096;
    auto size = parse_size(text);
    if (size && *size < kLeast)
        return fail("usage", fmt::format("\"{}\" is too small: 4K is the least", text));
    return size;
}

Result<int> parse_log_keep(const std::string& text) {
    constexpr uint64_t kMost = 1000;
    return parse_number(text, 1, kMost).map([](uint64_t count) { return int(count); });
}

Result<std::optional<LogRate>> parse_log_rate(const std::string& text) {
    if (text == "none") return std::optional<LogRate>();
    auto slash = text.find('/');
    auto count = parse_number(std::string_view(text).substr(0, slash), 1, 1'000'000'000);
    if (slash == std::string::npos || !count)
        return fail("usage", fmt::format("\"{}\" is no rate: write LINES/DURATION, as in "
                                         "10000/1s, or none",
                                         text));
    auto within = parse_positive_duration(text.substr(slash + 1));
    if (!within) return tl::unexpected(within.error());
    return LogRate{static_cast<int>(*count), *within};
}

using Set = std::function<Result<void>(Config&, const std::string&)>;

// Sets the field to what `parse` makes of the value.
template <class Field, class Parse>
Set into(Field Config::*field, Parse parse) {
    return [=](Config& config, const std::string& text) -> Result<void> {
        auto value = parse(text);
        if (!value) return tl::unexpected(value.error());
        config.*field = *value;
        return {};
    };
}

// The same for a repeatable option: one more element.
template <class Element, class Parse>
Set append(std::vector<Element> Config::*field, Parse parse) {
    return [=](Config& config, const std::string& text) -> Result<void> {
        auto value = parse(text);
        if (!value) return tl::unexpected(value.error());
        (config.*field).push_back(*value);
        return {};
    };
}

int cpus_by_affinity() {
    constexpr int kMostCpus = 8192;  // the kernel's own limit; cpu_set_t alone ends at 1,024
    cpu_set_t* set = CPU_ALLOC(kMostCpus);
    if (set == nullptr) return 1;
    size_t size = CPU_ALLOC_SIZE(kMostCpus);
    int count = ::sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 1;
    CPU_FREE(set);
    return count;
}

}  // namespace

namespace {

Result<void> set_config_file(Config& config, const std::string& text) {
    if (text.empty()) return fail("usage", "the value is empty");
    config.source.file = text;
    return {};
}

template <class T, size_t N>
std::vector<std::string_view> names_of(const Choice<T> (&choices)[N]) {
    std::vector<std::string_view> names;
    for (const auto& choice : choices) names.push_back(choice.name);
    return names;
}

}  // namespace

const std::vector<Option>& option_table() {
    constexpr std::string_view kWhole = "it is the whole cluster's; stop it and start it anew";
    // name, letter, argument, initial, help, repeatable, set, fixed
    static const std::vector<Option> table = {
        {"config", 0, "FILE", "", "a TOML file of options, of one cluster or several", false,
         set_config_file},
        {"name", 0, "NAME", "", "name of the cluster; by default from the command", false,
         into(&Config::name, parse_cluster_name), kWhole},
        {"workers", 'n', "N", "auto", "how many workers, 1 to 256; auto: the usable CPUs", false,
         into(&Config::workers, parse_workers), "use drover scale"},
        {"port", 0, "[ADDR:]PORT", "", "share only this port; an [IPv6] stands in brackets", true,
         append(&Config::ports, parse_port), kWhole},
        {"listen", 0, "tcp://ADDR:PORT", "", "make the sockets and pass them on (LISTEN_FDS)", true,
         append(&Config::listen, parse_listen), kWhole},
        {"policy", 0, "POLICY", "least-busy",
         "least-conn, round-robin, hash, source, shared, FILE.o", false,
         into(&Config::policy, parse_policy), "use drover policy"},
        {"source-prefix", 0, "V4[/V6]", "32/64", "bits of a client's address that source goes by",
         false, into(&Config::source_prefix, parse_source_prefix), kWhole},
        {"slow-start", 0, "DURATION", "", "time in which a new worker comes to its full share",
         false, into(&Config::slow_start, parse_duration), kWhole},
        {"user", 0, "USER", "", "run the workers as this user, a name or number", false,
         into(&Config::user, parse_text), kWhole},
        {"group", 0, "GROUP", "", "run the workers in this group; by default the user's", false,
         into(&Config::group, parse_text), kWhole},
        {"cwd", 0, "FOLDER", "", "working directory of the workers", false,
         into(&Config::cwd, parse_text)},
        {"env", 0, "NAME=VALUE", "", "set an environment variable of the workers", true,
         append(&Config::env, parse_env)},
        {"env-file", 0, "FILE", "", "the same from a file of NAME=VALUE lines", true,
         append(&Config::env_files, parse_text)},
        {"umask", 0, "OCTAL", "", "file mode mask of the workers", false,
         into(&Config::umask, parse_umask)},
        {"nofile", 0, "N", "", "limit of open files per worker", false,
         into(&Config::nofile, parse_nofile)},
        {"backlog", 0, "N", "", "connections that may wait while no worker is ready", false,
         into(&Config::backlog, parse_backlog), kWhole},
        {"ipc", 0, "KIND", "auto", "message channel: pipe, node, none; auto: node for node", false,
         into(&Config::ipc, parse_ipc)},
        {"ready", 0, "WHEN", "listening", "listening, exec, notify, message, tcp or http:/PATH",
         false, set_ready},
        {"ready-timeout", 0, "DURATION", "30s", "a worker not ready by then failed to start", false,
         into(&Config::ready_timeout, parse_positive_duration)},
        {"restart", 0, "WHEN", "always", "restart a worker always, on-failure or never", false,
         into(&Config::restart, parse_restart)},
        {"max-restarts", 0, "N/DURATION", "5/60s", "failed starts in that time before giving up",
         false, into(&Config::max_restarts, parse_restart_limit)},
        {"drain-timeout", 0, "DURATION", "10s", "time for a worker to finish its connections",
         false, into(&Config::drain_timeout, parse_duration)},
        {"stop-signal", 0, "SIGNAL", "TERM", "signal that ends a drained worker", false,
         into(&Config::stop_signal, parse_signal)},
        {"stall-after", 0, "DURATION", "500ms", "move away a queue that stands still; or never",
         false, into(&Config::stall_after, parse_duration_or_never), kWhole},
        {"stall-kill", 0, "DURATION", "never", "replace a worker that hangs for so long", false,
         into(&Config::stall_kill, parse_duration_or_never)},
        {"watchdog", 0, "DURATION", "",
         "replace a worker that gave no sign (sd_notify) for that long", false,
         into(&Config::watchdog, parse_positive_duration)},
        {"controller", 0, "COMMAND", "", "a program that gets events and gives requests", false,
         into(&Config::controller, parse_text), kWhole},
        {"admin", 0, "[ADDR:]PORT", "", "tell metrics and health over HTTP there", false,
         into(&Config::admin, parse_admin), kWhole},
        {"max-lifetime", 0, "DURATION", "", "replace a worker that has run for so long", false,
         into(&Config::max_lifetime, parse_positive_duration)},
        {"max-memory", 0, "SIZE", "", "replace a worker that uses more memory, such as 512M", false,
         into(&Config::max_memory, parse_positive_size)},
        {"max-connections", 0, "N", "", "replace a worker that has taken so many connections",
         false, into(&Config::max_connections, parse_count)},
        {"log-file", 0, "WHERE", "",
         "keep what is printed there instead of /var/log/drover; or none", false,
         into(&Config::log_file, parse_log_file), kWhole},
        {"log-size", 0, "SIZE", "10M", "rotate that file at this size", false,
         into(&Config::log_size, parse_log_size), kWhole},
        {"log-keep", 0, "N", "5", "keep so many rotated files", false,
         into(&Config::log_keep, parse_log_keep), kWhole},
        {"log-rate", 0, "N/DURATION", "10000/1s", "lines a worker may print in that time; or none",
         false, into(&Config::log_rate, parse_log_rate), kWhole},
        {"health", 0, "CHECK", "",
         "http:/PATH or tcp: ask each worker whether it is well; replace it if not", false,
         set_health},
        {"health-interval", 0, "DURATION", "5s", "time from one health check to the next", false,
         into(&Config::health_interval, parse_health_interval)},
        {"health-failures", 0, "N", "3", "failed checks in a row after which a worker is unhealthy",
         false, into(&Config::health_failures, parse_failures)},
        {"agent", 0, "[ADDR:]PORT", "", "answer the agent checks of an HAProxy there", false,
         into(&Config::agent, parse_agent), kWhole},
        {"stop-delay", 0, "DURATION", "",
         "time from telling --agent of a stop to the stop; with it 5s", false,
         into(&Config::stop_delay, parse_duration), kWhole},
        {"stop-timeout", 0, "DURATION", "10s", "time from that signal to the kill", false,
         into(&Config::stop_timeout, parse_duration)},
    };
    return table;
}

const Option* find_option(std::string_view name) {
    for (const auto& option : option_table())
        if (option.name == name) return &option;
    return nullptr;
}

std::string key_of(const Option& option) {
    std::string key(option.name);
    std::replace(key.begin(), key.end(), '-', '_');
    return key;
}

bool is_path(const Option& option) {
    return option.argument == "FILE" || option.argument == "FOLDER";
}

bool is_number(const Option& option) {
    constexpr std::string_view kNumbers[] = {"N",    "[ADDR:]PORT", "V4[/V6]", "USER",    "GROUP",
                                             "SIZE", "SIGNAL",      "OCTAL",   "DURATION"};
    return std::ranges::find(kNumbers, option.argument) != std::end(kNumbers);
}

bool adds_up(const Option& option) {
    return option.name == "env" || option.name == "env-file";
}

std::vector<std::string_view> choices_of(const Option& option) {
    if (option.name == "policy") return names_of(kPolicies);
    if (option.name == "restart") return names_of(kRestarts);
    if (option.name == "ready") return names_of(kReadies);
    if (option.name == "ipc") return names_of(kIpcs);
    return {};
}

std::vector<std::string> values_of(const Config& config, const Option& option) {
    std::vector<std::string> values;
    for (const auto& [name, value] : config.given.all) {
        if (name != option.name) continue;
        if (!option.repeatable) values.clear();
        values.push_back(value);
    }
    return values;
}

Result<void> set_option(Config& config, std::string_view name, const std::string& value) {
    const Option* option = find_option(name);
    if (option == nullptr) return fail("usage", fmt::format("unknown option --{}", name));
    auto set = option->set(config, value);
    if (!set) return wrap(set.error(), fmt::format("--{}", name));
    config.given.all.emplace_back(name, value);
    return {};
}

Result<void> read_env_files(Config& config) {
    config.file_env.clear();
    for (const std::string& path : config.env_files) {
        std::ifstream file(path);
        if (!file)
            return fail("usage",
                        fmt::format("cannot read --env-file {}: {}", path, std::strerror(errno)));
        std::stringstream content;
        content << file.rdbuf();
        auto parsed = parse_env_file(content.str());
        if (!parsed) return wrap(parsed.error(), path);
        config.file_env.insert(config.file_env.end(), parsed->begin(), parsed->end());
    }
    return {};
}

Result<Config> complete(Config config) {
    if (config.command.empty() || config.command.front().empty())
        return fail("usage", "no command to run: drover run -n 4 -- node server.js");
    if (config.name.empty()) config.name = name_from_command(config.command);
    if (auto checked = check_name(config.name); !checked) return tl::unexpected(checked.error());
    for (auto port = config.ports.begin(); port != config.ports.end(); ++port)
        if (std::find(config.ports.begin(), port, *port) != port)
            return fail("usage", fmt::format("--port {} is given twice", port->number));
    for (const auto* shared : {&config.ports, &config.listen})
        for (const Port& port : *shared)
            if (config.admin && config.admin->number == port.number)
                return fail("usage",
                            fmt::format("port {} is to be shared by the workers, so --admin needs "
                                        "another one",
                                        port.number));
    bool may_be_node = config.ipc == Ipc::automatic || config.ipc == Ipc::node;
    if (config.policy == Policy::shared && config.listen.empty() && !may_be_node)
        return fail("usage",
                    "--policy shared is one socket for all workers, which drover must make: give "
                    "--listen tcp://ADDR:PORT too");
    if (config.policy == Policy::shared && is_probed(config.ready))
        return fail("usage",
                    "--policy shared leaves the choice of the worker to chance, so --ready http: "
                    "and tcp cannot ask a given one");
    if (config.policy == Policy::shared && is_checked(config))
        return fail("usage",
                    "--policy shared leaves the choice of the worker to chance, so --health cannot "
                    "ask a given one");
    return config;
}

Duration stop_delay_of(const Config& config) {
    constexpr Duration kWithAgent{5'000};  // HAProxy asks every 2 s, unless it is told otherwise
    return config.stop_delay.value_or(config.agent ? kWithAgent : Duration(0));
}

bool is_http_path(std::string_view path) {
    bool printable = std::ranges::all_of(path, [](unsigned char c) { return c > 32 && c < 127; });
    return path.starts_with('/') && printable;
}

Result<PolicyChoice> parse_policy(std::string_view text) {
    if (text.ends_with(".o") || text.find('/') != std::string_view::npos)
        return PolicyChoice(Policy::custom, std::string(text));
    auto policy = choose(text, kPolicies);
    if (!policy) return fail("usage", policy.error().text + ", nor an object FILE.o");
    return PolicyChoice(*policy);
}

std::string name_of(const PolicyChoice& policy) {
    for (const auto& choice : kPolicies)
        if (choice.value == policy.kind) return std::string(choice.name);
    return std::filesystem::path(policy.file).filename();
}

std::optional<int> cpus_of_quota(const std::string& cpu_max) {
    std::istringstream fields(cpu_max);
    uint64_t quota = 0, period = 0;
    // "max 100000" where there is no limit, else "QUOTA PERIOD" in microseconds.
    if (!(fields >> quota >> period) || quota == 0 || period == 0) return std::nullopt;
    constexpr uint64_t kMostCpus = 1U << 20;
    return static_cast<int>(std::min((quota - 1) / period + 1, kMostCpus));
}

int usable_cpus() {
    int cpus = cpus_by_affinity();
    auto mount = Cgroup::mount_point();
    if (!mount) return std::max(cpus, 1);
    // A limit of any ancestor holds too. In a cgroup namespace the mount point itself can have one.
    std::filesystem::path below = Cgroup::own();
    for (;; below = below.parent_path()) {
        std::ifstream file(*mount + below.string() + "/cpu.max");
        std::string content;
        std::getline(file, content);
        if (auto quota = cpus_of_quota(content)) cpus = std::min(cpus, *quota);
        if (below == below.parent_path()) break;
    }
    return std::max(cpus, 1);
}

}  // namespace drover::supervisor
