// SPDX-License-Identifier: MIT
#include "worker/exec_error.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <glob.h>
#include <pwd.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <string_view>

namespace drover::worker {

namespace {

// Where the environment has no PATH, as shells do.
constexpr std::string_view kDefaultPath = "/usr/local/bin:/usr/bin:/bin";

const std::string& program_of(const SpawnRequest& request) {
    return request.program.empty() ? request.command.front() : request.program;
}

bool is_path(const std::string& program) {
    return program.find('/') != std::string::npos;
}

std::string path_of(const SpawnRequest& request) {
    for (const auto& variable : request.environment)
        if (variable.starts_with("PATH=")) return variable.substr(5);
    return std::string(kDefaultPath);
}

// As the parent sees the path; the child has changed to the cwd before exec.
std::string from_here(const std::string& path, const SpawnRequest& request) {
    if (path.starts_with('/') || request.cwd.empty()) return path;
    return request.cwd + "/" + path;
}

std::string user_of(const SpawnRequest& request) {
    if (!request.identity) return "root";
    if (!request.identity->name.empty()) return request.identity->name;
    return fmt::format("number {}", request.identity->uid);
}

Error sentence(int number, std::string text) {
    return Error{"exec", std::move(text), number};
}

// What is found ends up on root's terminal, and a home's owner names the folders in it.
bool is_printable(std::string_view path) {
    return std::none_of(path.begin(), path.end(),
                        [](unsigned char c) { return c < 32 || c > 126; });
}

bool is_executable_file(const std::string& path) {
    struct stat info {};
    return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && (info.st_mode & 0111) != 0;
}

std::vector<std::string> folders_like(const std::string& pattern) {
    glob_t found{};
    std::vector<std::string> folders;
    if (::glob(pattern.c_str(), GLOB_ONLYDIR, nullptr, &found) == 0)
        folders.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
    ::globfree(&found);
    // v20 before v8: the newest version is the likeliest.
    std::sort(folders.begin(), folders.end(), [](const std::string& a, const std::string& b) {
        return ::strverscmp(a.c_str(), b.c_str()) > 0;
    });
    return folders;
}

std::string not_found(const SpawnRequest& request, const std::string& sudo_user) {
    const auto& program = program_of(request);
    if (is_path(program)) return fmt::format("no such command: {}", from_here(program, request));
    auto text = fmt::format("no such command: {} (looked in PATH {})", program, path_of(request));
    if (sudo_user.empty()) return text;
    const passwd* entry = ::getpwnam(sudo_user.c_str());
    auto place = find_in_usual_places(program, entry != nullptr ? entry->pw_dir : "");
    text += "; sudo replaced the PATH of " + sudo_user;
    if (place.empty())
        return text + ": give the absolute path, or use sudo env \"PATH=$PATH\" drover …";
    return text + fmt::format(
                      ": give the absolute path, which is likely {}, or use sudo env "
                      "\"PATH=$PATH\" drover …",
                      place);
}

std::string no_permission(const std::string& path, const struct stat& info,
                          const SpawnRequest& request) {
    if (S_ISDIR(info.st_mode)) return fmt::format("cannot execute {}: it is a folder", path);
    if (!S_ISREG(info.st_mode)) return fmt::format("cannot execute {}: it is not a file", path);
    if ((info.st_mode & 0111) == 0)
        return fmt::format("cannot execute {}: it is not marked executable (chmod +x)", path);
    if (request.identity && request.identity->uid != 0)
        return fmt::format(
            "cannot execute {} as user {}: permission denied; the user needs the right to execute "
            "the file and to enter each folder above it",
            path, user_of(request));
    return fmt::format("cannot execute {}: permission denied; is its file system mounted noexec?",
                       path);
}

// execve says ENOENT also where the file is there and its interpreter is not.
std::string no_interpreter(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    if (file.get() == '#' && file.get() == '!') std::getline(file, line);
    auto begin = line.find_first_not_of(" \t");
    if (begin == std::string::npos)
        return fmt::format(
            "cannot execute {}: the dynamic loader that it was built for is not here", path);
    auto end = std::min(line.find_first_of(" \t\r", begin), line.size());
    bool is_from_windows = line.ends_with('\r');
    return fmt::format("cannot execute {}: its first line names {}, which does not exist{}", path,
                       line.substr(begin, end - begin),
                       is_from_windows ? " (the line ends in a carriage return)" : "");
}

std::string no_exec(const ExecFailure& failure, const SpawnRequest& request,
                    const std::string& sudo_user) {
    auto candidates = program_candidates(request);
    if (failure.number == ENOENT || failure.number == EACCES || failure.number == ENOTDIR) {
        // A PATH folder that the user may not enter is EACCES too, even if the program is not in
        // it. So what counts is the first candidate that exists.
        for (const auto& candidate : candidates) {
            auto path = from_here(candidate, request);
            struct stat info {};
            if (::stat(path.c_str(), &info) != 0) continue;
            if (failure.number == EACCES) return no_permission(path, info, request);
            if (failure.number == ENOENT) return no_interpreter(path);
        }
        return not_found(request, sudo_user);
    }
    auto index = static_cast<size_t>(failure.candidate);
    auto path = index < candidates.size() ? from_here(candidates[index], request) : "";
    if (failure.number == ENOEXEC)
        return fmt::format(
            "cannot execute {}: it is no program for this machine; a script needs a first line "
            "like "
            "#!/bin/sh",
            path);
    if (failure.number == ETXTBSY)
        return fmt::format("cannot execute {}: somebody has it open for writing", path);
    if (failure.number == EAGAIN)
        return fmt::format("cannot execute {}: user {} has too many processes", path,
                           user_of(request));
    return fmt::format("cannot execute {}: {}", path, std::strerror(failure.number));
}

}  // namespace

std::vector<std::string> program_candidates(const SpawnRequest& request) {
    const auto& program = program_of(request);
    if (is_path(program) || program.empty()) return {program};
    std::vector<std::string> candidates;
    auto path = path_of(request);
    for (size_t begin = 0; begin <= path.size();) {
        auto end = std::min(path.find(':', begin), path.size());
        auto folder = path.substr(begin, end - begin);
        candidates.push_back((folder.empty() ? "." : folder) + "/" + program);
        begin = end + 1;
    }
    return candidates;
}

Error describe_exec_failure(const ExecFailure& failure, const SpawnRequest& request,
                            const std::string& sudo_user) {
    std::string why = std::strerror(failure.number);
    switch (failure.stage) {
        case Stage::fds:
            return sentence(failure.number, fmt::format("set up the file descriptors of {}: {}",
                                                        program_of(request), why));
        case Stage::nofile:
            return sentence(
                failure.number,
                fmt::format("set the limit of open files to {}: {}",
                            request.nofile.value_or(request.soft_nofile.value_or(0)), why));
        case Stage::user:
            return sentence(failure.number,
                            fmt::format("become user {}: {}", user_of(request), why));
        case Stage::no_new_privs:
            return sentence(failure.number, fmt::format("set no_new_privs: {}", why));
        case Stage::cwd:
            return sentence(failure.number,
                            fmt::format("enter the working directory {} as user {}: {}",
                                        request.cwd, user_of(request), why));
        case Stage::exec:
            return sentence(failure.number, no_exec(failure, request, sudo_user));
    }
    return sentence(failure.number, fmt::format("start {}: {}", program_of(request), why));
}

std::string find_in_usual_places(const std::string& program, const std::string& home) {
    std::vector<std::string> patterns;
    if (!home.empty())
        for (const char* place :
             {"/.nvm/versions/node/*/bin", "/.local/bin", "/bin", "/.cargo/bin"})
            patterns.push_back(home + place);
    patterns.insert(patterns.end(), {"/usr/local/bin", "/opt/*/bin"});
    for (const auto& pattern : patterns)
        for (const auto& folder : folders_like(pattern)) {
            auto path = folder + "/" + program;
            if (is_printable(path) && is_executable_file(path)) return path;
        }
    return "";
}

}  // namespace drover::worker
