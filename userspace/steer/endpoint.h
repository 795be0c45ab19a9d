// SPDX-License-Identifier: MIT
//
// An address and port that is listened on, in the three forms in which it is met: the maps' key,
// the kernel's socket address, and text.
#pragma once

#include <drover/steer_abi.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <compare>
#include <cstring>
#include <string>

#include "base/result.h"

namespace drover::steer {

struct Endpoint {
    drover_group_key key{};

    static Result<Endpoint> parse(const std::string& address, int port);

    [[nodiscard]] int port() const { return key.port; }
    [[nodiscard]] int family() const { return key.family; }
    [[nodiscard]] std::string address() const;  // "0.0.0.0", "::1"
    [[nodiscard]] std::string text() const;     // "0.0.0.0:80", "[::1]:80"
    // Fills a sockaddr of the right kind; returns its length.
    socklen_t to_sockaddr(sockaddr_storage& storage) const;

    bool operator==(const Endpoint& other) const {
        return std::memcmp(&key, &other.key, sizeof(key)) == 0;
    }
    bool operator<(const Endpoint& other) const {
        return std::memcmp(&key, &other.key, sizeof(key)) < 0;
    }
};

}  // namespace drover::steer
