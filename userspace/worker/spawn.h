// SPDX-License-Identifier: MIT
//
// Starts one process of a command: in its own session and cgroup, with exactly the environment and
// the file descriptors that it is meant to have.
//
// Told apart: "the process could not be made" (the Result), "the program could not be executed"
// (exec_status), and "the program ended" (pidfd).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "base/sys.h"

namespace drover::worker {

// Who a worker runs as.
struct Identity {
    uid_t uid = 0;
    gid_t gid = 0;
    std::vector<gid_t> groups;  // supplementary
    std::string home;           // for HOME, USER, LOGNAME, SHELL where the user changes
    std::string name;
    std::string shell;
};

// Looks up --user and --group (names or numbers). Both empty: nothing, workers run as the master.
// Error code "usage" names what does not exist.
Result<std::optional<Identity>> find_identity(const std::string& user, const std::string& group);

constexpr const char* kListenPid = "LISTEN_PID=?";
constexpr int kFirstListenFd = 3;  // of passed sockets (SD_LISTEN_FDS_START)

struct SpawnRequest {
    std::string program;               // what to execute; empty: command[0]
    std::vector<std::string> command;  // argv. A program without '/' is searched in the PATH of
                                       // `environment`; a relative one starts at `cwd`
    // Complete, NAME=VALUE. kListenPid stands for LISTEN_PID with the process's own pid.
    std::vector<std::string> environment;
    std::string cwd;                   // empty: the master's
    std::optional<Identity> identity;  // with a non-root uid also no_new_privs
    std::optional<mode_t> umask;
    std::optional<uint64_t> nofile;       // RLIMIT_NOFILE, soft and hard
    std::optional<uint64_t> soft_nofile;  // without nofile: the soft limit alone
    sys::CgroupEntry cgroup;              // lent. fd -1: the master's own
    int stdin_fd = -1;   // become 0, 1 and 2; lent. -1: /dev/null. A pipe is given to the
    int stdout_fd = -1;  // identity, which may reopen it, unless it is the master's own 0, 1 or 2:
    int stderr_fd = -1;  // those belong to whoever started the master
    std::vector<std::pair<int, int>> fds;  // lent fd → its number in the process, 3 or more
};

struct Process {
    int pid = 0;
    Fd pidfd;        // readable when the process has ended; then reap() it
    Fd exec_status;  // readable: end of file when exec succeeded, else read_exec_failure() tells
};

// Forks by clone3 straight into the cgroup (CLONE_INTO_CGROUP), with setsid, default signal
// dispositions, an empty signal mask, and no inherited fd but 0, 1, 2 and request.fds. Does not
// wait for exec. Sets an inherited SIG_IGN of SIGCHLD back to the default, or nothing could be
// reaped.
Result<Process> spawn(const SpawnRequest& request);

// What exec_status says, once it is readable: nothing when exec succeeded (end of file), else the
// error, with code "exec" and a sentence that names the program and what to do (exec_error.h).
// `request` is what was spawned.
std::optional<Error> read_exec_failure(int exec_status_fd, const SpawnRequest& request);

// How the process ended, without blocking. Nothing while it lives. Neither code nor signal where
// it is not a child of ours any more.
struct Ended {
    std::optional<int> code;    // of exit()
    std::optional<int> signal;  // its number
};
std::optional<Ended> reap(int pidfd);

// The environment of this process, NAME=VALUE.
std::vector<std::string> own_environment();

// The environment of a worker: the master's less SUDO_*, LISTEN_*, NOTIFY_SOCKET, NODE_CHANNEL_*,
// NODE_UNIQUE_ID and DROVER_*; then HOME, USER, LOGNAME, SHELL of the identity; then `extra`
// (NAME=VALUE: --env-file, --env and drover's own, later ones win). Pure.
std::vector<std::string> worker_environment(const std::vector<std::string>& inherited,
                                            const std::optional<Identity>& identity,
                                            const std::vector<std::string>& extra);

}  // namespace drover::worker
