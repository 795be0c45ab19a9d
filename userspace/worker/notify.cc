// SPDX-License-Identifier: MIT
#include "worker/notify.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>

namespace drover::worker {

namespace {

Result<Fd> bind_socket(const std::string& address) {
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    if (address.size() < 2 || address.front() != '@' || address.size() > sizeof(name.sun_path))
        return fail("system", fmt::format("{} is no abstract socket address of 2 to {} bytes",
                                          address, sizeof(name.sun_path)));
    // A NUL stands for the '@', and none at the end: the length is part of the name.
    std::memcpy(name.sun_path + 1, address.data() + 1, address.size() - 1);
    auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address.size());

    Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket.is_open()) return fail_errno(errno, "create the notify socket");
    // Before bind: there is no datagram without credentials.
    int on = 1;
    if (::setsockopt(socket.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0)
        return fail_errno(errno, "ask for the senders' credentials on the notify socket");
    if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&name), length) != 0)
        return fail_errno(errno, fmt::format("bind the notify socket {}", address));
    return socket;
}

// The sender as the kernel names it; 0 where it does not (a pid that this namespace cannot see).
int sender_of(msghdr& message) {
    for (auto* part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part))
        if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_CREDENTIALS) {
            ucred credentials{};
            std::memcpy(&credentials, CMSG_DATA(part), sizeof(credentials));
            return credentials.pid;
        }
    return 0;
}

std::optional<std::string> cgroup_of(int pid) {
    if (pid <= 0) return {};
    Fd file(::open(fmt::format("/proc/{}/cgroup", pid).c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.is_open()) return {};
    std::string content;
    std::array<char, 4096> chunk;
    for (;;) {
        // ESRCH where it ends just now.
        ssize_t size = ::read(file.get(), chunk.data(), chunk.size());
        if (size < 0) return {};
        if (size == 0) return unified_cgroup(content);
        content.append(chunk.data(), static_cast<size_t>(size));
    }
}

}  // namespace

std::optional<std::string> unified_cgroup(std::string_view content) {
    constexpr std::string_view kPrefix = "0::";
    while (!content.empty()) {
        auto line = content.substr(0, content.find('\n'));
        content.remove_prefix(std::min(line.size() + 1, content.size()));
        if (line.substr(0, kPrefix.size()) != kPrefix) continue;
        return std::string(line.substr(kPrefix.size()));
    }
    return {};
}

Result<std::string> NotifySocket::make_address(const std::string& cluster) {
    uint64_t random = 0;
    if (::getrandom(&random, sizeof(random), 0) != static_cast<ssize_t>(sizeof(random)))
        return fail_errno(errno, "get a random number for the notify socket");
    return fmt::format("@drover/{}/{:016x}", cluster, random);
}

Result<std::unique_ptr<NotifySocket>> NotifySocket::open(EventLoop& loop,
                                                         const std::string& address,
                                                         FindWorker find_worker,
                                                         NotifyObserver& observer) {
    auto socket = bind_socket(address);
    if (!socket) return tl::unexpected<Error>(socket.error());
    std::unique_ptr<NotifySocket> self(new NotifySocket(address, std::move(find_worker), observer));
    self->socket_ = std::move(*socket);
    self->source_ = loop.on_io(self->socket_.get(), EPOLLIN,
                               [notify = self.get()](uint32_t) { notify->receive(); });
    if (!self->source_.is_active())
        return fail("system", "watch the notify socket: the event loop refused it");
    return self;
}

void NotifySocket::receive() {
    for (int taken = 0; taken < kMaxPerTurn; ++taken) {
        std::array<char, kMaxNotification + 1> datagram;  // one more: to see that it is too long
        // Room for the credentials, which come first, and for nothing else: descriptors that a
        // worker sends along (FDSTORE, BARRIER) never enter the master's table, the kernel closes
        // them.
        alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(ucred))> control{};
        iovec buffer{datagram.data(), datagram.size()};
        msghdr message{};
        message.msg_iov = &buffer;
        message.msg_iovlen = 1;
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        ssize_t size = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (size < 0 && errno == EINTR) continue;
        if (size < 0) return;
        take(sender_of(message), {datagram.data(), static_cast<size_t>(size)});
    }
}

void NotifySocket::take(int sender, std::string_view datagram) {
    auto cgroup = cgroup_of(sender);
    if (!cgroup) {
        ++gone_total_;
        return;
    }
    auto worker = find_worker_(*cgroup);
    if (!worker) {
        ++foreign_total_;
        return;
    }
    auto notification = parse_notification(datagram);
    if (!notification) {
        ++malformed_total_;
        return;
    }
    tell(*worker, *notification);
}

void NotifySocket::tell(uint64_t worker, const Notification& notification) {
    if (notification.status) observer_.on_notify_status(worker, *notification.status);
    if (notification.watchdog_interval)
        observer_.on_notify_watchdog_interval(worker, *notification.watchdog_interval);
    if (notification.is_alive) observer_.on_notify_watchdog(worker);
    if (notification.is_ready) observer_.on_notify_ready(worker);
    if (notification.is_stopping) observer_.on_notify_stopping(worker);
}

}  // namespace drover::worker
