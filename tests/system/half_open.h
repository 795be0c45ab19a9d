// SPDX-License-Identifier: MIT
//
// Handshakes that are half done for as long as a test wants, as those of clients far away are for a
// while: a client has its SYN-ACK and sends its request, but of what comes to the listener nothing
// is let through but SYNs. What was not let through comes again, to who has the handshake then.
#pragma once

#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <string>

#include "base/fd.h"
#include "harness.h"

namespace drover::test {

// Those that the listeners of that process begin from now on. Returns how many listeners it has.
inline int hold_handshakes(pid_t pid) {
    // The filter sees a packet from its TCP header on.
    std::array<sock_filter, 4> only_syns = {{
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, TH_SYN, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0xffff),
        BPF_STMT(BPF_RET | BPF_K, 0),
    }};
    sock_fprog filter{only_syns.size(), only_syns.data()};
    int listeners = 0;
    Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    for (const auto& entry :
         std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
        int number = std::stoi(entry.path().filename());
        Fd copy(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
        int is_listening = 0;
        socklen_t size = sizeof(is_listening);
        if (::getsockopt(copy.get(), SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &size) != 0 ||
            is_listening == 0)
            continue;
        if (::setsockopt(copy.get(), SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) == 0)
            listeners++;
    }
    return listeners;
}

// Of all ports of this network.
inline int half_open_handshakes() {
    int count = 0;
    for (const char* table : {"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"}) {
        std::string text = read_file(table);
        for (size_t at = 0; (at = text.find(" 03 ", at)) != std::string::npos; at++) count++;
    }
    return count;
}

}  // namespace drover::test
