// SPDX-License-Identifier: MIT
#include "supervisor/shared_sockets.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace drover::supervisor {

namespace {

constexpr int kUnix = -1;       // SocketQuery::address_type
constexpr int kFlagV6Only = 1;  // SocketQuery::flags, as libuv numbers them
constexpr int kFlagReuseAddr = 4;

Result<Fd> bind_unix(const worker::SocketQuery& wanted) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (wanted.address.empty() || wanted.address.size() >= sizeof(address.sun_path))
        return fail_errno(ENAMETOOLONG, wanted.address);
    std::memcpy(address.sun_path, wanted.address.data(), wanted.address.size());
    Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket.is_open() ||
        ::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
        return fail_errno(errno, wanted.address);
    mode_t mode = 0;
    if (wanted.readable_all) mode |= S_IRUSR | S_IRGRP | S_IROTH;
    if (wanted.writable_all) mode |= S_IWUSR | S_IWGRP | S_IWOTH;
    struct stat info {};
    if (mode != 0 && ::stat(wanted.address.c_str(), &info) == 0)
        (void)::chmod(wanted.address.c_str(), (info.st_mode & 0777) | mode);
    return socket;
}

Result<Fd> bind_udp(const worker::SocketQuery& wanted) {
    bool v6 = wanted.address_type == 6;
    auto at = steer::Endpoint::parse(
        wanted.address.empty() ? (v6 ? "::" : "0.0.0.0") : wanted.address, wanted.port);
    if (!at) return fail_errno(EINVAL, wanted.address);
    Fd socket(::socket(at->family(), SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    int on = 1;
    if (wanted.flags & kFlagReuseAddr)
        ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (v6 && (wanted.flags & kFlagV6Only))
        ::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    sockaddr_storage address{};
    socklen_t length = at->to_sockaddr(address);
    if (!socket.is_open() ||
        ::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), length) != 0)
        return fail_errno(errno, at->text());
    return socket;
}

Result<Fd> duplicate(const Fd& socket) {
    Fd copy(::fcntl(socket.get(), F_DUPFD_CLOEXEC, 0));
    if (!copy.is_open()) return fail_errno(errno, "duplicate a socket");
    return copy;
}

}  // namespace

SharedSockets::~SharedSockets() {
    for (const std::string& path : paths_) ::unlink(path.c_str());
}

worker::SocketAnswer SharedSockets::answer(WorkerId worker, const worker::SocketQuery& wanted) {
    worker::SocketAnswer answer;
    Key key{wanted.address, wanted.port, wanted.address_type, wanted.udp, wanted.index};
    auto& data = data_[key];
    if (data.empty() || data == "null") data = wanted.data;
    answer.data = data;
    // An fd's number means a file of the primary's, and ours are not the program's.
    if (wanted.fd >= 0) {
        answer.error = EBADF;
        return answer;
    }
    bool is_tcp = !wanted.udp && wanted.address_type != kUnix;
    auto socket = is_tcp ? tcp(worker, wanted, key) : shared(wanted, key);
    if (socket)
        answer.socket = std::move(*socket);
    else
        answer.error = socket.error().number != 0 ? socket.error().number : EINVAL;
    return answer;
}

// listen(PORT) without an address is for IPv6 and IPv4, or IPv4 alone where there is no IPv6.
Result<Fd> SharedSockets::tcp(WorkerId worker, const worker::SocketQuery& wanted, const Key& key) {
    if (!wanted.address.empty()) return tcp_at(wanted.address, worker, wanted, key);
    auto socket = tcp_at("::", worker, wanted, key);
    if (socket || socket.error().number != EAFNOSUPPORT) return socket;
    return tcp_at("0.0.0.0", worker, wanted, key);
}

Result<Fd> SharedSockets::tcp_at(const std::string& address, WorkerId worker,
                                 const worker::SocketQuery& wanted, const Key& key) {
    bool v6only = wanted.address_type == 6 && (wanted.flags & kFlagV6Only) != 0;
    auto at = steer::Endpoint::parse(address, wanted.port);
    if (!at) return fail_errno(EINVAL, address);
    if (at->family() == DROVER_AF_INET) v6only = false;
    if (wanted.port == 0) {
        int& port = ports_[key];
        if (port == 0) {
            auto found = makers_.free_port(*at, v6only);
            if (!found) return tl::unexpected(found.error());
            port = *found;
        }
        at->key.port = static_cast<uint16_t>(port);
    }
    return makers_.common ? common_tcp(worker, *at, v6only, -1)
                          : makers_.socket(worker, *at, v6only);
}

Result<Fd> SharedSockets::shared(const worker::SocketQuery& wanted, const Key& key) {
    auto found = sockets_.find(key);
    if (found == sockets_.end()) {
        auto made = wanted.udp ? bind_udp(wanted) : bind_unix(wanted);
        if (!made) return made;
        if (!wanted.udp) paths_.insert(wanted.address);
        found = sockets_.emplace(key, std::move(*made)).first;
    }
    return duplicate(found->second);
}

Result<Fd> SharedSockets::common_tcp(WorkerId worker, const steer::Endpoint& at, bool v6only,
                                     int backlog) {
    auto found = common_.find({at, v6only});
    if (found == common_.end()) {
        auto made = makers_.common(worker, at, v6only, backlog);
        if (!made) return made;
        found = common_.emplace(std::pair(at, v6only), std::move(*made)).first;
    }
    return duplicate(found->second);
}

Result<Fd> SharedSockets::listening(WorkerId worker, const steer::Endpoint& at, int backlog) {
    return common_tcp(worker, at, false, backlog);
}

std::vector<SharedSockets::Common> SharedSockets::common() const {
    std::vector<Common> all;
    for (const auto& [key, socket] : common_) {
        tcp_info info{};
        socklen_t length = sizeof(info);
        // Of a listener this field is the length of its queue.
        bool known = ::getsockopt(socket.get(), IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
                     info.tcpi_state == TCP_LISTEN;
        all.push_back({key.first, key.second, known ? info.tcpi_unacked : 0});
    }
    return all;
}

}  // namespace drover::supervisor
