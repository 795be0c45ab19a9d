// SPDX-License-Identifier: MIT
//
// Listening sockets that the master handles itself: the keeper, which holds connections while no
// worker can take them, and the move of a queue from one listener to the others of its group.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>

#include "base/cgroup.h"
#include "base/fd.h"
#include "base/result.h"
#include "base/sys.h"
#include "steer/endpoint.h"

namespace drover::steer {

struct SocketRequest {
    Endpoint at;
    bool v6only = false;  // IPv6 only; part of the group's identity, as is the uid
    uid_t uid = 0;
    int backlog = 0;          // of listen(); -1: bound alone
    sys::CgroupEntry cgroup;  // lent; the socket gets this cgroup's tag; none: our own cgroup
    bool alone = false;       // in no group: without SO_REUSEPORT
};

// Makes a socket in the group of the workers' sockets. It is born in the cgroup of its owner (the
// keeper, or a worker that will be given it): bind hook, listen callback and counts then treat it
// as any worker's own. Error number EADDRINUSE: a socket that does not share (or has another uid)
// has the port.
Result<Fd> make_socket(const SocketRequest& request);

// Moves every connection that waits in the listener's queue to the listeners that the steering
// program picks, and leaves the socket listening with an empty queue. The caller has taken it out
// of the active set before. The listener's own process must not call accept() meanwhile. Returns
// how long listen() took: the kernel has the port locked then, and no connection to it can begin.
Result<std::chrono::nanoseconds> move_queue(int listener, int backlog);

uint64_t socket_cookie(int socket);  // 0 where it is no socket

// Which process has a socket open, and as which descriptor. May be true no longer.
struct SocketPlace {
    int pid = 0;  // 0: not known
    int fd = -1;
};

// A duplicate of the listening socket with that inode, out of a process of the cgroup; `place` is
// where it was found. Close it at once after use: while it is open the worker's own close would go
// unseen.
Result<Fd> borrow_socket(const Cgroup& cgroup, uint32_t inode, SocketPlace& place);

// The same out of a known place, without a search. Not open where another socket is there by now,
// or none.
Fd borrow_again(const SocketPlace& place, uint64_t cookie);

// How many connections wait in a listener's queue, and how many may.
struct QueueLength {
    int waiting = 0;
    int backlog = 0;
};
QueueLength queue_length(int listener);

}  // namespace drover::steer
