// SPDX-License-Identifier: MIT
//
// The effects themselves, one short function each, and what steering and channels tell. Long for
// their number; what stands by itself is elsewhere: starting a worker (cluster_spawn.cc), taking
// over (cluster_take_over.cc), looking at workers (cluster_looks.cc).
#include "supervisor/cluster_effects.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <cerrno>
#include <csignal>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/journal.h"
#include "base/log.h"
#include "base/sys.h"
#include "worker/node_command.h"

namespace drover::supervisor {

namespace {

const Error kEnded{"ended", "the worker has ended", 0};

constexpr std::chrono::milliseconds kNodeLeaves{500};  // a Node worker, when it is drained
constexpr std::chrono::milliseconds kEmptyLook{10};    // between two looks at an emptying cgroup
constexpr std::chrono::milliseconds kUsageAge{200};    // of what the cgroups said, at most

drover_policy abi_policy(Policy policy) {
    switch (policy) {
        case Policy::hash:
            return DROVER_POLICY_HASH;
        case Policy::round_robin:
            return DROVER_POLICY_ROUND_ROBIN;
        case Policy::least_conn:
            return DROVER_POLICY_LEAST_CONN;
        case Policy::source:
            return DROVER_POLICY_SOURCE;
        case Policy::custom:
            return DROVER_POLICY_CUSTOM;
        case Policy::least_busy:
        case Policy::shared:  // what a worker binds by itself is steered all the same
            break;
    }
    return DROVER_POLICY_LEAST_BUSY;
}

Decisions decisions_of(const steer::ReasonCounts& reasons) {
    return {reasons[DROVER_PICKED],  reasons[DROVER_FALLBACK], reasons[DROVER_KEEPER],
            reasons[DROVER_DROPPED], reasons[DROVER_MOVED],    reasons[DROVER_STRAY],
            reasons[DROVER_PINNED]};
}

ListeningData listening_data(const steer::Endpoint& at) {
    return {"tcp", at.address(), at.port()};
}

std::vector<steer::LivingWorker> living_of(const SavedState& saved, const std::string& cluster) {
    std::map<int, int> weights;
    for (const SavedInstance& instance : saved.instances)
        weights[instance.instance] = instance.weight;
    std::vector<steer::LivingWorker> living;
    for (const SavedWorker& worker : saved.workers)
        living.push_back(
            {static_cast<uint32_t>(worker.id), worker.slot, worker.instance,
             fmt::format("{}/w{}", cluster, worker.id),
             worker.is_ready && !worker.is_held && !worker.is_leaving && !worker.is_out,
             static_cast<uint32_t>(std::max(1, weights[worker.instance])), worker.is_stalled});
    return living;
}

// Room for the fds of 256 workers: raises the soft limit of open files to the hard one. Returns the
// former soft limit, which is the workers'.
std::optional<uint64_t> raise_fd_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return std::nullopt;
    rlimit raised{limit.rlim_max, limit.rlim_max};
    (void)::setrlimit(RLIMIT_NOFILE, &raised);
    return limit.rlim_cur;
}

}  // namespace

ClusterEffects::ClusterEffects(const Config& config, const Paths& paths, EventLoop& loop)
    : config_(config), paths_(paths), loop_(loop) {}

ClusterEffects::~ClusterEffects() = default;

Result<std::unique_ptr<ClusterEffects>> ClusterEffects::open(const Config& config,
                                                             const Paths& paths, EventLoop& loop,
                                                             SavedState* saved,
                                                             std::vector<Fd> keepers) {
    std::unique_ptr<ClusterEffects> self(new ClusterEffects(config, paths, loop));
    auto opened = self->open_parts(saved, std::move(keepers));
    if (opened) return self;
    // What lives on is left to a later master.
    if (saved == nullptr) self->undo_open();
    return tl::unexpected(opened.error());
}

void ClusterEffects::undo_open() {
    if (steering_) steering_->close();
    if (auto cluster = Cgroup::open(paths_.cgroup(config_.name))) (void)cluster->remove();
    (void)::rmdir(paths_.cgroup_root.c_str());
    (void)::rmdir(paths_.bpffs_root.c_str());
}

Result<void> ClusterEffects::open_parts(SavedState* saved, std::vector<Fd> keepers) {
    soft_nofile_ = raise_fd_limit();
    auto identity = worker::find_identity(config_.user, config_.group);
    if (!identity) return tl::unexpected(identity.error());
    identity_ = std::move(*identity);

    if (config_.policy == Policy::shared && config_.listen.empty() && config_.ipc != Ipc::node) {
        auto request = request_for({0, 0, 0, 0, std::make_shared<const Config>(config_)});
        if (!request) return tl::unexpected(request.error());
        if (!worker::is_node(*request))
            return fail("usage",
                        "--policy shared is one socket for all workers, which drover must make: "
                        "give --listen tcp://ADDR:PORT too (the command is no Node program)");
    }

    auto create = saved != nullptr ? Cgroup::create : Cgroup::create_anew;
    auto cluster = create(paths_.cgroup(config_.name));
    if (!cluster) return tl::unexpected(cluster.error());
    cluster_ = std::move(*cluster);
    auto logger = create(cluster_.path() + "/logger");
    if (!logger) return tl::unexpected(logger.error());
    logger_cgroup_ = std::move(*logger);

    enter_late_ = sys::must_enter_late(logger_cgroup_.fd());

    steer::Options options;
    options.cluster = config_.name;
    options.policy = abi_policy(config_.policy.kind);
    options.policy_file = config_.policy.file;
    options.source_prefix_v4 = static_cast<uint32_t>(config_.source_prefix.v4);
    options.source_prefix_v6 = static_cast<uint32_t>(config_.source_prefix.v6);
    options.slow_start = config_.slow_start;
    options.stall_after = config_.stall_after;
    for (const Port& port : config_.ports) options.ports.push_back({port.number, port.address});
    // A common socket is in no group, so it can have no keeper, and needs none.
    bool common = config_.policy == Policy::shared;
    for (const Port& port : config_.listen)
        options.ports.push_back({port.number, common ? "" : port.address});
    if (common)
        for (steer::NamedPort& port : options.ports) port.address.clear();
    options.uid = identity_ ? identity_->uid : 0;
    options.backlog = config_.backlog;
    options.enter_late = enter_late_;
    if (saved != nullptr) {
        drop_dead(*saved);
        options.take_over = true;
        options.living = living_of(*saved, cluster_.path());
        options.keepers = std::move(keepers);
    }
    auto steering = steer::Steering::open(std::move(options), paths_, cluster_, loop_, *this);
    if (!steering) return tl::unexpected(steering.error());
    steering_ = std::move(*steering);
    // Where it cannot be, files tell the same; `drover doctor` says why.
    if (auto reader = steer::UsageReader::open(cluster_)) usage_reader_ = std::move(*reader);

    output_ = std::make_unique<worker::Output>(
        loop_, config_.name, sys::CgroupEntry{logger_cgroup_.fd(), enter_late_}, logger_settings());
    auto started = output_->start([](const std::string& text) { log::warn(text); });
    if (!started) return started;
    SharedSockets::Makers makers;
    auto* steering_of = steering_.get();
    makers.socket = [steering_of](WorkerId id, const steer::Endpoint& at, bool v6only) {
        return steering_of->make_worker_socket(static_cast<uint32_t>(id), at, v6only, -1);
    };
    makers.free_port = [steering_of](const steer::Endpoint& at, bool v6only) {
        return steering_of->free_port(at, v6only);
    };
    if (common)
        makers.common = [steering_of](WorkerId id, const steer::Endpoint& at, bool v6only,
                                      int backlog) {
            return steering_of->make_shared_socket(static_cast<uint32_t>(id), at, v6only, backlog);
        };
    sockets_ = std::make_unique<SharedSockets>(std::move(makers));
    channels_ = std::make_unique<Channels>(loop_, *sockets_);
    if (common) channels_->tell_tcp();
    if (saved == nullptr) return {};
    if (!saved->notify_address.empty())
        if (auto opened = open_notify_socket(saved->notify_address); !opened)
            log::warn(opened.error().text);
    std::map<int, std::shared_ptr<const Config>> configs;
    for (const auto& [generation, release] : saved->releases)
        configs[generation] = std::make_shared<const Config>(release);
    for (const SavedInstance& instance : saved->instances)
        former_[instance.instance] = instance.former;
    for (const SavedWorker& worker : saved->workers)
        if (auto adopted = adopt(worker, configs.at(worker.generation)); !adopted) return adopted;
    return {};
}

Result<void> ClusterEffects::open_notify_socket(const std::string& at) {
    if (notify_) return {};
    auto address = at.empty() ? worker::NotifySocket::make_address(config_.name) : at;
    if (!address) return tl::unexpected(address.error());
    // ".../drover/web/w7" or a cgroup below it; what stands before differs with the namespace.
    std::string before = "/" + config_.name + "/w";
    auto find = [this, before](const std::string& path) -> std::optional<uint64_t> {
        auto at = path.rfind(before);
        if (at == std::string::npos ||
            !cluster_.path().ends_with(path.substr(0, at) + "/" + config_.name))
            return std::nullopt;
        uint64_t id = std::strtoull(path.c_str() + at + before.size(), nullptr, 10);
        return processes_.contains(id) ? std::optional(id) : std::nullopt;
    };
    auto socket = worker::NotifySocket::open(loop_, *address, find, *this);
    if (!socket) return tl::unexpected(socket.error());
    notify_ = std::move(*socket);
    return {};
}

// The journal keeps what it gets, so a file besides it is only for those who ask for one.
std::string ClusterEffects::logger_settings() {
    bool has_journal = is_journal(STDOUT_FILENO) || is_journal(STDERR_FILENO);
    std::string file = config_.log_file;
    if (file == "none" || (file.empty() && has_journal))
        file.clear();
    else if (file.empty())
        file = paths_.log_file(config_.name);
    log_ = !file.empty() ? file : has_journal ? "journal" : "";
    nlohmann::json settings = {{"size", config_.log_size}, {"keep", config_.log_keep}};
    if (!file.empty()) settings["file"] = file;
    if (config_.log_rate)
        settings["rate"] = {{"lines", config_.log_rate->lines},
                            {"ms", config_.log_rate->within.count()}};
    return settings.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

bool ClusterEffects::keep_log(log::Level level, std::string_view text) {
    auto name = level == log::Level::info      ? "info"
                : level == log::Level::warning ? "warning"
                                               : "error";
    return output_->keep(name, text) && is_journal(STDERR_FILENO);
}

void ClusterEffects::close(std::function<void()> done) {
    for (auto& [id, process] : processes_) drop_looks(process, kEnded);  // before the maps are gone
    steering_->close();
    constexpr std::chrono::milliseconds kReadTheRest{2000};
    output_->finish(kReadTheRest,
                    [this, done = std::move(done)] { remove_cgroups(/*looks=*/1, done); });
}

// Nothing of ours should be left; what is (a logger that hung, what a controller had started) ends
// here. What is killed takes a moment to go, and as long its cgroup cannot be removed.
void ClusterEffects::remove_cgroups(int looks, const std::function<void()>& done) {
    constexpr int kMaxLooks = 200;
    if (cluster_.is_populated()) cluster_.kill();
    auto removed = cluster_.remove();
    if (!removed && looks < kMaxLooks) {
        on_cluster_empty_ =
            loop_.after(kEmptyLook, [this, looks, done] { remove_cgroups(looks + 1, done); });
        return;
    }
    if (!removed) log::warn(removed.error().text);
    (void)::rmdir(paths_.cgroup_root.c_str());  // when this was the last cluster
    (void)::rmdir(paths_.bpffs_root.c_str());
    done();
}

void ClusterEffects::on_exec_status(WorkerId id) {
    auto found = processes_.find(id);
    if (found == processes_.end()) return;
    Process& process = found->second;
    if (!process.exec_status.is_open()) return;
    // A socket of --listen listens before the program runs: then there is nothing to read yet, and
    // reading would wait for the exec.
    pollfd status{process.exec_status.get(), POLLIN, 0};
    if (::poll(&status, 1, 0) == 0) return;
    process.on_exec_status.reset();
    auto failure = worker::read_exec_failure(process.exec_status.get(), process.request);
    process.exec_status.reset();
    if (failure) return observer_->on_exec_failed(id, *failure);
    observer_->on_exec(id);
    if (!is_common()) return;
    for (const Port& port : config_.listen)
        observer_->on_listening(id, {"tcp", port.address, port.number}, false);
}

// What the worker did before it ended is told before its end.
void ClusterEffects::on_end(WorkerId id) {
    auto found = processes_.find(id);
    if (found == processes_.end()) return;
    // Without a pidfd it had gone before it could be taken over.
    auto ended = found->second.pidfd.is_open() ? worker::reap(found->second.pidfd.get())
                                               : std::optional(worker::Ended{});
    if (!ended) return;
    found->second.on_end.reset();
    on_exec_status(id);
    steering_->serve_events();
    drop_looks(found->second, kEnded);
    channels_->close(id);
    Exit exit;
    exit.code = ended->code;
    if (ended->signal) exit.signal = signal_name(*ended->signal);
    observer_->on_exit(id, exit);
}

void ClusterEffects::activate(WorkerId id) {
    steering_->activate(static_cast<uint32_t>(id));
}

void ClusterEffects::deactivate(WorkerId id) {
    steering_->deactivate(static_cast<uint32_t>(id));
}

// With one socket for all nobody knows a worker's connections but itself. A Node worker closes its
// channel when it has finished them; every other one must do so at its stop signal.
bool ClusterEffects::is_drained(WorkerId id) {
    if (is_common()) return !channels_->is_node_connected(id);
    bool drained = steering_->is_drained(static_cast<uint32_t>(id));
    auto found = processes_.find(id);
    if (!drained || found == processes_.end() || !found->second.is_node) return drained;
    // A Node worker that was told to disconnect ends by itself when nothing keeps it, and has its
    // 'exit' handlers run. Most do so at once.
    auto now = std::chrono::steady_clock::now();
    if (!found->second.idle_since) found->second.idle_since = now;
    return now - *found->second.idle_since >= kNodeLeaves;
}

Result<void> ClusterEffects::signal(WorkerId id, int number) {
    auto found = processes_.find(id);
    if (found == processes_.end()) return fail("no-such-worker", fmt::format("no worker {}", id));
    if (sys::pidfd_send_signal(found->second.pidfd.get(), number) != 0 && errno != ESRCH)
        return fail_errno(errno, fmt::format("send {} to worker {} (pid {})", signal_name(number),
                                             id, found->second.pid));
    return {};
}

Result<void> ClusterEffects::send(WorkerId id, const std::string& data, WorkerId from) {
    return channels_->send(id, data, from);
}

void ClusterEffects::ask_to_finish(WorkerId id, std::chrono::milliseconds deadline) {
    channels_->ask_to_finish(id, deadline);
}

void ClusterEffects::rescue(WorkerId id) {
    steering_->rescue(static_cast<uint32_t>(id), [this, id](const Result<uint64_t>& moved) {
        observer_->on_rescued(id, moved);
    });
}

void ClusterEffects::set_weight(WorkerId id, int weight) {
    steering_->set_weight(static_cast<uint32_t>(id), static_cast<uint32_t>(weight));
}

void ClusterEffects::kill(WorkerId id) {
    auto found = processes_.find(id);
    if (found != processes_.end()) found->second.cgroup.kill();
}

void ClusterEffects::last_lines(WorkerId id, LastLines tell) {
    output_->last_lines(id, std::move(tell));
}

void ClusterEffects::release(WorkerId id) {
    auto found = processes_.find(id);
    if (found == processes_.end() || found->second.leaving) return;
    found->second.leaving = true;
    leaving_++;
    // What its main process left running gets the same signal, and time to act on it.
    for (int pid : found->second.cgroup.pids()) ::kill(pid, found->second.config->stop_signal);
    // Not at once: the supervisor is in the middle of a transition.
    found->second.on_empty = loop_.soon([this, id] { look_whether_empty(id); });
}

void ClusterEffects::look_whether_empty(WorkerId id) {
    auto found = processes_.find(id);
    if (found == processes_.end()) return;
    Process& process = found->second;
    bool is_empty = !process.cgroup.is_populated();
    uint64_t cpu_ms = is_empty ? process.cgroup.cpu_microseconds() / 1000 : 0;
    bool gone = is_empty && process.cgroup.remove().has_value();
    if (!gone) {
        if (++process.empty_looks * kEmptyLook > process.config->stop_timeout)
            process.cgroup.kill();
        process.on_empty = loop_.after(kEmptyLook, [this, id] { look_whether_empty(id); });
        return;
    }
    FormerWorkers& former = former_[process.instance];
    former.accepted_total += steering_->accepted_total(static_cast<uint32_t>(id));
    former.cpu_ms_total += cpu_ms;
    steering_->remove_worker(static_cast<uint32_t>(id));
    output_->remove_worker(id);
    processes_.erase(found);
    leaving_--;
    observer_->on_released();
}

void ClusterEffects::refuse_connections() {
    steering_->refuse_when_idle();
    sockets_->close_common();
}

Result<void> ClusterEffects::set_policy(const PolicyChoice& policy) {
    return steering_->set_policy(abi_policy(policy.kind), policy.file);
}

// No more often than makes a difference to anybody, however often and by however many the status is
// asked for. Of all workers at once; of one that is not there (or where this kernel does not tell
// it so) by its cgroup's files, at several system calls each.
void ClusterEffects::look_at_usage() {
    auto now = std::chrono::steady_clock::now();
    bool is_due = now - usage_looked_at_ >= kUsageAge;
    if (is_due) usage_looked_at_ = now;
    auto is_wanted = [is_due](const Process& process) { return is_due || !process.usage; };
    bool any_wanted =
        std::ranges::any_of(processes_, [&](const auto& entry) { return is_wanted(entry.second); });
    std::map<uint64_t, steer::Usage> all;
    if (usage_reader_ && any_wanted) all = usage_reader_->read();
    for (auto& [id, process] : processes_) {
        const Cgroup& cgroup = process.cgroup;
        if (auto found = all.find(cgroup.id()); found != all.end())
            process.usage = found->second;
        else if (is_wanted(process))
            process.usage = steer::Usage{cgroup.cpu_microseconds(), cgroup.memory_bytes()};
    }
}

Numbers ClusterEffects::numbers() {
    Numbers numbers;
    steer::Snapshot snapshot = steering_->snapshot();
    for (const auto& [worker, counts] : snapshot.workers) {
        WorkerNumbers& out = numbers.workers[worker];
        if (is_common()) continue;
        out.live = static_cast<uint64_t>(counts.live);
        out.queued = counts.queued;
        out.accepted_total = counts.accepted_total;
    }
    look_at_usage();
    for (const auto& [id, process] : processes_) {
        WorkerNumbers& out = numbers.workers[id];
        out.cpu_ms_total = process.usage->cpu_microseconds / 1000;
        out.memory_bytes = process.usage->memory_bytes;
        out.log_dropped_total = output_->dropped_lines(id);
    }
    for (const auto& group : snapshot.groups)
        numbers.groups.push_back({group.endpoint.address(),
                                  group.endpoint.port(),
                                  group.v6only,
                                  {group.active.begin(), group.active.end()},
                                  group.parked,
                                  decisions_of(group.reasons)});
    for (const auto& socket : sockets_->common()) {
        GroupNumbers out{socket.at.address(), socket.at.port(), socket.v6only, {}, socket.queued};
        for (const auto& [id, process] : processes_)
            if (steering_->is_active(static_cast<uint32_t>(id))) out.active.push_back(id);
        numbers.groups.push_back(std::move(out));
    }
    numbers.former = former_;
    numbers.decisions = decisions_of(snapshot.totals.reasons);
    numbers.corrections_total = snapshot.totals.corrections;
    numbers.moved_total = snapshot.totals.moved;
    numbers.log = log_;
    return numbers;
}

void ClusterEffects::on_listening(uint32_t worker, const steer::Endpoint& at, bool extra) {
    on_exec_status(worker);  // it runs, or it could not listen; say that first
    observer_->on_listening(worker, listening_data(at), extra);
}

void ClusterEffects::on_listener_closed(uint32_t worker, const steer::Endpoint& at) {
    observer_->on_listener_closed(worker, listening_data(at));
}

void ClusterEffects::on_conflict(uint32_t worker, const steer::Conflict& conflict) {
    on_exec_status(worker);
    observer_->on_conflict(
        worker, {conflict.port, conflict.pid, conflict.command, conflict.text, conflict.may_pass});
}

void ClusterEffects::on_denied(uint32_t worker, int option) {
    observer_->on_trouble(
        worker,
        {"denied", fmt::format("worker {} tried to change the port's steering (socket option "
                               "{}) and was refused",
                               worker, option)});
}

void ClusterEffects::on_stalled(uint32_t worker, uint64_t queued) {
    observer_->on_stalled(worker, queued);
}

void ClusterEffects::on_recovered(uint32_t worker) {
    observer_->on_recovered(worker);
}

void ClusterEffects::on_notify_ready(uint64_t worker) {
    on_exec_status(worker);
    observer_->on_ready_message(worker);
}

void ClusterEffects::on_notify_stopping(uint64_t worker) {
    observer_->on_stopping(worker);
}

void ClusterEffects::on_notify_status(uint64_t worker, const std::string& text) {
    observer_->on_status_text(worker, text);
}

void ClusterEffects::on_notify_watchdog(uint64_t worker) {
    observer_->on_alive(worker);
}

void ClusterEffects::on_notify_watchdog_interval(uint64_t worker,
                                                 std::chrono::microseconds interval) {
    observer_->on_watchdog_interval(worker, std::chrono::ceil<std::chrono::milliseconds>(interval));
}

void ClusterEffects::on_trouble(const std::string& text) {
    if (observer_ != nullptr) return observer_->on_trouble(0, {"steering", text});
    log::warn(text);
}

}  // namespace drover::supervisor
