// SPDX-License-Identifier: MIT
#include "logger/log_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/log_line.h"

namespace drover::logger {

namespace {

bool is_same_file(const struct stat& one, const struct stat& other) {
    return one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

std::string folder_of(const std::string& path) {
    return std::filesystem::path(path).parent_path();
}

}  // namespace

std::string rotated_name(const std::string& path, int n) {
    return fmt::format("{}.{}", path, n);
}

void LogFile::write(std::string_view lines, WallTime now) {
    if (lines.empty()) return;
    if (!prepare()) return drop(lines, errno);
    std::string note = is_mid_line_ ? "\n" : "";
    if (untold_ > 0)
        note += fmt::format("{}{} lines are missing here: this file could not be written\n",
                            log_line_head(now, std::nullopt, LogStream::drover), untold_);
    if (!append(note).empty()) return drop(lines, errno);
    untold_ = 0;
    if (auto rest = append(lines); !rest.empty()) return drop(rest, errno);
    in_trouble_ = false;
}

std::optional<std::string> LogFile::take_trouble() {
    return std::exchange(trouble_, std::nullopt);
}

bool LogFile::prepare() {
    struct stat named {
    }, ours{};
    bool is_there = ::lstat(path_.c_str(), &named) == 0;
    bool is_ours = is_there && file_.is_open() && ::fstat(file_.get(), &ours) == 0 &&
                   is_same_file(named, ours);
    if (!is_ours && !open()) return false;
    if (::fstat(file_.get(), &ours) != 0) return false;
    if (static_cast<uint64_t>(ours.st_size) < size_) return true;
    rotate();
    return file_.is_open() || open();
}

bool LogFile::open() {
    file_.reset();
    constexpr int kFlags = O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    file_.reset(::open(path_.c_str(), kFlags, 0640));
    if (!file_.is_open() && errno == ENOENT) {
        if (::mkdir(folder_of(path_).c_str(), 0750) != 0 && errno != EEXIST) return false;
        file_.reset(::open(path_.c_str(), kFlags, 0640));
    }
    struct stat info {};
    if (!file_.is_open() || ::fstat(file_.get(), &info) != 0) return false;
    is_mid_line_ = false;
    if (S_ISREG(info.st_mode)) return true;
    file_.reset();
    errno = ENOTSUP;
    return false;
}

// The lock is not waited for: another one has it for just as long as this takes, or it is a folder
// that is open to everybody. A little later is early enough.
void LogFile::rotate() {
    Fd folder(::open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder.is_open() || ::flock(folder.get(), LOCK_EX | LOCK_NB) != 0) return;
    struct stat named {
    }, ours{};
    bool is_ours = ::lstat(path_.c_str(), &named) == 0 && ::fstat(file_.get(), &ours) == 0 &&
                   is_same_file(named, ours);
    if (is_ours) {
        for (int n = keep_ - 1; n > 0; n--)
            (void)std::rename(rotated_name(path_, n).c_str(), rotated_name(path_, n + 1).c_str());
        if (std::rename(path_.c_str(), rotated_name(path_, 1).c_str()) != 0) return;
        // Of a time when more were to be kept.
        for (int n = keep_ + 1; ::unlink(rotated_name(path_, n).c_str()) == 0; n++) {
        }
    }
    file_.reset();
}

std::string_view LogFile::append(std::string_view bytes) {
    while (!bytes.empty()) {
        // cppcheck-suppress invalidLifetime  // taken by value: the caller's text lives on
        auto size = ::write(file_.get(), bytes.data(), bytes.size());
        if (size < 0 && errno == EINTR) continue;
        if (size <= 0) break;
        is_mid_line_ = bytes[static_cast<size_t>(size) - 1] != '\n';
        bytes.remove_prefix(static_cast<size_t>(size));
    }
    return bytes;
}

void LogFile::drop(std::string_view lines, int number) {
    auto count = static_cast<uint64_t>(std::count(lines.begin(), lines.end(), '\n'));
    untold_ += count;
    dropped_total_ += count;
    if (in_trouble_) return;
    in_trouble_ = true;
    trouble_ = fmt::format("{} cannot be written, so lines are missing there: {}", path_,
                           number == ENOTSUP ? "it is no regular file" : std::strerror(number));
}

}  // namespace drover::logger
