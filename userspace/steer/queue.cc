// SPDX-License-Identifier: MIT
#include "steer/queue.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sched.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <string>

#include "base/folder.h"

namespace drover::steer {

namespace {

using std::chrono::nanoseconds;
using std::chrono::steady_clock;  // in nanoseconds

// What the child reports: the socket's number in the file table that it shares with us, or errno.
struct Report {
    int socket;
    int error;
};

Report open_socket(const SocketRequest& request) {
    int fd = ::socket(request.at.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return {-1, errno};
    int on = 1;
    int v6only = request.v6only ? 1 : 0;
    sockaddr_storage address{};
    socklen_t length = request.at.to_sockaddr(address);
    // Without SO_REUSEPORT it would be alone; with another uid, in another group.
    int reuseport = request.alone ? 0 : 1;
    bool ok = ::setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &reuseport, sizeof(reuseport)) == 0 &&
              ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
              (request.at.family() != AF_INET6 ||
               ::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only)) == 0) &&
              ::fchown(fd, request.uid, static_cast<gid_t>(-1)) == 0 &&
              ::bind(fd, reinterpret_cast<sockaddr*>(&address), length) == 0 &&
              (request.backlog < 0 || ::listen(fd, request.backlog) == 0);
    if (ok) return {fd, 0};
    int error = errno;
    ::close(fd);
    return {-1, error};
}

}  // namespace

// A socket belongs to the cgroup of the process that made it. So a short-lived child, in
// that cgroup and sharing our file table (CLONE_FILES), makes it; CLONE_VFORK has us wait.
Result<Fd> make_socket(const SocketRequest& request) {
    std::array<int, 2> pipe{};
    // Nonblocking: when we go on, the child has written or will never write (it was killed).
    if (::pipe2(pipe.data(), O_CLOEXEC | O_NONBLOCK) != 0) return fail_errno(errno, "make a pipe");
    Fd reader(pipe[0]), writer(pipe[1]);
    int pid = sys::fork_into_cgroup(request.cgroup, nullptr, CLONE_FILES | CLONE_VFORK);
    if (pid == 0) {
        Report report = open_socket(request);
        [[maybe_unused]] auto written = ::write(pipe[1], &report, sizeof(report));
        ::_exit(0);
    }
    if (pid < 0) return fail_errno(errno, "start the helper that makes sockets");
    Report report{-1, ESRCH};
    [[maybe_unused]] auto received = ::read(reader.get(), &report, sizeof(report));
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    if (report.socket < 0)
        return fail_errno(
            report.error,
            fmt::format("{} {}", request.backlog < 0 ? "bind" : "listen on", request.at.text()));
    return Fd(report.socket);
}

// shutdown() takes the socket out of its group; the kernel then asks the program, connection by
// connection, where to put what waited. listen() puts it back, by way of the listen callback.
//
// A child does both, with all our descriptors (vfork: it costs little, and we wait). If it were us,
// and we were killed in between, the worker would not listen any more and never know. Its memory is
// ours: the two times are left there.
Result<nanoseconds> move_queue(int listener, int backlog) {
    constexpr int kInListen = 0x80;  // beside errno
    volatile int64_t began = 0, ended = 0;
    // NOLINTBEGIN(clang-analyzer-security.insecureAPI.vfork, clang-analyzer-unix.Vfork): two system
    // calls that touch no memory of the parent's but the two times, and errno, which it does not
    // read.
    pid_t child = ::vfork();
    if (child == 0) {
        if (::shutdown(listener, SHUT_RD) != 0) ::_exit(errno);
        began = steady_clock::now().time_since_epoch().count();
        if (::listen(listener, backlog) != 0) ::_exit(errno | kInListen);
        ended = steady_clock::now().time_since_epoch().count();
        ::_exit(0);
    }
    // NOLINTEND(clang-analyzer-security.insecureAPI.vfork, clang-analyzer-unix.Vfork)
    if (child < 0) return fail_errno(errno, "move a queue (vfork)");
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
    if (code == 0) return nanoseconds(ended - began);
    return fail_errno(code & ~kInListen,
                      code & kInListen ? "move a queue (listen)" : "move a queue (shutdown)");
}

uint64_t socket_cookie(int socket) {
    uint64_t cookie = 0;
    socklen_t length = sizeof(cookie);
    ::getsockopt(socket, SOL_SOCKET, SO_COOKIE, &cookie, &length);
    return cookie;
}

Fd borrow_again(const SocketPlace& place, uint64_t cookie) {
    if (place.pid == 0) return {};
    Fd process(sys::pidfd_open(place.pid));
    Fd copy(process.is_open() ? sys::pidfd_getfd(process.get(), place.fd) : -1);
    if (!copy.is_open() || socket_cookie(copy.get()) != cookie) return {};
    return copy;
}

// Of a listener the kernel shows its queue where a connection has its unacknowledged packets.
QueueLength queue_length(int listener) {
    tcp_info info{};
    socklen_t length = sizeof(info);
    if (::getsockopt(listener, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return {};
    return {static_cast<int>(info.tcpi_unacked), static_cast<int>(info.tcpi_sacked)};
}

Result<Fd> borrow_socket(const Cgroup& cgroup, uint32_t inode, SocketPlace& place) {
    std::string wanted = fmt::format("socket:[{}]", inode);
    for (int pid : cgroup.pids()) {
        std::error_code error;
        for (const auto& entry : entries_of(fmt::format("/proc/{}/fd", pid))) {
            auto target = std::filesystem::read_symlink(entry.path(), error);
            if (error || target != wanted) continue;
            Fd process(sys::pidfd_open(pid));
            Fd copy(sys::pidfd_getfd(process.get(), std::stoi(entry.path().filename())));
            if (!copy.is_open()) continue;
            ::fcntl(copy.get(), F_SETFD, FD_CLOEXEC);
            struct stat info {};
            // The number may mean something else by now.
            if (::fstat(copy.get(), &info) != 0 || info.st_ino != inode) continue;
            place = {pid, std::stoi(entry.path().filename())};
            return copy;
        }
    }
    return fail("not-found", fmt::format("no process of {} has socket {}", cgroup.path(), inode));
}

}  // namespace drover::steer
