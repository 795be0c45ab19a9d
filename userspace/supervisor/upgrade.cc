// SPDX-License-Identifier: MIT
#include "supervisor/upgrade.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "base/sys.h"

namespace drover::supervisor {

namespace {

constexpr std::chrono::seconds kAnswerDeadline{10};
constexpr std::chrono::milliseconds kLook{10};
constexpr int kMostLooks = 300;
constexpr size_t kLongestAnswer = 4096;

}  // namespace

void Upgrade::fail(std::string code, std::string text) {
    on_answer_.reset();
    on_end_.reset();
    on_late_.reset();
    on_look_.reset();
    process_ = {};
    answer_.reset();
    if (auto call = std::exchange(failed_, nullptr); call)
        call({std::move(code), std::move(text), 0});
}

void Upgrade::start(std::function<void(Error)> failed) {
    if (failed_) return failed({"bad-state", "an upgrade is under way", 0});
    failed_ = std::move(failed);
    text_.clear();
    struct stat info {};
    if (::stat(program_.c_str(), &info) != 0)
        return fail("upgrade-failed", fmt::format("{}: {}", program_, std::strerror(errno)));
    if (!S_ISREG(info.st_mode) || info.st_uid != 0 || (info.st_mode & 022) != 0)
        return fail("unsafe",
                    fmt::format("{} is not root's alone to write: it is not run", program_));
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0)
        return fail("upgrade-failed", fmt::format("make a pipe: {}", std::strerror(errno)));
    answer_.reset(ends[0]);
    Fd theirs(ends[1]);
    worker::SpawnRequest request;
    request.program = program_;
    request.command = {"drover", "can-go-on", cluster_};
    request.environment = worker::own_environment();
    request.stdout_fd = theirs.get();
    request.stderr_fd = theirs.get();
    auto spawned = worker::spawn(request);
    if (!spawned) return fail("upgrade-failed", spawned.error().text);
    process_ = std::move(*spawned);
    on_answer_ = loop_.on_io(answer_.get(), EPOLLIN, [this](uint32_t) { read_answer(); });
    on_end_ = loop_.on_io(process_.pidfd.get(), EPOLLIN, [this](uint32_t) { answered(); });
    on_late_ = loop_.after(kAnswerDeadline, [this] {
        (void)sys::pidfd_send_signal(process_.pidfd.get(), SIGKILL);
        text_ = "it does not answer";
    });
}

void Upgrade::read_answer() {
    std::array<char, kLongestAnswer> bytes{};
    ssize_t size = ::read(answer_.get(), bytes.data(), bytes.size());
    if (size > 0 && text_.size() < kLongestAnswer)
        text_.append(bytes.data(), static_cast<size_t>(size));
    if (size == 0) on_answer_.reset();
}

void Upgrade::answered() {
    auto ended = worker::reap(process_.pidfd.get());
    if (!ended) return;
    read_answer();
    bool can = ended->code == 0 && text_ == kCanGoOn;
    while (text_.ends_with('\n')) text_.pop_back();
    if (!can)
        return fail("upgrade-failed",
                    fmt::format("{} cannot take the place of this one, which goes on: {}", program_,
                                text_.empty() ? "it does not say why" : text_));
    on_end_.reset();
    on_late_.reset();
    become_it(0);
}

// What is passed on, for the time of the execve().
void Upgrade::offer(bool offered) {
    for (const auto& [variable, fd] : passed_on_) {
        ::fcntl(fd, F_SETFD, offered ? 0 : FD_CLOEXEC);
        if (offered)
            ::setenv(variable.c_str(), std::to_string(fd).c_str(), 1);
        else
            ::unsetenv(variable.c_str());
    }
}

// Waits a little for a moment in which nothing is half done.
void Upgrade::become_it(int looks) {
    auto in_the_way = effects_.in_the_way();
    if (!in_the_way.empty() && looks < kMostLooks) {
        on_look_ = loop_.after(kLook, [this, looks] { become_it(looks + 1); });
        return;
    }
    if (!in_the_way.empty())
        return fail("bad-state", fmt::format("{}, for {} s now: try again", in_the_way,
                                             kMostLooks * kLook.count() / 1000));
    auto keepers = effects_.prepare_exec();
    ::setenv(kKeeperFds, fmt::format("{}", fmt::join(keepers, ",")).c_str(), 1);
    offer(true);
    std::array<char*, 4> arguments = {const_cast<char*>("drover"), const_cast<char*>("go-on"),
                                      cluster_.data(), nullptr};
    ::execv(program_.c_str(), arguments.data());
    int error = errno;
    ::unsetenv(kKeeperFds);
    offer(false);
    effects_.undo_prepare_exec();
    fail("upgrade-failed", fmt::format("{}: {}", program_, std::strerror(error)));
}

}  // namespace drover::supervisor
