// SPDX-License-Identifier: MIT
#include "steer/ports.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "base/folder.h"
#include "base/sys.h"
#include "steer/diag.h"

namespace drover::steer {

namespace {

bool is_unspecified(const Endpoint& endpoint) {
    return std::ranges::all_of(endpoint.key.addr, [](uint32_t word) { return word == 0; });
}

// ::ffff:127.0.0.1 is 127.0.0.1.
Endpoint unmapped(Endpoint endpoint) {
    auto& addr = endpoint.key.addr;
    if (endpoint.family() != DROVER_AF_INET6 || addr[0] != 0 || addr[1] != 0 ||
        addr[2] != htonl(0xffff))
        return endpoint;
    addr[0] = addr[3];
    addr[2] = addr[3] = 0;
    endpoint.key.family = DROVER_AF_INET;
    return endpoint;
}

// The lock's name: ports of different network namespaces are different ports.
std::string lock_path(const std::string& folder, int port) {
    struct stat info {};
    ::stat("/proc/self/ns/net", &info);
    return fmt::format("{}/{}-tcp-{}", folder, info.st_ino, port);
}

}  // namespace

bool overlaps(const Endpoint& first, const Endpoint& second) {
    Endpoint a = unmapped(first), b = unmapped(second);
    if (a.port() != b.port()) return false;
    if (a.family() == b.family())
        return is_unspecified(a) || is_unspecified(b) ||
               std::equal(std::begin(a.key.addr), std::end(a.key.addr), std::begin(b.key.addr));
    // [::] takes IPv4 connections too, unless it is v6-only.
    return is_unspecified(a.family() == DROVER_AF_INET6 ? a : b);
}

PortOwnership::PortOwnership(std::string folder, std::string cluster)
    : folder_(std::move(folder)), cluster_(std::move(cluster)) {}

PortOwnership::~PortOwnership() {
    release();
}

// Unlinked while still locked: whoever waits for the old file finds that it is not the one in the
// folder any more (see lock).
void PortOwnership::release() {
    for (const auto& [port, lock] : locks_) ::unlink(lock_path(folder_, port).c_str());
    locks_.clear();
    remove_stale_locks(folder_);  // such as one that could be made and not be locked
}

void remove_stale_locks(const std::string& folder) {
    for (const auto& entry : entries_of(folder)) {
        Fd file(::open(entry.path().c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
        if (file.is_open() && sys::try_lock(file.get()) == 0) ::unlink(entry.path().c_str());
    }
    ::rmdir(folder.c_str());
}

tl::expected<void, Conflict> PortOwnership::lock(int port) {
    if (owns(port)) return {};
    std::string path = lock_path(folder_, port);
    constexpr int kTries = 20;
    for (int tries = 0;; tries++) {
        std::error_code ignored;
        std::filesystem::create_directories(folder_, ignored);
        Fd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
        // Another cluster that ended may just have removed the folder.
        if (!file.is_open() && errno == ENOENT && tries < kTries) continue;
        int locked = file.is_open() ? sys::try_lock(file.get()) : -1;
        if (locked != 0 && errno != EWOULDBLOCK) {
            std::string text =
                fmt::format("cannot lock port {} with {}: {}", port, path, std::strerror(errno));
            return tl::unexpected(Conflict{port, 0, "", text, /*may_pass=*/true});
        }
        if (locked != 0) {
            std::array<char, 128> content{};
            [[maybe_unused]] auto size = ::pread(file.get(), content.data(), content.size() - 1, 0);
            std::string who = content.data();
            int pid = std::atoi(who.c_str());
            auto space = who.find(' ');
            std::string name = space == std::string::npos ? "?" : who.substr(space + 1);
            std::string text = fmt::format(
                "port {} belongs to the cluster \"{}\" (pid {}, command \"drover run\"): stop it "
                "with \"drover stop {}\", or use another port",
                port, name, pid, name);
            return tl::unexpected(Conflict{port, pid, "drover run", text});
        }
        struct stat held {
        }, present{};
        ::fstat(file.get(), &held);
        // The former owner removed the file between our open and our lock: take the new one.
        if (::stat(path.c_str(), &present) != 0 || held.st_ino != present.st_ino) continue;
        std::string content = fmt::format("{} {}", ::getpid(), cluster_);
        [[maybe_unused]] int cut = ::ftruncate(file.get(), 0);
        [[maybe_unused]] auto written = ::pwrite(file.get(), content.data(), content.size(), 0);
        locks_[port] = std::move(file);
        return {};
    }
}

std::optional<Conflict> find_conflict(const Endpoint& at,
                                      const std::function<bool(uint64_t cgroup_id)>& is_ours) {
    auto listeners = list_sockets(kListening);
    if (!listeners) return std::nullopt;  // no sock_diag: doctor says so
    for (const Socket& listener : *listeners) {
        if (!overlaps(at, listener.local) || is_ours(listener.cgroup_id)) continue;
        if (listener.v6only && at.family() == DROVER_AF_INET) continue;
        Owner owner = find_owner(listener.inode);
        std::string text =
            owner.pid == ::getpid()
                ? fmt::format(
                      "port {} is taken: this cluster's own --admin listens on {}: give it "
                      "another port",
                      at.port(), listener.local.text())
                : fmt::format(
                      "port {} is taken: pid {} (\"{}\") listens on {}: stop it, or use "
                      "another port",
                      at.port(), owner.pid, owner.command, listener.local.text());
        return Conflict{at.port(), owner.pid, owner.command, text};
    }
    return std::nullopt;
}

tl::expected<void, Conflict> PortOwnership::claim(
    const Endpoint& at, const std::function<bool(uint64_t cgroup_id)>& is_ours) {
    bool owned_before = owns(at.port());
    if (auto locked = lock(at.port()); !locked) return locked;
    auto conflict = find_conflict(at, is_ours);
    if (!conflict) return {};
    if (!owned_before) {
        ::unlink(lock_path(folder_, at.port()).c_str());
        locks_.erase(at.port());
    }
    return tl::unexpected(*conflict);
}

}  // namespace drover::steer
