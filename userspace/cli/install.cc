// SPDX-License-Identifier: MIT
#include "cli/install.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/fd.h"
#include "cli/clusters.h"
#include "cli/unit_file.h"

namespace drover::cli {

namespace {

namespace fs = std::filesystem;

constexpr const char* kUnitFolder = "/etc/systemd/system";

int complain(const Error& error) {
    std::fputs(fmt::format("drover: error: {}\n", error.text).c_str(), stderr);
    return error.code == "usage" ? kUsage : kFailed;
}

std::string unit_path(const std::string& cluster) {
    return fmt::format("{}/{}", kUnitFolder, unit_name(cluster));
}

// Waits for its end. What it prints is the user's to see.
bool systemctl(std::vector<std::string> words) {
    words.insert(words.begin(), "systemctl");
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    pid_t pid = 0;
    if (::posix_spawnp(&pid, "systemctl", nullptr, nullptr, arguments.data(), ::environ) != 0)
        return false;
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool systemd_runs() {
    std::error_code none;
    return fs::is_directory("/run/systemd/system", none);
}

// As the user sees it: a symbolic link to the present release is to be followed anew later.
std::string present_folder() {
    const char* logical = std::getenv("PWD");
    std::error_code none;
    if (logical != nullptr && *logical == '/' && fs::equivalent(logical, ".", none)) return logical;
    return fs::current_path(none);
}

// A service's PATH is another than that of the shell in which we are.
Result<std::string> find_program(const std::string& word, const std::string& folder) {
    auto is_program = [](const fs::path& path) {
        std::error_code none;
        return fs::is_regular_file(path, none) && ::access(path.c_str(), X_OK) == 0;
    };
    if (word.find('/') != std::string::npos) {
        if (is_program(fs::path(folder) / word)) return word;
        return fail("usage", fmt::format("there is no program {} (seen from {})", word, folder));
    }
    const char* path = std::getenv("PATH");
    std::istringstream folders(path != nullptr ? path : "/usr/sbin:/usr/bin:/sbin:/bin");
    for (std::string one; std::getline(folders, one, ':');)
        if (one.starts_with('/') && is_program(fs::path(one) / word)) return one + "/" + word;
    return fail("usage", fmt::format("there is no program {} in PATH", word));
}

bool is_given(const UnitRequest& request, std::string_view option) {
    return std::ranges::any_of(request.options,
                               [&](const auto& given) { return given.first == option; });
}

Result<UnitRequest> make_request(const Invocation& invocation, const std::string& program) {
    UnitRequest request{invocation.cluster, program, invocation.changes, invocation.command,
                        invocation.config};
    // A configuration file says it itself, or means its own folder.
    if (!is_given(request, "cwd") && !is_given(request, "config"))
        request.options.emplace_back("cwd", present_folder());
    if (request.command.empty()) return request;
    auto folder = request.config.cwd.empty() ? present_folder() : request.config.cwd;
    auto found = find_program(request.command.front(), folder);
    if (!found) return tl::unexpected(found.error());
    request.command.front() = *found;
    return request;
}

// What systemd is to run as root, none but root may change.
Result<void> check_own_program(const std::string& program) {
    struct stat info {};
    if (::stat(program.c_str(), &info) != 0) return fail_errno(errno, program);
    if (info.st_uid == 0 && (info.st_mode & 022) == 0) return {};
    return fail("unsafe", fmt::format("{} is not root's alone to write, so no service may run it: "
                                      "use the drover of the package, or \"make install\"",
                                      program));
}

// Error "foreign" where there is a file that drover has not written.
Result<std::string> read_unit(const std::string& path) {
    std::ifstream file(path);
    std::stringstream content;
    content << file.rdbuf();
    if (file && !content.str().starts_with(kUnitMark))
        return fail("foreign", fmt::format("{} is not drover's: it stays as it is", path));
    return content.str();
}

// In one step, so that nobody reads half of it.
Result<void> write_unit(const std::string& path, const std::string& text) {
    std::string draft = path + ".new";
    ::unlink(draft.c_str());
    Fd file(::open(draft.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644));
    if (!file.is_open()) return fail_errno(errno, fmt::format("write {}", draft));
    bool written =
        ::fchmod(file.get(), 0644) == 0 &&
        ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
        ::rename(draft.c_str(), path.c_str()) == 0;
    if (written) return {};
    int error = errno;
    ::unlink(draft.c_str());
    return fail_errno(error, fmt::format("write {}", path));
}

Result<void> check_ground(const Invocation& invocation, const Paths& paths) {
    if (::geteuid() != 0) return fail("denied", "only root can install a service: use sudo");
    if (!systemd_runs() && !invocation.no_start)
        return fail("no-systemd",
                    "systemd does not run here: --no-start installs the service for the next boot, "
                    "--print shows it");
    auto running = running_clusters(paths);
    bool runs = std::ranges::find(running, invocation.cluster) != running.end();
    if (!invocation.no_start && runs &&
        !systemctl({"--quiet", "is-active", unit_name(invocation.cluster)}))
        return fail(
            "already-running",
            fmt::format("{0} runs already, not as a service: end it with \"drover stop {0}\" "
                        "first",
                        invocation.cluster));
    return {};
}

}  // namespace

int install(const Invocation& invocation, const Paths& paths, const std::string& program) {
    auto request = make_request(invocation, program);
    if (!request) return complain(request.error());
    std::string text = unit_text(*request);
    if (invocation.print) {
        std::fputs(text.c_str(), stdout);
        return kDone;
    }
    if (auto checked = check_ground(invocation, paths); !checked) return complain(checked.error());
    if (auto checked = check_own_program(program); !checked) return complain(checked.error());
    std::string unit = unit_name(invocation.cluster), path = unit_path(invocation.cluster);
    auto before = read_unit(path);
    if (!before) return complain(before.error());
    if (auto written = write_unit(path, text); !written) return complain(written.error());

    bool runs = systemd_runs() && systemctl({"--quiet", "is-active", unit});
    if (systemd_runs() && !systemctl({"daemon-reload"}))
        return complain({"systemd", "systemd has not read its units anew: see above", 0});
    if (!systemctl({"--quiet", "enable", unit}))
        return complain({"systemd", fmt::format("{} is not enabled: see above", unit), 0});
    if (!invocation.no_start && !systemctl({"start", unit}))
        return complain({"systemd",
                         fmt::format("{} did not start, and is tried again: \"journalctl -u {}\" "
                                     "says more",
                                     unit, unit),
                         0});
    std::printf("installed %s\n", path.c_str());
    if (runs && *before != text)
        std::printf("it runs as before until \"systemctl restart %s\"\n", unit.c_str());
    return kDone;
}

int uninstall(const Invocation& invocation) {
    std::string unit = unit_name(invocation.cluster), path = unit_path(invocation.cluster);
    if (::geteuid() != 0)
        return complain({"denied", "only root can remove a service: use sudo", 0});
    std::error_code none;
    if (!fs::exists(path, none))
        return complain(
            {"no-unit",
             fmt::format("{} is no service of drover's: there is no {}", invocation.cluster, path),
             0});
    if (auto ours = read_unit(path); !ours) return complain(ours.error());
    if (systemd_runs() && !systemctl({"stop", unit}))
        return complain({"systemd", fmt::format("{} did not stop: see above", unit), 0});
    if (!systemctl({"--quiet", "disable", unit}))
        return complain({"systemd", fmt::format("{} is not disabled: see above", unit), 0});
    if (::unlink(path.c_str()) != 0)
        return complain({"errno", fmt::format("remove {}: {}", path, std::strerror(errno)), errno});
    if (systemd_runs()) systemctl({"daemon-reload"});
    std::printf("uninstalled %s\n", invocation.cluster.c_str());
    return kDone;
}

}  // namespace drover::cli
