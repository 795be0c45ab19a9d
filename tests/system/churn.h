// SPDX-License-Identifier: MIT
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace drover::test {

// What clients do to port 8080, at random; nothing is noted but what is open.
class Churn {
  public:
    explicit Churn(uint32_t seed) : random_(seed) {}

    void step() {
        size_t open = open_.size();
        if (open < 200 && (open < 20 || draw(2) == 0)) return connect();
        size_t chosen = draw(open);
        end(open_[chosen]);
        open_[chosen] = open_.back();
        open_.pop_back();
    }
    void close_all() {
        for (int fd : open_) ::close(fd);
        open_.clear();
    }
    ~Churn() { close_all(); }
    Churn(const Churn&) = delete;
    Churn& operator=(const Churn&) = delete;

    [[nodiscard]] int connected() const { return connected_; }

  private:
    size_t draw(size_t below) { return random_() % below; }

    void connect() {
        int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in target{};
        target.sin_family = AF_INET;
        target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        target.sin_port = htons(8080);
        if (::connect(fd, reinterpret_cast<sockaddr*>(&target), sizeof(target)) != 0) {
            ::close(fd);
            return;
        }
        connected_++;
        // Some say nothing, some ask for what keeps the connection open, some for an end.
        static const std::array<const char*, 4> kRequests = {
            "", "GET /hold HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
            "GET /wait?5 HTTP/1.1\r\n\r\n"};
        const char* request = kRequests[draw(kRequests.size())];
        [[maybe_unused]] auto sent = ::send(fd, request, std::strlen(request), MSG_NOSIGNAL);
        if (draw(8) == 0) {
            ::shutdown(fd, SHUT_WR);
        }
        open_.push_back(fd);
    }

    // By closing, or by a reset.
    void end(int fd) {
        if (draw(3) == 0) {
            linger at_once{1, 0};
            ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
        }
        ::close(fd);
    }

    std::mt19937 random_;
    std::vector<int> open_;
    int connected_ = 0;
};

}  // namespace drover::test
