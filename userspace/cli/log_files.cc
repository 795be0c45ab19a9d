// SPDX-License-Identifier: MIT
#include "cli/log_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>
#include <vector>

#include "base/fd.h"

namespace drover::cli {

namespace {

constexpr size_t kBlock = 64 * 1024;
constexpr int kMostFiles = 1001;
constexpr std::chrono::milliseconds kBetweenLooks{250};
// Two loggers may write to one file, so its lines are in order but for this much.
constexpr std::chrono::seconds kDisorder{5};

struct File {
    Fd fd;
    dev_t device = 0;
    ino_t inode = 0;
    off_t at = 0;         // where to read on
    std::string partial;  // of a line that is not whole yet
    [[nodiscard]] bool is(const File& other) const {
        return device == other.device && inode == other.inode;
    }
};

Result<File> open_file(const std::string& path) {
    File file;
    file.fd.reset(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!file.fd.is_open()) return fail_errno(errno, fmt::format("read {}", path));
    struct stat info {};
    if (::fstat(file.fd.get(), &info) != 0 || !S_ISREG(info.st_mode))
        return fail("system", fmt::format("{} is no regular file", path));
    file.device = info.st_dev;
    file.inode = info.st_ino;
    return file;
}

// The oldest first. While they are opened one may get its next name, and be found twice.
Result<std::vector<File>> open_files(const std::string& path) {
    std::vector<File> files;
    auto newest = open_file(path);
    if (!newest && newest.error().number != ENOENT) return tl::unexpected(newest.error());
    if (newest) files.push_back(std::move(*newest));
    for (int n = 1; n < kMostFiles; n++) {
        auto file = open_file(fmt::format("{}.{}", path, n));
        if (!file) break;
        bool is_known =
            std::ranges::any_of(files, [&](const File& known) { return known.is(*file); });
        if (!is_known) files.push_back(std::move(*file));
    }
    if (files.empty()) return tl::unexpected(newest.error());
    std::ranges::reverse(files);
    return files;
}

// Calls `look(where it begins, line)` for each line from the last to the first, until it says no.
// Returns whether it never did.
template <class Look>
bool each_line_backwards(const File& file, Look look) {
    off_t at = ::lseek(file.fd.get(), 0, SEEK_END);
    std::string rest;  // what was read, up to the end of the next line to look at
    while (at > 0) {
        auto size = static_cast<size_t>(std::min(at, static_cast<off_t>(kBlock)));
        std::string block(size, '\0');
        at -= static_cast<off_t>(size);
        if (::pread(file.fd.get(), block.data(), size, at) != static_cast<ssize_t>(size))
            return true;  // it was cut off meanwhile
        rest.insert(0, block);
        for (auto end = rest.rfind('\n'); end != std::string::npos; end = rest.rfind('\n')) {
            auto line = std::string_view(rest).substr(end + 1);
            if (!line.empty() && !look(at + static_cast<off_t>(end) + 1, line)) return false;
            rest.resize(end);
        }
    }
    return rest.empty() || look(0, std::string_view(rest));
}

// Sets where to begin in each file; those before are left out.
void seek_begin(std::vector<File>& files, const LogQuery& query) {
    uint64_t found = 0;
    for (auto file = files.rbegin(); file != files.rend(); ++file) {
        file->at = ::lseek(file->fd.get(), 0, SEEK_END);
        bool goes_on = !(query.last && *query.last == 0);
        if (goes_on)
            goes_on = each_line_backwards(*file, [&](off_t begin, std::string_view text) {
                auto line = parse_log_line(text);
                if (!line) return true;
                if (query.since && line->time < *query.since - kDisorder) return false;
                if (!query.wants(*line)) return true;
                file->at = begin;
                return !query.last || ++found < *query.last;
            });
        if (goes_on) continue;
        files.erase(files.begin(), file.base() - 1);
        return;
    }
}

// Tells what is in the file from where it was read to; false where nobody reads.
bool read_on(File& file, const LogQuery& query, const OnLogLine& tell) {
    struct stat info {};
    if (::fstat(file.fd.get(), &info) == 0 && info.st_size < file.at) {
        file.at = 0;  // its content was copied away and cut off
        file.partial.clear();
    }
    std::string block(kBlock, '\0');
    ssize_t size = 0;
    while ((size = ::pread(file.fd.get(), block.data(), block.size(), file.at)) > 0) {
        file.at += size;
        file.partial.append(block, 0, static_cast<size_t>(size));
        size_t begin = 0;
        for (auto end = file.partial.find('\n'); end != std::string::npos;
             end = file.partial.find('\n', begin)) {
            auto line = parse_log_line(std::string_view(file.partial).substr(begin, end - begin));
            begin = end + 1;
            if (line && query.wants(*line) && !tell(*line)) return false;
        }
        file.partial.erase(0, begin);
    }
    return true;
}

// The file of that name is another one now: reads all that came after `current`, which becomes
// that.
bool catch_up(File& current, const std::string& path, const LogQuery& query,
              const OnLogLine& tell) {
    auto files = open_files(path);
    if (!files) return true;
    auto known = std::ranges::find_if(*files, [&](const File& file) { return file.is(current); });
    auto next = known == files->end() ? files->begin() : known + 1;
    for (; next != files->end(); ++next) {
        if (!read_on(current, query, tell)) return false;
        current = std::move(*next);
    }
    return read_on(current, query, tell);
}

}  // namespace

Result<void> read_log_files(const std::string& path, const LogQuery& query, const OnLogLine& tell) {
    auto files = open_files(path);
    while (!files && query.follow && files.error().number == ENOENT) {
        std::this_thread::sleep_for(kBetweenLooks);
        files = open_files(path);
    }
    if (!files) return tl::unexpected(files.error());
    seek_begin(*files, query);
    for (File& file : *files)
        if (!read_on(file, query, tell)) return {};
    LogQuery further = query;
    further.last.reset();
    File current = std::move(files->back());
    bool is_other = false;
    while (query.follow) {
        std::this_thread::sleep_for(kBetweenLooks);
        if (!read_on(current, further, tell)) return {};
        struct stat named {};
        bool was_other = std::exchange(
            is_other, ::lstat(path.c_str(), &named) == 0 &&
                          (named.st_dev != current.device || named.st_ino != current.inode));
        // Not at once: somebody may have been about to write to it when it was renamed.
        if (!was_other || !is_other) continue;
        if (!catch_up(current, path, further, tell)) return {};
        is_other = false;
    }
    return {};
}

}  // namespace drover::cli
