// SPDX-License-Identifier: MIT
#include "cli/start.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "cli/cli.h"
#include "cli/terminal.h"

namespace drover::cli {

namespace {

constexpr off_t kMostShown = 64 << 10;  // of what a master printed that could not start

int refuse(const std::string& text) {
    std::fputs(fmt::format("drover: error: {}\n", text).c_str(), stderr);
    return kFailed;
}

Result<Fd> open_log(const std::string& path) {
    auto folder = std::filesystem::path(path).parent_path();
    std::error_code error;
    std::filesystem::create_directories(folder.parent_path(), error);
    if (::mkdir(folder.c_str(), 0750) != 0 && errno != EEXIST)
        return fail_errno(errno, fmt::format("make the folder {}", folder.string()));
    Fd log(::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640));
    if (!log.is_open()) return fail_errno(errno, fmt::format("open {}", path));
    return log;
}

std::string read_all(int fd) {
    std::string text;
    std::array<char, 4096> bytes{};
    for (;;) {
        ssize_t size = ::read(fd, bytes.data(), bytes.size());
        if (size < 0 && errno == EINTR) continue;
        if (size <= 0) return text;
        text.append(bytes.data(), static_cast<size_t>(size));
    }
}

// What is in the log from there on; of a lot only its end.
std::string printed_since(int log, off_t begin) {
    off_t end = ::lseek(log, 0, SEEK_END);
    begin = std::max(begin, end - kMostShown);
    std::string text(static_cast<size_t>(std::max<off_t>(end - begin, 0)), '\0');
    ssize_t size = ::pread(log, text.data(), text.size(), begin);
    text.resize(static_cast<size_t>(std::max<ssize_t>(size, 0)));
    return text;
}

int wait_for_word(pid_t master, const Fd& pipe, const Fd& log, off_t begin,
                  const std::string& cluster, const std::string& log_path) {
    auto word = read_all(pipe.get());
    if (!word.empty()) {
        put(word);
        return kDone;
    }
    int status = 0;
    while (::waitpid(master, &status, 0) < 0 && errno == EINTR) continue;
    auto printed = printed_since(log.get(), begin);
    for (size_t at = 0; at < printed.size();) {
        size_t end = std::min(printed.find('\n', at), printed.size());
        std::fputs((escape(printed.substr(at, end - at)) + "\n").c_str(), stderr);
        at = end + 1;
    }
    auto how = WIFSIGNALED(status)
                   ? fmt::format(": its master was ended by signal {}", WTERMSIG(status))
                   : std::string();
    refuse(
        fmt::format("{} did not start{}; all that was printed is in {}", cluster, how, log_path));
    bool is_usage = WIFEXITED(status) && WEXITSTATUS(status) == kUsage;
    return is_usage ? kUsage : kFailed;
}

void become_background(const Fd& log) {
    ::setsid();
    Fd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    ::dup2(null.get(), STDIN_FILENO);
    ::dup2(log.get(), STDOUT_FILENO);
    ::dup2(log.get(), STDERR_FILENO);
}

}  // namespace

tl::expected<Fd, int> go_to_background(const std::string& cluster, const Paths& paths) {
    if (::geteuid() != 0) return tl::unexpected(refuse("drover needs root: sudo drover start …"));
    auto log_path = paths.log(cluster);
    auto log = open_log(log_path);
    if (!log) return tl::unexpected(refuse(log.error().text));
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0)
        return tl::unexpected(refuse(fmt::format("make a pipe: {}", std::strerror(errno))));
    Fd from_master(ends[0]), to_starter(ends[1]);
    off_t begin = ::lseek(log->get(), 0, SEEK_END);
    std::fflush(nullptr);
    pid_t master = ::fork();
    if (master < 0) return tl::unexpected(refuse(fmt::format("fork: {}", std::strerror(errno))));
    if (master == 0) {
        become_background(*log);
        return to_starter;
    }
    to_starter.reset();
    return tl::unexpected(wait_for_word(master, from_master, *log, begin, cluster, log_path));
}

}  // namespace drover::cli
