// SPDX-License-Identifier: MIT
#include "admin/server.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "admin/schema.h"
#include "base/log.h"

namespace drover::admin {

namespace {

// Enough for people and scripts; a leak in one of them must not eat up the master's fds.
constexpr size_t kMaxClients = 128;
constexpr int kBacklog = 64;
constexpr auto kAcceptPause = std::chrono::seconds(1);

// Removes a socket that a former master left. Whatever else is there is not ours to remove.
Result<void> remove_stale(const std::string& path) {
    struct stat info {};
    if (::lstat(path.c_str(), &info) != 0) {
        if (errno == ENOENT) return {};
        return fail_errno(errno, fmt::format("look at {}", path));
    }
    if (!S_ISSOCK(info.st_mode))
        return fail("system", fmt::format("{} is in the way: it is not a socket", path));
    if (::unlink(path.c_str()) != 0) return fail_errno(errno, fmt::format("remove {}", path));
    return {};
}

Result<Fd> bind_socket(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path))
        return fail("system", fmt::format("the path {} is too long for a socket: at most {} bytes",
                                          path, sizeof(address.sun_path) - 1));
    std::memcpy(address.sun_path, path.data(), path.size());

    Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket.is_open()) return fail_errno(errno, "create the control socket");
    // Before bind, which takes the file's mode from the socket's: there is no moment in which
    // others could connect, and the process's umask stays untouched.
    if (::fchmod(socket.get(), 0600) != 0)
        return fail_errno(errno, "set the mode of the control socket");
    if (auto removed = remove_stale(path); !removed) return tl::unexpected(removed.error());
    if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
        return fail_errno(errno, fmt::format("bind the control socket {}", path));
    if (::listen(socket.get(), kBacklog) != 0)
        return fail_errno(errno, fmt::format("listen at {}", path));
    return socket;
}

bool is_allowed(int socket) {
    ucred peer{};
    socklen_t size = sizeof(peer);
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
    return peer.uid == 0 || peer.uid == ::geteuid();
}

}  // namespace

ControlServer::ControlServer(EventLoop& loop, std::string path, std::string cluster,
                             Commands& commands)
    : loop_(loop), path_(std::move(path)), cluster_(std::move(cluster)), commands_(commands) {}

Result<std::unique_ptr<ControlServer>> ControlServer::open(EventLoop& loop, const std::string& path,
                                                           std::string cluster,
                                                           Commands& commands) {
    auto socket = bind_socket(path);
    if (!socket) return tl::unexpected(socket.error());
    std::unique_ptr<ControlServer> server(
        new ControlServer(loop, path, std::move(cluster), commands));
    server->listener_ = std::move(*socket);
    server->listen();
    return server;
}

ControlServer::~ControlServer() {
    if (listener_.is_open()) ::unlink(path_.c_str());
    // Each close takes its client out of the map.
    while (!clients_.empty()) {
        auto connection = clients_.begin()->second.connection;
        connection->close();
    }
}

void ControlServer::publish(const supervisor::Event& event) {
    std::string line;
    for (auto it = clients_.begin(); it != clients_.end();) {
        Client& client = (it++)->second;  // to send may drop the client
        if (!client.follows_from || event.seq < *client.follows_from) continue;
        client.follows_from = event.seq + 1;
        if (line.empty()) line = to_line(to_json(event, cluster_));
        auto connection = client.connection;
        connection->send(line);
    }
}

void ControlServer::listen() {
    source_ = loop_.on_io(listener_.get(), EPOLLIN, [this](uint32_t) { accept_all(); });
}

void ControlServer::accept_all() {
    for (;;) {
        Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (socket.is_open()) {
            welcome(std::move(socket));
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED) continue;
        if (errno == EAGAIN) return;
        // Out of fds or memory: the waiting client keeps the listener ready, and to try again at
        // once would take all of the CPU.
        log::warn(fmt::format("accept on the control socket: {}; once more in a second",
                              std::strerror(errno)));
        source_ = loop_.after(kAcceptPause, [this] { listen(); });
        return;
    }
}

void ControlServer::welcome(Fd&& socket) {
    bool allowed = is_allowed(socket.get());
    bool has_room = clients_.size() < kMaxClients;
    uint64_t id = ++last_client_;
    Connection::Handlers handlers;
    handlers.on_line = [this, id](std::string_view line) { serve(id, line); };
    handlers.on_oversized = [this, id] {
        auto connection = clients_.at(id).connection;
        connection->send(
            to_line(reply_error({}, {"bad-request", "a request is at most 1 MiB long"})));
        connection->finish();
    };
    handlers.on_close = [this, id] { clients_.erase(id); };
    auto opened = Connection::open(loop_, std::move(socket), std::move(handlers));
    if (!opened) return log::warn(opened.error().text);
    auto connection = *opened;
    clients_[id].connection = connection;
    if (!allowed) {
        connection->send(to_line(reply_error({}, {"denied", "only root may use this socket"})));
        connection->finish();
        return;
    }
    if (!has_room) {
        connection->send(to_line(reply_error({}, {"busy", "too many clients at once"})));
        connection->finish();
    }
}

void ControlServer::serve(uint64_t id, std::string_view line) {
    auto connection = clients_.at(id).connection;
    connection->owe();
    Asker asker;
    asker.reply = [weak = std::weak_ptr(connection)](std::string_view reply) {
        if (auto open = weak.lock()) open->reply(reply);
    };
    // Called at once, before the reply, which may lead to the client's end.
    asker.follow = [this, id, &connection](uint64_t next_seq) {
        clients_.at(id).follows_from = next_seq;
        connection->owe();  // events without end: a follower is kept until it goes
    };
    answer(commands_, cluster_, line, std::move(asker));
}

}  // namespace drover::admin
