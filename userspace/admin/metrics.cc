// SPDX-License-Identifier: MIT
#include "admin/metrics.h"

#include <fmt/format.h>

#include <map>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "admin/schema.h"

namespace drover::admin {

using namespace supervisor;

namespace {

using Labels = std::vector<std::pair<std::string_view, std::string>>;

// Within quotes. A policy's file name may have any bytes in it; the format is UTF-8.
std::string escape(const std::string& value) {
    std::string valid = Json::parse(to_line(Json(value))).get<std::string>();
    std::string out;
    for (char c : valid) {
        if (c == '\\' || c == '"') out += '\\';
        if (c == '\n')
            out += "\\n";
        else
            out += c;
    }
    return out;
}

// The page as it grows: a family's head, then its samples.
class Page {
  public:
    void gauge(std::string_view name, std::string_view help) { begin(name, "gauge", help); }
    void counter(std::string_view name, std::string_view help) { begin(name, "counter", help); }

    template <class Number>
    void sample(const Labels& labels, Number value) {
        text_ += name_;
        char before = '{';
        for (const auto& [label, content] : labels) {
            text_ += fmt::format("{}{}=\"{}\"", before, label, escape(content));
            before = ',';
        }
        text_ += fmt::format("{}{}\n", labels.empty() ? " " : "} ", value);
    }

    [[nodiscard]] std::string&& take() { return std::move(text_); }

  private:
    void begin(std::string_view name, std::string_view type, std::string_view help) {
        name_ = name;
        text_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
    }
    std::string text_, name_;
};

// What is told of an instance: its workers' numbers, added up.
struct InstanceNumbers {
    bool is_ready = false, is_stalled = false;
    std::optional<uint64_t> live, queued, accepted_total;
    uint64_t restarts_total = 0, cpu_ms_total = 0, memory_bytes = 0;
    int weight = 1;
    std::optional<double> load;
};

void add(std::optional<uint64_t>& sum, const std::optional<uint64_t>& more) {
    if (more) sum = sum.value_or(0) + *more;
}

bool has_flag(const WorkerStatus& worker, std::string_view wanted) {
    for (const std::string& flag : worker.flags)
        if (flag == wanted) return true;
    return false;
}

std::map<int, InstanceNumbers> by_instance(const Status& status) {
    std::map<int, InstanceNumbers> instances;
    for (const WorkerStatus& worker : status.workers) {  // the older ones first
        InstanceNumbers& sum = instances[worker.instance];
        sum.is_ready = sum.is_ready || worker.state == State::ready;
        sum.is_stalled = sum.is_stalled || has_flag(worker, "stalled");
        add(sum.live, worker.live);
        add(sum.queued, worker.queued);
        add(sum.accepted_total, worker.accepted_total);
        sum.restarts_total = worker.restarts_total;
        sum.cpu_ms_total += worker.cpu_ms_total;
        sum.memory_bytes += worker.memory_bytes;
        sum.weight = worker.weight;
        if (worker.load) sum.load = worker.load;
    }
    for (auto& [instance, sum] : instances) {
        auto former = status.former.find(instance);
        if (former == status.former.end()) continue;
        if (sum.accepted_total) *sum.accepted_total += former->second.accepted_total;
        sum.cpu_ms_total += former->second.cpu_ms_total;
    }
    return instances;
}

constexpr double kMsPerSecond = 1000;

void tell_cluster(Page& page, const Status& status) {
    const std::string& cluster = status.cluster;
    page.gauge("drover_info", "Version of drover and the policy in force; always 1.");
    page.sample({{"cluster", cluster}, {"version", status.version}, {"policy", status.policy}}, 1);
    page.gauge("drover_state", "1 for the state that the cluster is in.");
    for (std::string state : {"running", "degraded", "stopping"})
        page.sample({{"cluster", cluster}, {"state", state}}, status.state == state ? 1 : 0);
    page.gauge("drover_generation", "Number of the reload whose release serves.");
    page.sample({{"cluster", cluster}}, status.generation);
    page.gauge("drover_workers_wanted", "How many workers the cluster is to have.");
    page.sample({{"cluster", cluster}}, status.wanted);
    page.gauge("drover_workers_ready", "How many of these are ready.");
    page.sample({{"cluster", cluster}}, status.ready);

    constexpr State kStates[] = {State::starting, State::online,  State::listening, State::ready,
                                 State::draining, State::stopped, State::backoff,   State::failed};
    std::map<State, int> count;
    for (const WorkerStatus& worker : status.workers) count[worker.state]++;
    page.gauge("drover_workers", "Workers by state; also those that are on their way in or out.");
    for (State state : kStates)
        page.sample({{"cluster", cluster}, {"state", name_of(state)}}, count[state]);

    page.counter("drover_corrections_total",
                 "Differences between drover's counts and the kernel's that were put right.");
    page.sample({{"cluster", cluster}}, status.corrections_total);
    page.counter("drover_moved_total", "Waiting connections that went over to another worker.");
    page.sample({{"cluster", cluster}}, status.moved_total);
}

std::string name_of_group(const GroupStatus& group) {
    bool is_v6 = group.addr.find(':') != std::string::npos;
    return fmt::format("{} {}{}{}:{}", group.proto, is_v6 ? "[" : "", group.addr, is_v6 ? "]" : "",
                       group.port);
}

void tell_groups(Page& page, const Status& status) {
    const std::string& cluster = status.cluster;
    page.gauge("drover_group_active", "Workers that may get connections at the address and port.");
    for (const GroupStatus& group : status.groups)
        page.sample({{"cluster", cluster}, {"group", name_of_group(group)}}, group.active.size());
    page.gauge("drover_group_parked", "Connections that wait there until a worker is ready.");
    for (const GroupStatus& group : status.groups)
        page.sample({{"cluster", cluster}, {"group", name_of_group(group)}}, group.parked);
    page.counter("drover_decisions_total", "Runs of the steering program by what became of them.");
    for (const GroupStatus& group : status.groups) {
        const Decisions& made = group.decisions;
        const std::pair<const char*, uint64_t> reasons[] = {
            {"picked", made.picked},   {"fallback", made.fallback}, {"keeper", made.keeper},
            {"dropped", made.dropped}, {"moved", made.moved},       {"stray", made.stray},
            {"pinned", made.pinned}};
        for (const auto& [reason, number] : reasons)
            page.sample({{"cluster", cluster}, {"group", name_of_group(group)}, {"reason", reason}},
                        number);
    }
}

void tell_workers(Page& page, const Status& status) {
    auto instances = by_instance(status);
    auto each = [&](auto value_of) {
        for (const auto& [instance, numbers] : instances)
            if (std::optional value = value_of(numbers))
                page.sample({{"cluster", status.cluster}, {"instance", std::to_string(instance)}},
                            *value);
    };
    using Of = const InstanceNumbers&;
    page.gauge("drover_worker_ready", "Whether the instance has a worker that is ready.");
    each([](Of of) { return std::optional(of.is_ready ? 1 : 0); });
    page.gauge("drover_worker_stalled", "Whether connections wait for it and it takes none.");
    each([](Of of) { return std::optional(of.is_stalled ? 1 : 0); });
    page.gauge("drover_worker_live", "Connections that it has, those that wait for it included.");
    each([](Of of) { return of.live; });
    page.gauge("drover_worker_queued", "Connections that wait for it to take them.");
    each([](Of of) { return of.queued; });
    page.counter("drover_worker_accepted_total", "Connections that it has taken.");
    each([](Of of) { return of.accepted_total; });
    page.counter("drover_worker_restarts_total", "Times that its worker ended and was replaced.");
    each([](Of of) { return std::optional(of.restarts_total); });
    page.gauge("drover_worker_weight", "Its share of new connections against the others'.");
    each([](Of of) { return std::optional(of.weight); });
    page.gauge("drover_worker_load", "The load that it last reported by itself.");
    each([](Of of) { return of.load; });
    page.counter("drover_worker_cpu_seconds_total", "CPU time of its processes in seconds.");
    each([](Of of) { return std::optional(static_cast<double>(of.cpu_ms_total) / kMsPerSecond); });
    page.gauge("drover_worker_memory_bytes", "Memory of its processes in bytes.");
    each([](Of of) { return std::optional(of.memory_bytes); });
}

void tell_events(Page& page, const std::string& cluster, const Tally& tally) {
    page.counter("drover_exits_total", "Workers that ended, by why.");
    for (size_t reason = 0; reason < tally.exits.size(); reason++)
        page.sample({{"cluster", cluster}, {"reason", name_of(static_cast<ExitReason>(reason))}},
                    tally.exits[reason]);
    page.counter("drover_events_total", "Events by kind, as \"drover events\" shows them.");
    for (size_t kind = 0; kind < tally.events.size(); kind++)
        page.sample({{"cluster", cluster}, {"event", name_of(static_cast<EventKind>(kind))}},
                    tally.events[kind]);
}

void tell_process(Page& page, const OwnProcess& process) {
    page.gauge("process_resident_memory_bytes", "Resident memory of the master in bytes.");
    page.sample({}, process.resident_bytes);
    page.counter("process_cpu_seconds_total", "CPU time of the master in seconds.");
    page.sample({}, process.cpu_seconds);
    page.gauge("process_open_fds", "Open file descriptors of the master.");
    page.sample({}, process.open_fds);
    page.gauge("process_start_time_seconds",
               "When the master's program began, by an upgrade too, in seconds since 1970.");
    page.sample({}, fmt::format("{:.3f}", process.started_at));
}

}  // namespace

std::string to_metrics(const Status& status, const Tally& tally, const OwnProcess& process) {
    Page page;
    tell_cluster(page, status);
    tell_groups(page, status);
    tell_workers(page, status);
    tell_events(page, status.cluster, tally);
    tell_process(page, process);
    return page.take();
}

}  // namespace drover::admin
