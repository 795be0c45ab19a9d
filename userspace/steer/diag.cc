// SPDX-License-Identifier: MIT
#include "steer/diag.h"

#include <dirent.h>
#include <fmt/format.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>

#include "base/fd.h"

namespace drover::steer {

namespace {

Socket read_socket(const nlmsghdr* header) {
    const auto* message = static_cast<const inet_diag_msg*>(NLMSG_DATA(header));
    Socket socket;
    socket.local.key.family = message->idiag_family;
    socket.local.key.port = ntohs(message->id.idiag_sport);
    std::memcpy(socket.local.key.addr, message->id.idiag_src,
                message->idiag_family == AF_INET ? 4 : 16);
    socket.cookie =
        (static_cast<uint64_t>(message->id.idiag_cookie[1]) << 32) | message->id.idiag_cookie[0];
    socket.inode = message->idiag_inode;
    socket.uid = message->idiag_uid;
    socket.queued = message->idiag_rqueue;
    socket.backlog = message->idiag_wqueue;
    auto length = static_cast<int>(header->nlmsg_len - NLMSG_LENGTH(sizeof(*message)));
    const auto* attribute = reinterpret_cast<const rtattr*>(message + 1);
    for (; RTA_OK(attribute, length); attribute = RTA_NEXT(attribute, length)) {
        if (attribute->rta_type == INET_DIAG_CGROUP_ID)
            std::memcpy(&socket.cgroup_id, RTA_DATA(attribute), sizeof(socket.cgroup_id));
        if (attribute->rta_type == INET_DIAG_SKV6ONLY)
            socket.v6only = *static_cast<const uint8_t*>(RTA_DATA(attribute)) != 0;
    }
    return socket;
}

Result<void> dump_family(int netlink, int family, uint32_t states, std::vector<Socket>& sockets) {
    struct {
        nlmsghdr header;
        inet_diag_req_v2 request;
    } ask{};
    ask.header.nlmsg_len = sizeof(ask);
    ask.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
    ask.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    ask.request.sdiag_family = static_cast<uint8_t>(family);
    ask.request.sdiag_protocol = IPPROTO_TCP;
    ask.request.idiag_states = states;
    if (::send(netlink, &ask, sizeof(ask), 0) < 0)
        return fail_errno(errno, "ask the kernel for its sockets (sock_diag)");

    alignas(nlmsghdr) std::array<char, 32768> buffer;
    while (true) {
        ssize_t received = ::recv(netlink, buffer.data(), buffer.size(), 0);
        if (received < 0 && errno == EINTR) continue;
        if (received < 0) return fail_errno(errno, "read the kernel's list of sockets");
        auto left = static_cast<unsigned int>(received);
        auto* header = reinterpret_cast<nlmsghdr*>(buffer.data());
        for (; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
            if (header->nlmsg_type == NLMSG_DONE) return {};
            if (header->nlmsg_type == NLMSG_ERROR) {
                const auto* error = static_cast<const nlmsgerr*>(NLMSG_DATA(header));
                return fail_errno(-error->error, "list the kernel's sockets (sock_diag)");
            }
            sockets.push_back(read_socket(header));
        }
    }
}

bool has_inode(const std::string& fd_folder, const std::string& wanted) {
    std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(fd_folder.c_str()), ::closedir);
    if (!folder) return false;
    while (const dirent* entry = ::readdir(folder.get())) {
        std::array<char, 64> target{};
        auto path = fd_folder + "/" + entry->d_name;
        if (::readlink(path.c_str(), target.data(), target.size() - 1) > 0 &&
            wanted == target.data())
            return true;
    }
    return false;
}

std::string command_of(const std::string& pid) {
    std::ifstream file("/proc/" + pid + "/cmdline");
    std::stringstream content;
    content << file.rdbuf();
    std::string command = content.str();
    while (!command.empty() && command.back() == '\0') command.pop_back();
    for (char& c : command)
        if (static_cast<unsigned char>(c) < ' ') c = ' ';
    constexpr size_t kShown = 80;
    if (command.size() > kShown) command.replace(kShown, std::string::npos, "…");
    return command.empty() ? "?" : command;
}

}  // namespace

Result<std::vector<Socket>> list_sockets(uint32_t states) {
    Fd netlink(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
    if (!netlink.is_open()) return fail_errno(errno, "open a sock_diag socket");
    std::vector<Socket> sockets;
    for (int family : {AF_INET, AF_INET6}) {
        auto dumped = dump_family(netlink.get(), family, states, sockets);
        // A host without IPv6 has no such sockets either.
        if (!dumped && !(family == AF_INET6 && dumped.error().number == ENOENT))
            return tl::unexpected(dumped.error());
    }
    return sockets;
}

Owner find_owner(uint32_t inode) {
    Owner owner{0, "?"};
    std::string wanted = fmt::format("socket:[{}]", inode);
    std::unique_ptr<DIR, int (*)(DIR*)> proc(::opendir("/proc"), ::closedir);
    if (!proc) return owner;
    while (const dirent* entry = ::readdir(proc.get())) {
        std::string name = entry->d_name;
        if (name.find_first_not_of("0123456789") != std::string::npos) continue;
        if (!has_inode("/proc/" + name + "/fd", wanted)) continue;
        owner.pid = std::atoi(name.c_str());
        owner.command = command_of(name);
        return owner;
    }
    return owner;
}

}  // namespace drover::steer
