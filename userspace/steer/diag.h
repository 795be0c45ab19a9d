// SPDX-License-Identifier: MIT
//
// The kernel's own list of TCP sockets in this network namespace, by sock_diag: the truth that
// counts, queues and the ownership of ports are checked against.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "steer/endpoint.h"

namespace drover::steer {

struct Socket {
    Endpoint local;
    uint64_t cookie = 0;
    uint64_t cgroup_id = 0;  // of the process that made it (a connection: its listener)
    uint32_t inode = 0;
    uint32_t uid = 0;
    uint32_t queued = 0;   // listeners: connections that wait for accept()
    uint32_t backlog = 0;  // listeners: how many may
    bool v6only = false;
};

// States, as bits: 1 << TCP_ESTABLISHED and so on.
constexpr uint32_t kListening = 1u << 10;
constexpr uint32_t kHandshake = (1u << 3) | (1u << 12);  // SYN_RECV, as a request too
// What counts as live: ESTABLISHED, CLOSE_WAIT, and a TCP Fast Open connection in SYN_RECV (an
// ordinary handshake is a request until it is done, and not among these).
constexpr uint32_t kLive = (1u << 1) | (1u << 3) | (1u << 8);

// All TCP sockets in the given states, IPv4 and IPv6.
Result<std::vector<Socket>> list_sockets(uint32_t states);

// Who has a socket open: the first process found in /proc that has the inode.
struct Owner {
    int pid = 0;          // 0: none found
    std::string command;  // its command line, shortened; of "?" where unknown
};
Owner find_owner(uint32_t inode);

}  // namespace drover::steer
