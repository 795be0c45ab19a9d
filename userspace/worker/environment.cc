// SPDX-License-Identifier: MIT
//
// Who a worker is (find_identity) and which environment it sees (worker_environment).
#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <string_view>
#include <unordered_map>

#include "worker/spawn.h"

namespace drover::worker {

namespace {

// (uid_t)-1 means "leave as it is" to the kernel, so it is not a user.
std::optional<uint32_t> parse_id(const std::string& text) {
    uint32_t id = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
    if (error != std::errc{} || end != text.data() + text.size() || id == UINT32_MAX) return {};
    return id;
}

std::vector<gid_t> groups_of(const std::string& name, gid_t gid) {
    std::vector<gid_t> groups(16);
    int count = static_cast<int>(groups.size());
    if (::getgrouplist(name.c_str(), gid, groups.data(), &count) < 0) {
        groups.resize(static_cast<size_t>(count));
        if (::getgrouplist(name.c_str(), gid, groups.data(), &count) < 0) return {gid};
    }
    groups.resize(static_cast<size_t>(count));
    return groups;
}

// Services' users have a shell that refuses to run. As SHELL it would only break programs.
bool refuses_to_run(std::string_view shell) {
    return shell.ends_with("/nologin") || shell.ends_with("/false");
}

bool is_withheld(std::string_view name) {
    constexpr std::array<std::string_view, 5> kPrefixes = {"SUDO_", "LISTEN_", "NODE_CHANNEL_",
                                                           "WATCHDOG_", "DROVER_"};
    for (auto prefix : kPrefixes)
        if (name.starts_with(prefix)) return true;
    return name == "NOTIFY_SOCKET" || name == "NODE_UNIQUE_ID";
}

// NAME=VALUE variables without duplicates, in the order of first appearance.
class Variables {
  public:
    void set(std::string_view name, std::string_view value) {
        auto variable = fmt::format("{}={}", name, value);
        auto [known, is_new] = places_.try_emplace(std::string(name), variables_.size());
        if (is_new) {
            variables_.push_back(std::move(variable));
            return;
        }
        variables_[known->second] = std::move(variable);
    }
    // Takes "NAME=VALUE"; anything else is no variable and is left out.
    void set(std::string_view assignment) {
        auto equals = assignment.find('=');
        if (equals == 0 || equals == std::string_view::npos) return;
        set(assignment.substr(0, equals), assignment.substr(equals + 1));
    }
    std::vector<std::string> take() { return std::move(variables_); }

  private:
    std::vector<std::string> variables_;
    std::unordered_map<std::string, size_t> places_;
};

}  // namespace

Result<std::optional<Identity>> find_identity(const std::string& user, const std::string& group) {
    if (user.empty() && group.empty()) return std::nullopt;
    Identity identity;
    identity.uid = ::geteuid();
    identity.gid = ::getegid();
    bool is_in_passwd = false;

    if (!user.empty()) {
        auto number = parse_id(user);
        const passwd* entry = ::getpwnam(user.c_str());
        if (entry == nullptr && number) entry = ::getpwuid(*number);
        if (entry == nullptr && !number)
            return fail("usage", fmt::format("--user {}: there is no such user", user));
        if (entry == nullptr && group.empty())
            return fail("usage",
                        fmt::format("--user {}: this number has no entry in /etc/passwd, so "
                                    "its group is not known: give --group too",
                                    user));
        if (entry == nullptr) {
            identity.uid = *number;
        } else {
            is_in_passwd = true;
            identity.uid = entry->pw_uid;
            identity.gid = entry->pw_gid;
            identity.name = entry->pw_name;
            identity.home = entry->pw_dir;
            if (!refuses_to_run(entry->pw_shell)) identity.shell = entry->pw_shell;
        }
    }

    if (!group.empty()) {
        auto number = parse_id(group);
        if (const struct group* entry = ::getgrnam(group.c_str()); entry != nullptr)
            identity.gid = entry->gr_gid;
        else if (number)
            identity.gid = *number;
        else
            return fail("usage", fmt::format("--group {}: there is no such group", group));
    }

    identity.groups = {identity.gid};
    if (is_in_passwd) identity.groups = groups_of(identity.name, identity.gid);
    return identity;
}

std::vector<std::string> worker_environment(const std::vector<std::string>& inherited,
                                            const std::optional<Identity>& identity,
                                            const std::vector<std::string>& extra) {
    // The master's own are not the worker's once the user changes, even where the new user has
    // none.
    bool changes_user = identity && (!identity->name.empty() || identity->uid != 0);
    auto is_the_masters = [&](std::string_view name) {
        return changes_user &&
               (name == "HOME" || name == "USER" || name == "LOGNAME" || name == "SHELL");
    };
    Variables variables;
    for (const auto& assignment : inherited) {
        auto name = std::string_view(assignment).substr(0, assignment.find('='));
        if (!is_withheld(name) && !is_the_masters(name)) variables.set(assignment);
    }
    if (identity && !identity->home.empty()) variables.set("HOME", identity->home);
    if (identity && !identity->name.empty()) {
        variables.set("USER", identity->name);
        variables.set("LOGNAME", identity->name);
    }
    if (identity && !identity->shell.empty()) variables.set("SHELL", identity->shell);
    for (const auto& assignment : extra) variables.set(assignment);
    return variables.take();
}

std::vector<std::string> own_environment() {
    std::vector<std::string> environment;
    for (char** variable = ::environ; variable != nullptr && *variable != nullptr; ++variable)
        environment.emplace_back(*variable);
    return environment;
}

}  // namespace drover::worker
