// SPDX-License-Identifier: MIT
//
// spawn() with real processes: what a worker is given, what it is not, and what is said when it
// cannot be started. Then the pure parts: the environment.
#include "worker/spawn.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "worker/exec_error.h"

using namespace drover;
using namespace drover::worker;
namespace fs = std::filesystem;

namespace {

constexpr int kDeadlineMs = 10'000;

bool becomes_readable(int fd) {
    pollfd poll{fd, POLLIN, 0};
    return ::poll(&poll, 1, kDeadlineMs) == 1;
}

struct Outcome {
    std::string output;
    std::optional<Error> failure;
    std::optional<Ended> ended;
};

// Spawns, reads stdout and stderr to the end, reaps.
Outcome run(SpawnRequest request) {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    Fd read_end(ends[0]);
    Fd write_end(ends[1]);
    request.stdout_fd = write_end.get();
    request.stderr_fd = write_end.get();
    auto process = spawn(request);
    REQUIRE(process);
    write_end.reset();
    Outcome outcome;
    char bytes[4096];
    while (becomes_readable(read_end.get())) {
        auto size = ::read(read_end.get(), bytes, sizeof(bytes));
        if (size <= 0) break;
        outcome.output.append(bytes, static_cast<size_t>(size));
    }
    REQUIRE(becomes_readable(process->exec_status.get()));
    outcome.failure = read_exec_failure(process->exec_status.get(), request);
    REQUIRE(becomes_readable(process->pidfd.get()));
    outcome.ended = reap(process->pidfd.get());
    return outcome;
}

SpawnRequest shell(const std::string& script) {
    SpawnRequest request;
    request.command = {"sh", "-c", script};
    request.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
    return request;
}

SpawnRequest program(const std::string& name) {
    SpawnRequest request;
    request.command = {name};
    request.environment = {"PATH=/usr/bin:/bin"};
    return request;
}

// A folder that anyone may enter, removed at the end.
class TemporaryFolder {
  public:
    TemporaryFolder() {
        std::string pattern = fs::temp_directory_path() / "drover-spawn-XXXXXX";
        REQUIRE(::mkdtemp(pattern.data()) != nullptr);
        path_ = pattern;
        fs::permissions(path_, fs::perms(0755));
    }
    ~TemporaryFolder() { fs::remove_all(path_); }
    [[nodiscard]] std::string path() const { return path_; }
    [[nodiscard]] std::string operator/(const std::string& name) const { return path_ / name; }
    std::string write(const std::string& name, const std::string& content, mode_t mode) const {
        fs::create_directories((path_ / name).parent_path());
        std::ofstream(path_ / name) << content;
        REQUIRE(::chmod((path_ / name).c_str(), mode) == 0);
        return path_ / name;
    }

  private:
    fs::path path_;
};

bool is_root() {
    if (::geteuid() == 0) return true;
    MESSAGE("skipped: only root can change the user");
    return false;
}

bool contains(const std::vector<std::string>& list, const std::string& entry) {
    return std::find(list.begin(), list.end(), entry) != list.end();
}

}  // namespace

TEST_CASE("a process ends with the code of its exit") {
    auto outcome = run(shell("exit 7"));
    CHECK_FALSE(outcome.failure);
    REQUIRE(outcome.ended);
    CHECK(outcome.ended->code == 7);
    CHECK_FALSE(outcome.ended->signal);
}

TEST_CASE("a process that a signal ends tells the signal") {
    auto outcome = run(shell("kill -KILL $$"));
    REQUIRE(outcome.ended);
    CHECK(outcome.ended->signal == SIGKILL);
    CHECK_FALSE(outcome.ended->code);
}

TEST_CASE("a living process is not reaped, and a reaped one has neither code nor signal") {
    auto process = spawn(shell("exec sleep 100"));
    REQUIRE(process);
    CHECK_FALSE(reap(process->pidfd.get()));
    ::kill(process->pid, SIGKILL);
    REQUIRE(becomes_readable(process->pidfd.get()));
    CHECK(reap(process->pidfd.get())->signal == SIGKILL);
    auto again = reap(process->pidfd.get());
    REQUIRE(again);
    CHECK_FALSE(again->code);
    CHECK_FALSE(again->signal);
}

TEST_CASE("a process is reaped although the parent ignored SIGCHLD") {
    auto before = std::signal(SIGCHLD, SIG_IGN);
    auto outcome = run(shell("exit 3"));
    std::signal(SIGCHLD, before);
    REQUIRE(outcome.ended);
    CHECK(outcome.ended->code == 3);
}

TEST_CASE("a process sees exactly the environment of the request") {
    auto request = program("env");
    request.environment = {"PATH=/usr/bin", "A=1", "B=two words"};
    CHECK(run(request).output == "PATH=/usr/bin\nA=1\nB=two words\n");
}

TEST_CASE("umask, working directory and limit of open files are set") {
    TemporaryFolder folder;
    auto request = shell("umask; pwd; ulimit -Sn; ulimit -Hn");
    request.umask = 027;
    request.cwd = fs::canonical(folder.path());
    request.nofile = 77;
    CHECK(run(request).output == fmt::format("0027\n{}\n77\n77\n", request.cwd));
}

TEST_CASE("a process has stdin from /dev/null and no fd but those it is given") {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);  // not CLOEXEC: must not get through all the same
    Fd read_end(ends[0]);
    Fd write_end(ends[1]);
    // The shell's own fds: "echo" of the glob opens one for the folder itself, which is closed by
    // the time that readlink looks.
    auto request = shell(
        "readlink /proc/self/fd/0; for f in /proc/$$/fd/*; do [ -e $f ] && echo ${f##*/}; done");
    CHECK(run(request).output == "/dev/null\n0\n1\n2\n");
}

TEST_CASE("lent fds get their numbers, also where they overlap") {
    TemporaryFolder folder;
    auto first = folder.write("first", "1", 0644);
    auto second = folder.write("second", "2", 0644);
    Fd a(::open(first.c_str(), O_RDONLY | O_CLOEXEC));
    Fd b(::open(second.c_str(), O_RDONLY | O_CLOEXEC));
    auto request = shell(
        "for f in /proc/$$/fd/*; do [ -e $f ] && echo ${f##*/}; done;"
        "readlink /proc/$$/fd/$A /proc/$$/fd/$B");
    // Each becomes the number of the other.
    request.fds = {{a.get(), b.get()}, {b.get(), a.get()}};
    request.environment.push_back(fmt::format("A={}", a.get()));
    request.environment.push_back(fmt::format("B={}", b.get()));
    CHECK(run(request).output == fmt::format("0\n1\n2\n{}\n{}\n{}\n{}\n",
                                             std::min(a.get(), b.get()), std::max(a.get(), b.get()),
                                             second, first));
}

TEST_CASE("lent fds get their numbers where these are free in the parent") {
    TemporaryFolder folder;
    auto first = folder.write("first", "1", 0644);
    auto second = folder.write("second", "2", 0644);
    Fd a(::open(first.c_str(), O_RDONLY | O_CLOEXEC));
    Fd b(::open(second.c_str(), O_RDONLY | O_CLOEXEC));
    // Just the numbers that the next fds of the parent would have, the other way round.
    constexpr int kCount = 20;
    int lowest = Fd(::dup(0)).get();
    auto request = shell("readlink");
    std::string expected;
    for (int i = kCount - 1; i >= 0; --i) {
        request.fds.emplace_back(i % 2 == 0 ? a.get() : b.get(), lowest + i);
        request.command[2] += fmt::format(" /proc/$$/fd/{}", lowest + i);
        expected += (i % 2 == 0 ? first : second) + "\n";
    }
    CHECK(run(request).output == expected);
}

TEST_CASE("a process leads a session and has default signals and an empty mask") {
    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    auto pipe_before = std::signal(SIGPIPE, SIG_IGN);
    // What posix_spawn() leaves behind, and the C library's sigaction() cannot undo.
    constexpr int kOfTheLibrary = 32;
    std::array<void (*)(int), 4> ignore{SIG_IGN}, before_that{};
    ::syscall(SYS_rt_sigaction, kOfTheLibrary, ignore.data(), before_that.data(), 8);
    auto outcome = run(shell("exec awk '/^Sig(Blk|Ign|Cgt)/ {print $2}' /proc/self/status"));
    auto session = run(shell("cut -d' ' -f6 /proc/$$/stat; echo $$"));
    ::syscall(SYS_rt_sigaction, kOfTheLibrary, before_that.data(), nullptr, 8);
    std::signal(SIGPIPE, pipe_before);
    sigprocmask(SIG_SETMASK, &before, nullptr);
    CHECK(outcome.output == "0000000000000000\n0000000000000000\n0000000000000000\n");
    auto half = session.output.size() / 2;
    CHECK(session.output.substr(0, half) == session.output.substr(half));
}

TEST_CASE("a process becomes the user, without a way back to root") {
    if (!is_root()) return;
    auto identity = find_identity("nobody", "");
    REQUIRE(identity);
    REQUIRE(*identity);
    auto request = shell(
        "id -u; id -g; id -G; awk '/^(NoNewPrivs|CapEff|CapPrm)/ {print $2}' /proc/self/status;"
        "echo reopened > /dev/stdout");
    request.identity = **identity;
    auto gid = (*identity)->gid;
    CHECK(run(request).output ==
          fmt::format("{}\n{}\n{}\n0000000000000000\n0000000000000000\n1\nreopened\n",
                      (*identity)->uid, gid, gid));
}

TEST_CASE("root as the user keeps its privileges") {
    if (!is_root()) return;
    auto identity = find_identity("root", "");
    REQUIRE(identity);
    auto request = shell("awk '/^NoNewPrivs/ {print $2}' /proc/self/status");
    request.identity = **identity;
    CHECK(run(request).output == "0\n");
}

TEST_CASE("users and groups that do not exist are usage errors that name them") {
    CHECK_FALSE(*find_identity("", ""));
    CHECK(find_identity("no-such-user", "").error().text ==
          "--user no-such-user: there is no such user");
    CHECK(find_identity("", "no-such-group").error().text ==
          "--group no-such-group: there is no such group");
    CHECK(find_identity("no-such-user", "").error().code == "usage");
    CHECK(find_identity("4000000", "").error().code == "usage");
    auto numbers = find_identity("4000000", "4000001");
    REQUIRE(numbers);
    CHECK((*numbers)->uid == 4000000);
    CHECK((*numbers)->gid == 4000001);
    CHECK((*numbers)->groups == std::vector<gid_t>{4000001});
}

TEST_CASE("a command that is not in the PATH is named with the PATH") {
    auto outcome = run(program("no-such-thing"));
    REQUIRE(outcome.failure);
    CHECK(outcome.failure->code == "exec");
    CHECK(outcome.failure->text.starts_with(
        "no such command: no-such-thing (looked in PATH /usr/bin:/bin)"));
    CHECK(outcome.ended->code == 127);
    CHECK(run(program("/no/such/thing")).failure->text == "no such command: /no/such/thing");
}

TEST_CASE("the PATH is the worker's and a relative program starts at its working directory") {
    TemporaryFolder folder;
    folder.write("bin/hello", "#!/bin/sh\necho hello", 0755);
    auto by_path = program("hello");
    by_path.environment = {"PATH=/no/such/folder:" + (folder / "bin")};
    CHECK(run(by_path).output == "hello\n");
    auto relative = program("bin/hello");
    relative.cwd = folder.path();
    CHECK(run(relative).output == "hello\n");
}

TEST_CASE("argv[0] may differ from the program") {
    auto request = shell("");
    request.program = "/bin/sh";
    request.command = {"drover", "-c", "echo $0"};
    CHECK(run(request).output == "drover\n");
}

TEST_CASE("what cannot be executed is told apart") {
    TemporaryFolder folder;
    auto why = [&](const std::string& path) { return run(program(path)).failure->text; };
    CHECK(why(folder.write("plain", "#!/bin/sh\n", 0644)).ends_with("(chmod +x)"));
    CHECK(why(folder.path()).ends_with("it is a folder"));
    CHECK(why(folder.write("text", "echo hello\n", 0755)).find("no program for this machine") !=
          std::string::npos);
    CHECK(why(folder.write("script", "#! /no/such/shell -e\n", 0755))
              .ends_with("its first line names /no/such/shell, which does not exist"));
    CHECK(why(folder.write("dos", "#!/bin/sh\r\n", 0755)).find("carriage return") !=
          std::string::npos);
}

TEST_CASE("a working directory is entered as the user") {
    auto request = shell("true");
    request.cwd = "/no/such/folder";
    CHECK(run(request).failure->text ==
          "enter the working directory /no/such/folder as user root: No such file or directory");
    if (!is_root()) return;
    TemporaryFolder folder;
    fs::create_directory(folder / "private");
    fs::permissions(folder / "private", fs::perms(0700));
    request.cwd = folder / "private";
    request.identity = **find_identity("nobody", "");
    CHECK(run(request).failure->text ==
          fmt::format("enter the working directory {} as user nobody: Permission denied",
                      request.cwd));
}

TEST_CASE("a PATH folder that the user may not enter does not hide that the command is missing") {
    if (!is_root()) return;
    TemporaryFolder folder;
    fs::create_directory(folder / "private");
    fs::permissions(folder / "private", fs::perms(0700));
    auto request = program("no-such-thing");
    request.environment = {"PATH=" + (folder / "private")};
    request.identity = **find_identity("nobody", "");
    CHECK(run(request).failure->text.starts_with("no such command: no-such-thing"));
    folder.write("private/no-such-thing", "#!/bin/sh\n", 0755);
    CHECK(run(request).failure->text.find("as user nobody: permission denied") !=
          std::string::npos);
}

TEST_CASE("where sudo replaced the PATH, the sentence says so and what to do") {
    ExecFailure failure{Stage::exec, ENOENT, 0};
    auto request = program("no-such-thing");
    CHECK(describe_exec_failure(failure, request, "").text.find("sudo") == std::string::npos);
    auto text = describe_exec_failure(failure, request, "somebody").text;
    CHECK(text.find("sudo replaced the PATH of somebody") != std::string::npos);
    CHECK(text.find("sudo env \"PATH=$PATH\"") != std::string::npos);
}

TEST_CASE("a program is found in the places that sudo's PATH hides, the newest version first") {
    TemporaryFolder home;
    home.write(".nvm/versions/node/v8.1.0/bin/drover-test-node", "", 0755);
    home.write(".nvm/versions/node/v20.1.0/bin/drover-test-node", "", 0755);
    home.write(".cargo/bin/drover-test-server", "", 0755);
    home.write(".local/bin/drover-test-text", "", 0644);
    CHECK(find_in_usual_places("drover-test-node", home.path()) ==
          home / ".nvm/versions/node/v20.1.0/bin/drover-test-node");
    CHECK(find_in_usual_places("drover-test-server", home.path()) ==
          home / ".cargo/bin/drover-test-server");
    CHECK(find_in_usual_places("drover-test-text", home.path()).empty());
}

TEST_CASE("a worker does not inherit what is meant for the master") {
    auto environment =
        worker_environment({"PATH=/bin", "SUDO_USER=me", "SUDO_UID=1", "LISTEN_FDS=1",
                            "NOTIFY_SOCKET=/n", "NODE_CHANNEL_FD=3", "NODE_UNIQUE_ID=1",
                            "DROVER_NAME=other", "NODE_ENV=production", "HOME=/root", "broken"},
                           std::nullopt, {});
    CHECK(environment ==
          std::vector<std::string>{"PATH=/bin", "NODE_ENV=production", "HOME=/root"});
}

TEST_CASE("a worker has its user's HOME, USER, LOGNAME and SHELL") {
    Identity identity;
    identity.uid = 1000;
    identity.name = "me";
    identity.home = "/home/me";
    std::vector<std::string> roots = {"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/bash"};
    auto environment = worker_environment(roots, identity, {});
    CHECK(environment == std::vector<std::string>{"HOME=/home/me", "USER=me", "LOGNAME=me"});
    identity.shell = "/bin/zsh";
    CHECK(contains(worker_environment(roots, identity, {}), "SHELL=/bin/zsh"));
}

TEST_CASE("extra variables win over inherited ones, and the later over the earlier") {
    auto environment =
        worker_environment({"A=1", "B=2"}, std::nullopt, {"A=3", "DROVER_NAME=web", "A=4", "C="});
    CHECK(environment == std::vector<std::string>{"A=4", "B=2", "DROVER_NAME=web", "C="});
}
