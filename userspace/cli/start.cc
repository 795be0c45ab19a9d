// SPDX-License-Identifier: MIT
#include "cli/start.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "cli/cli.h"
#include "cli/terminal.h"

namespace drover::cli {

namespace {

constexpr size_t kMostShown = 64 << 10;  // of what a master printed that could not start
constexpr int kLastWords = 1000;         // ms: for what its workers still print

int refuse(const std::string& text) {
    std::fputs(fmt::format("drover: error: {}\n", text).c_str(), stderr);
    return kFailed;
}

// Reads what is there; false at the end. Of a lot only the last part is kept.
bool read_some(int fd, std::string& text) {
    std::array<char, 4096> bytes{};
    ssize_t size = ::read(fd, bytes.data(), bytes.size());
    if (size < 0 && errno == EINTR) return true;
    if (size <= 0) return false;
    text.append(bytes.data(), static_cast<size_t>(size));
    if (text.size() > kMostShown) text.erase(0, text.size() - kMostShown);
    return true;
}

// The master's word, and what it and its workers print meanwhile.
struct Heard {
    std::string word;
    std::string printed;
};

Heard listen_to_master(const Fd& word, const Fd& output) {
    Heard heard;
    std::array<pollfd, 2> fds = {{{word.get(), POLLIN, 0}, {output.get(), POLLIN, 0}}};
    for (;;) {
        // Without a word from it the master ends, and soon all that prints.
        bool has_ended = fds[0].fd < 0;
        int ready = ::poll(fds.data(), fds.size(), has_ended ? kLastWords : -1);
        if (ready == 0) return heard;
        if (ready < 0) continue;
        if (fds[0].revents != 0 && !read_some(word.get(), heard.word)) {
            if (!heard.word.empty()) return heard;
            fds[0].fd = -1;
        }
        if (fds[1].revents != 0 && !read_some(output.get(), heard.printed)) {
            if (has_ended) return heard;
            fds[1].fd = -1;
        }
    }
}

int wait_for_word(pid_t master, const Fd& word, const Fd& output, const std::string& cluster) {
    auto heard = listen_to_master(word, output);
    if (!heard.word.empty()) {
        put(heard.word);
        return kDone;
    }
    int status = 0;
    while (::waitpid(master, &status, 0) < 0 && errno == EINTR) continue;
    for (size_t at = 0; at < heard.printed.size();) {
        size_t end = std::min(heard.printed.find('\n', at), heard.printed.size());
        std::fputs((escape(heard.printed.substr(at, end - at)) + "\n").c_str(), stderr);
        at = end + 1;
    }
    auto how = WIFSIGNALED(status)
                   ? fmt::format(": its master was ended by signal {}", WTERMSIG(status))
                   : std::string();
    refuse(fmt::format("{} did not start{}", cluster, how));
    bool is_usage = WIFEXITED(status) && WEXITSTATUS(status) == kUsage;
    return is_usage ? kUsage : kFailed;
}

void become_background(const Fd& output) {
    ::setsid();
    Fd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    ::dup2(null.get(), STDIN_FILENO);
    ::dup2(output.get(), STDOUT_FILENO);
    ::dup2(output.get(), STDERR_FILENO);
}

Result<std::pair<Fd, Fd>> make_pipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(errno, "make a pipe");
    return std::pair(Fd(ends[0]), Fd(ends[1]));
}

}  // namespace

tl::expected<Fd, int> go_to_background(const std::string& cluster) {
    if (::geteuid() != 0) return tl::unexpected(refuse("drover needs root: sudo drover start …"));
    auto word = make_pipe(), output = make_pipe();
    for (const auto* pipe : {&word, &output})
        if (!*pipe) return tl::unexpected(refuse(pipe->error().text));
    std::fflush(nullptr);
    pid_t master = ::fork();
    if (master < 0) return tl::unexpected(refuse(fmt::format("fork: {}", std::strerror(errno))));
    if (master == 0) {
        become_background(output->second);
        return std::move(word->second);
    }
    word->second.reset();
    output->second.reset();
    return tl::unexpected(wait_for_word(master, word->first, output->first, cluster));
}

}  // namespace drover::cli
