// SPDX-License-Identifier: MIT
#include "steer/endpoint.h"

#include <arpa/inet.h>
#include <fmt/format.h>

namespace drover::steer {

Result<Endpoint> Endpoint::parse(const std::string& address, int port) {
    Endpoint endpoint;
    endpoint.key.port = static_cast<uint16_t>(port);
    if (::inet_pton(AF_INET, address.c_str(), endpoint.key.addr) == 1) {
        endpoint.key.family = DROVER_AF_INET;
        return endpoint;
    }
    if (::inet_pton(AF_INET6, address.c_str(), endpoint.key.addr) == 1) {
        endpoint.key.family = DROVER_AF_INET6;
        return endpoint;
    }
    return fail("usage", fmt::format("\"{}\" is no IPv4 or IPv6 address", address));
}

std::string Endpoint::address() const {
    char text[INET6_ADDRSTRLEN] = "?";
    ::inet_ntop(key.family, key.addr, text, sizeof(text));
    return text;
}

std::string Endpoint::text() const {
    if (key.family == DROVER_AF_INET6) return fmt::format("[{}]:{}", address(), key.port);
    return fmt::format("{}:{}", address(), key.port);
}

socklen_t Endpoint::to_sockaddr(sockaddr_storage& storage) const {
    storage = {};
    if (key.family == DROVER_AF_INET6) {
        auto& in6 = reinterpret_cast<sockaddr_in6&>(storage);
        in6.sin6_family = AF_INET6;
        in6.sin6_port = htons(key.port);
        std::memcpy(&in6.sin6_addr, key.addr, sizeof(in6.sin6_addr));
        return sizeof(in6);
    }
    auto& in4 = reinterpret_cast<sockaddr_in&>(storage);
    in4.sin_family = AF_INET;
    in4.sin_port = htons(key.port);
    in4.sin_addr.s_addr = key.addr[0];
    return sizeof(in4);
}

}  // namespace drover::steer
