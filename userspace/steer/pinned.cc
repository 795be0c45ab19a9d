// SPDX-License-Identifier: MIT
#include "steer/pinned.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>

namespace drover::steer {

namespace {

// Where one connects to who listens on all addresses: the loopback address of its family.
Endpoint reachable(const Endpoint& at) {
    static constexpr uint32_t kAny[4] = {};
    if (std::memcmp(at.key.addr, kAny, sizeof(kAny)) != 0) return at;
    return *Endpoint::parse(at.family() == AF_INET6 ? "::1" : "127.0.0.1", at.port());
}

}  // namespace

Result<PinnedConnection> PinnedConnection::open(Programs& programs, const Endpoint& at, bool v6only,
                                                uint32_t slot) {
    Endpoint server = reachable(at);
    auto connection = connect(programs, server, slot);
    // A dual-stack listener on a machine whose loopback interface has IPv4 alone.
    bool no_v6 = !connection && connection.error().number == EADDRNOTAVAIL;
    if (no_v6 && !v6only && !(server == at))
        return connect(programs, *Endpoint::parse("127.0.0.1", at.port()), slot);
    return connection;
}

Result<PinnedConnection> PinnedConnection::connect(Programs& programs, const Endpoint& server,
                                                   uint32_t slot) {
    std::string what = fmt::format("connect to {}", server.text());
    Fd socket(::socket(server.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket.is_open()) return fail_errno(errno, what);
    // An address of the machine's own reaches itself; bind() then says which port it got.
    Endpoint client = server;
    client.key.port = 0;
    sockaddr_storage address{};
    socklen_t length = client.to_sockaddr(address);
    if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
        ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0)
        return fail_errno(errno, what);
    drover_pin_key key{};
    std::memcpy(key.client, client.key.addr, sizeof(key.client));
    std::memcpy(key.server, server.key.addr, sizeof(key.server));
    key.client_port =
        ntohs(server.family() == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                          : reinterpret_cast<sockaddr_in&>(address).sin_port);
    key.server_port = static_cast<uint16_t>(server.port());
    key.family = static_cast<uint32_t>(server.family());
    if (auto pinned = programs.pin(key, slot); !pinned) return tl::unexpected(pinned.error());
    PinnedConnection connection(programs, key, std::move(socket));
    connection.server_ = server;
    length = server.to_sockaddr(address);
    if (::connect(connection.socket(), reinterpret_cast<sockaddr*>(&address), length) != 0 &&
        errno != EINPROGRESS)
        return fail_errno(errno, what);
    return connection;
}

PinnedConnection::~PinnedConnection() {
    if (programs_ != nullptr) programs_->unpin(key_);
}

}  // namespace drover::steer
