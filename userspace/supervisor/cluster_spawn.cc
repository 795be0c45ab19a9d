// SPDX-License-Identifier: MIT
//
// The effects' first part: how a worker is put together, out of its environment, its sockets, its
// channel and its output, and started.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>

#include "supervisor/cluster_effects.h"
#include "worker/node_command.h"

namespace drover::supervisor {

namespace {

// --env wins over a file.
std::vector<std::string> given_environment(const Config& config) {
    std::vector<std::string> all = config.file_env;
    all.insert(all.end(), config.env.begin(), config.env.end());
    return all;
}

// Whether it is told where to report to (sd_notify).
bool is_notified(const Config& config) {
    return config.ready == Ready::notify || config.watchdog.count() > 0;
}

}  // namespace

worker::SpawnRequest ClusterEffects::helper_request() const {
    auto extra = given_environment(config_);
    extra.push_back(fmt::format("DROVER_NAME={}", config_.name));
    worker::SpawnRequest request;
    request.environment = worker::worker_environment(worker::own_environment(), identity_, extra);
    request.cwd = config_.cwd;
    request.identity = identity_;
    request.cgroup.late = enter_late_;
    return request;
}

Result<worker::SpawnRequest> ClusterEffects::request_for(const SpawnOrder& order) {
    const Config& config = *order.config;
    auto extra = given_environment(config);
    extra.push_back(fmt::format("DROVER_NAME={}", config.name));
    extra.push_back(fmt::format("DROVER_WORKER_ID={}", order.id));
    extra.push_back(fmt::format("DROVER_INSTANCE={}", order.instance));
    extra.push_back(fmt::format("DROVER_WORKERS={}", order.workers));
    extra.push_back(fmt::format("DROVER_GENERATION={}", order.generation));
    extra.push_back(fmt::format("NODE_APP_INSTANCE={}", order.instance));
    if (is_notified(config)) {
        if (auto opened = open_notify_socket(); !opened) return tl::unexpected(opened.error());
        extra.push_back(fmt::format("NOTIFY_SOCKET={}", notify_->address()));
    }
    if (config.watchdog.count() > 0)
        extra.push_back(fmt::format(
            "WATCHDOG_USEC={}",
            std::chrono::duration_cast<std::chrono::microseconds>(config.watchdog).count()));

    worker::SpawnRequest request;
    request.command = config.command;
    request.environment = worker::worker_environment(worker::own_environment(), identity_, extra);
    request.cwd = config.cwd;
    request.identity = identity_;
    request.umask = config.umask;
    request.nofile = config.nofile;
    request.soft_nofile = soft_nofile_;
    return request;
}

// The systemd protocol: from fd 3 on, in the order of the options. They listen already: connections
// wait for the worker to come up.
Result<void> ClusterEffects::add_listen_sockets(WorkerId id, worker::SpawnRequest& request,
                                                std::vector<Fd>& kept) {
    if (config_.listen.empty()) return {};
    std::string names;
    for (const Port& port : config_.listen) {
        auto at = steer::Endpoint::parse(port.address, port.number);
        if (!at) return tl::unexpected(at.error());
        int backlog = config_.backlog > 0 ? config_.backlog : SOMAXCONN;
        auto socket = is_common() ? sockets_->listening(id, *at, backlog)
                                  : steering_->make_worker_socket(static_cast<uint32_t>(id), *at,
                                                                  false, backlog);
        if (!socket) return tl::unexpected(socket.error());
        // As systemd gives them: a program that knows nothing of nonblocking sockets must do.
        ::fcntl(socket->get(), F_SETFL, ::fcntl(socket->get(), F_GETFL) & ~O_NONBLOCK);
        request.fds.emplace_back(socket->get(),
                                 worker::kFirstListenFd + static_cast<int>(kept.size()));
        names += fmt::format("{}{}", kept.empty() ? "" : ":", port.number);
        kept.push_back(std::move(*socket));
    }
    request.environment.push_back(fmt::format("LISTEN_FDS={}", kept.size()));
    request.environment.push_back(fmt::format("LISTEN_FDNAMES={}", names));
    request.environment.emplace_back(worker::kListenPid);
    return {};
}

Result<Spawned> ClusterEffects::spawn(const SpawnOrder& order) {
    WorkerId id = order.id;
    Process& process = processes_[id];
    process.config = order.config;
    process.instance = order.instance;
    auto undo = [this, id](Error error) {
        steering_->remove_worker(static_cast<uint32_t>(id));
        output_->remove_worker(id);
        channels_->close(id);
        auto& cgroup = processes_[id].cgroup;
        if (cgroup.fd() >= 0) (void)cgroup.remove();
        processes_.erase(id);
        return tl::unexpected<Error>(std::move(error));
    };
    auto request = request_for(order);
    if (!request) return undo(request.error());
    auto cgroup = Cgroup::create_anew(fmt::format("{}/w{}", cluster_.path(), id));
    if (!cgroup) return undo(cgroup.error());
    process.cgroup = std::move(*cgroup);
    auto slot = steering_->add_worker(static_cast<uint32_t>(id), order.instance, process.cgroup);
    if (!slot) return undo(slot.error());
    std::vector<Fd> sockets;
    if (auto added = add_listen_sockets(id, *request, sockets); !added) return undo(added.error());
    Ipc kind = order.config->ipc;
    // With passed sockets a Node program listens on an fd; as a cluster worker it would ask its
    // primary for that fd, whose files are not the worker's.
    if (kind == Ipc::automatic)
        kind = config_.listen.empty() && worker::is_node(*request) ? Ipc::node : Ipc::pipe;
    int first = worker::kFirstListenFd + static_cast<int>(sockets.size());
    auto channel = channels_->open(id, kind, order.instance, order.workers, first);
    if (!channel) return undo(channel.error());
    request->fds.insert(request->fds.end(), channel->fds.begin(), channel->fds.end());
    request->environment.insert(request->environment.end(), channel->environment.begin(),
                                channel->environment.end());
    auto pipes = output_->add_worker(id, order.instance);
    if (!pipes) return undo(pipes.error());
    process.is_node = kind == Ipc::node;
    request->cgroup = {process.cgroup.fd(), enter_late_};
    request->stdout_fd = pipes->out.get();
    request->stderr_fd = pipes->err.get();
    auto spawned = worker::spawn(*request);
    if (!spawned) return undo(spawned.error());
    channels_->started(id);

    process.request = std::move(*request);
    process.pid = spawned->pid;
    process.started = start_of_process(spawned->pid);
    process.slot = *slot;
    process.channel_fd = channel->fds.empty() ? -1 : first;
    process.pidfd = std::move(spawned->pidfd);
    process.exec_status = std::move(spawned->exec_status);
    process.on_exec_status = loop_.on_io(process.exec_status.get(), EPOLLIN,
                                         [this, id](uint32_t) { on_exec_status(id); });
    process.on_end =
        loop_.on_io(process.pidfd.get(), EPOLLIN, [this, id](uint32_t) { on_end(id); });
    return Spawned{process.pid, *slot};
}

}  // namespace drover::supervisor
