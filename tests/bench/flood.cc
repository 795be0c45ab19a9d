// SPDX-License-Identifier: MIT
//
// A SYN flood on a server on this machine: handshakes that nobody will end, as many as one thread
// can send, from 65,536 addresses of 127.66.0.0/16.
//
//     flood --port N --seconds S [--rate R]
//
// Only 127.0.0.1 is ever asked, for at most 60 s. Where the network lets answers to 127.66.0.0/16
// vanish (scripts/bench-syn sees to that) the server waits for each of them; else the kernel
// answers with a reset. Prints one line of JSON: SYNs sent, and how many a second.
#include <fmt/format.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "../system/raw_tcp.h"

int main(int argc, char** argv) {
    using Clock = std::chrono::steady_clock;
    double port = 0, seconds = 0, rate = 1e6;
    for (int i = 1; i + 1 < argc; i += 2) {
        std::string name = argv[i];
        double value = std::atof(argv[i + 1]);
        if (name == "--port") port = value;
        if (name == "--seconds") seconds = value;
        if (name == "--rate") rate = value;
    }
    if (port < 1 || port > 65535 || seconds <= 0 || seconds > 60 || rate < 1) {
        std::fputs("usage: flood --port N --seconds S [--rate R]\n", stderr);
        return 2;
    }
    constexpr uint32_t kFirst = (127U << 24) + (66U << 16);
    drover::test::RawTcp raw;
    auto begin = Clock::now();
    auto since = [begin] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
    uint64_t sent = 0;
    for (uint32_t i = 0; since() < seconds; i++) {
        while (static_cast<double>(i) > since() * rate && since() < seconds)
            std::this_thread::sleep_for(std::chrono::microseconds(100));
        if (raw.send_syn(kFirst + (i * 40503U & 0xffff), static_cast<uint16_t>(1024 + i % 60'000),
                         static_cast<uint16_t>(port)))
            sent++;
    }
    fmt::print("{{\"sent\":{},\"sent_per_s\":{:.0f}}}\n", sent,
               static_cast<double>(sent) / since());
    return sent > 0 ? 0 : 1;
}
