// SPDX-License-Identifier: MIT
//
// What the tests of the Node channel share: an observer that keeps what it is told, and sockets.
#pragma once

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <chrono>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "base/fd.h"
#include "worker/channel.h"

namespace drover::worker::node_test {

constexpr std::chrono::seconds kDeadline{120};  // for what hangs; the machine may be busy
constexpr uint64_t kId = 7;

struct Recorder : ChannelObserver {
    int online = 0, disconnects = 0, closed = 0;
    std::vector<std::string> messages;
    std::vector<Error> errors;
    std::vector<std::pair<uint64_t, SocketQuery>> queries;
    std::vector<SocketQuery> listening;
    std::function<void(uint64_t, const SocketQuery&)> answer;
    std::function<void()> anything;

    void on_channel_online(uint64_t) override {
        ++online;
        call();
    }
    void on_channel_ready(uint64_t) override { FAIL("Node has no ready"); }
    void on_channel_message(uint64_t worker, const std::string& data, Address to) override {
        CHECK(worker == kId);
        CHECK(to.kind == Address::Kind::master);
        messages.push_back(data);
        call();
    }
    void on_channel_load(uint64_t, double) override { FAIL("Node has no load"); }
    void on_channel_disconnect(uint64_t) override {
        ++disconnects;
        call();
    }
    void on_channel_pong(uint64_t) override { FAIL("Node has no pong"); }
    void on_channel_error(uint64_t, const Error& error) override {
        errors.push_back(error);
        call();
    }
    void on_channel_closed(uint64_t) override {
        ++closed;
        call();
    }
    void on_channel_query(uint64_t, uint64_t query, const SocketQuery& asked) override {
        queries.emplace_back(query, asked);
        if (answer) answer(query, asked);
        call();
    }
    void on_channel_listening(uint64_t, const SocketQuery& query) override {
        listening.push_back(query);
        call();
    }
    void call() {
        if (anything) anything();
    }
    [[nodiscard]] std::vector<std::string> codes() const {
        std::vector<std::string> result;
        for (const auto& error : errors) result.push_back(error.code);
        return result;
    }
};

inline EventLoop make_loop() {
    auto loop = EventLoop::open();
    REQUIRE(loop);
    return std::move(*loop);
}

inline bool wait_for(EventLoop& loop, const std::function<bool()>& condition) {
    auto end = std::chrono::steady_clock::now() + kDeadline;
    while (!condition()) {
        if (std::chrono::steady_clock::now() > end) return false;
        loop.run_once(std::chrono::milliseconds(50));
    }
    return true;
}

// --- Sockets -------------------------------------------------------------------------------------

// Bound, not listening, and blocking: the channel has to see to that.
inline Fd bound_tcp(int port = 0) {
    Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    int on = 1;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    return fd;
}

inline int port_of(int fd) {
    sockaddr_in address{};
    socklen_t size = sizeof(address);
    REQUIRE(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    return ntohs(address.sin_port);
}

}  // namespace drover::worker::node_test
