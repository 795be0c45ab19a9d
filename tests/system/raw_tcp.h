// SPDX-License-Identifier: MIT
//
// TCP segments made by hand, for what no ordinary client does: a SYN that nobody follows up, a
// flood of them. Only 127.0.0.1 is ever their target, and the network is the test's own.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "base/fd.h"

namespace drover::test {

class RawTcp {
  public:
    RawTcp() : socket_(::socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW)) {}

    // Sends a SYN from that address and port of 127.0.0.0/8 (host order), with data where there is
    // some. The kernel answers the SYN-ACK with a reset, as nobody waits for it there.
    bool send_syn(uint32_t from, uint16_t from_port, uint16_t to_port,
                  const std::string& data = {}) const {
        iphdr ip{};
        ip.version = 4;
        ip.ihl = sizeof(ip) / 4;
        ip.ttl = 64;
        ip.protocol = IPPROTO_TCP;
        ip.saddr = htonl(from);
        ip.daddr = htonl(INADDR_LOOPBACK);
        // An option that asks for Fast Open without a cookie: kind 34, length 2, padded.
        std::string carried = data.empty() ? "" : std::string{34, 2, 1, 1};
        tcphdr tcp{};
        tcp.th_sport = htons(from_port);
        tcp.th_dport = htons(to_port);
        tcp.th_seq = htonl(1000);
        tcp.th_flags = TH_SYN;
        tcp.th_win = htons(65535);
        tcp.th_off = (sizeof(tcp) + carried.size()) / 4;
        carried += data;
        tcp.th_sum = checksum(ip, bytes_of(tcp) + carried);
        std::string packet = bytes_of(ip) + bytes_of(tcp) + carried;
        sockaddr_in target{};
        target.sin_family = AF_INET;
        target.sin_addr.s_addr = ip.daddr;
        return ::sendto(socket_.get(), packet.data(), packet.size(), 0,
                        reinterpret_cast<sockaddr*>(&target),
                        sizeof(target)) == static_cast<ssize_t>(packet.size());
    }

  private:
    template <class T>
    static std::string bytes_of(const T& header) {
        return {reinterpret_cast<const char*>(&header), sizeof(header)};
    }

    // Of the segment and the pseudo-header before it (RFC 9293, 3.1).
    static uint16_t checksum(const iphdr& ip, const std::string& segment) {
        uint32_t sum = htons(IPPROTO_TCP) + htons(static_cast<uint16_t>(segment.size()));
        for (uint32_t address : {ip.saddr, ip.daddr}) sum += (address & 0xffff) + (address >> 16);
        for (size_t i = 0; i < segment.size(); i += 2) {
            uint16_t word = 0;
            std::memcpy(&word, segment.data() + i, std::min<size_t>(2, segment.size() - i));
            sum += word;
        }
        while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
        return static_cast<uint16_t>(~sum);
    }

    Fd socket_;
};

}  // namespace drover::test
