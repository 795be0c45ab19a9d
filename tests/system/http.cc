// SPDX-License-Identifier: MIT
#include "http.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <unordered_map>

namespace drover::test {

namespace {

struct Address {
    sockaddr_storage storage{};
    socklen_t size = 0;
};

std::optional<Address> parse(const std::string& text, int port) {
    Address address;
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
    if (::inet_pton(AF_INET, text.c_str(), &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(static_cast<uint16_t>(port));
        address.size = sizeof(*v4);
        return address;
    }
    if (::inet_pton(AF_INET6, text.c_str(), &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(static_cast<uint16_t>(port));
        address.size = sizeof(*v6);
        return address;
    }
    return std::nullopt;
}

std::string kind_of(int number) {
    switch (number) {
        case ECONNREFUSED:
            return "refused";
        case ECONNRESET:
        case EPIPE:
            return "reset";
        case EAGAIN:
        case ETIMEDOUT:
            return "timeout";
        default:
            return std::strerror(number);
    }
}

std::string request_text(const std::string& path, bool keep_alive) {
    return fmt::format("GET {} HTTP/1.1\r\nHost: test\r\nConnection: {}\r\n\r\n", path,
                       keep_alive ? "keep-alive" : "close");
}

// True when `text` is a whole answer: by its Content-Length, or at the end of the stream.
bool is_whole(const std::string& text, bool at_end) {
    auto head = text.find("\r\n\r\n");
    if (head == std::string::npos) return false;
    for (const char* name : {"Content-Length: ", "content-length: "}) {
        auto length = text.find(name);
        if (length == std::string::npos || length > head) continue;
        return text.size() - head - 4 >= std::strtoul(text.c_str() + length + 16, nullptr, 10);
    }
    return at_end;
}

Reply reply_of(const std::string& text) {
    if (text.compare(0, 5, "HTTP/") != 0) return {"", "no HTTP: " + text.substr(0, 40)};
    std::string status = text.substr(9, 3);
    std::string body = text.substr(text.find("\r\n\r\n") + 4);
    if (status != "200") return {body, "status " + status};
    return {body, ""};
}

int number_after(const std::string& body, const std::string& word) {
    auto at = body.find(word + " ");
    if (at == std::string::npos || body.compare(at + word.size() + 1, 1, "-") == 0) return -1;
    return std::atoi(body.c_str() + at + word.size() + 1);
}

}  // namespace

Connection::Connection(const std::string& address, int port, milliseconds deadline,
                       const std::string& client)
    : deadline_(deadline * slowness()) {
    auto target = parse(address, port);
    if (!target) {
        error_ = "no address: " + address;
        return;
    }
    fd_.reset(::socket(target->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    timeval limit{};
    limit.tv_sec = deadline_.count() / 1000;
    limit.tv_usec = deadline_.count() % 1000 * 1000;
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    if (!client.empty()) {
        auto source = parse(client, 0);
        if (!source ||
            ::bind(fd_.get(), reinterpret_cast<sockaddr*>(&source->storage), source->size) != 0) {
            error_ = "no address to connect from: " + client;
            return;
        }
    }
    if (::connect(fd_.get(), reinterpret_cast<sockaddr*>(&target->storage), target->size) != 0)
        error_ = errno == EINPROGRESS ? "timeout" : kind_of(errno);
}

bool Connection::send_request(const std::string& path, bool keep_alive) {
    if (!error_.empty()) return false;
    std::string text = request_text(path, keep_alive);
    if (::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL) ==
        static_cast<ssize_t>(text.size()))
        return true;
    error_ = kind_of(errno);
    return false;
}

Reply Connection::receive() {
    std::string text;
    while (error_.empty()) {
        char buffer[4096];
        ssize_t got = ::recv(fd_.get(), buffer, sizeof(buffer), 0);
        if (got < 0) {
            error_ = kind_of(errno);
            break;
        }
        text.append(buffer, static_cast<size_t>(got));
        if (is_whole(text, got == 0)) return reply_of(text);
        if (got == 0) error_ = "closed";
    }
    return {"", error_};
}

Reply Connection::get(const std::string& path) {
    if (!send_request(path, true)) return {"", error_};
    return receive();
}

Reply get(const std::string& address, int port, const std::string& path, milliseconds deadline,
          const std::string& client) {
    Connection connection(address, port, deadline, client);
    if (!connection.send_request(path, false)) return {"", connection.error()};
    return connection.receive();
}

int instance_in(const std::string& body) {
    return number_after(body, "instance");
}
int pid_in(const std::string& body) {
    return number_after(body, "pid");
}

std::map<int, int> spread(const std::string& address, int port, int requests) {
    std::map<int, int> counts;
    for (int i = 0; i < requests; i++) {
        auto reply = get(address, port);
        if (!reply.ok()) std::printf("request %d: %s\n", i, reply.error.c_str());
        counts[reply.ok() ? instance_in(reply.body) : -1]++;
    }
    return counts;
}

Load::Load(std::string address, int port, int rate)
    : address_(std::move(address)), port_(port), rate_(std::max(10, rate / slowness())) {
    thread_ = std::thread([this] { work(); });
}

Load::~Load() {
    if (thread_.joinable()) stop();
}

Load::Result Load::stop() {
    stopping_ = true;
    thread_.join();
    return result_;
}

bool Load::wait_answered(int more) {
    int target = answered_ + more;
    return eventually([&] { return answered_ >= target; });
}

bool Load::wait_started(int more) {
    int target = started_ + more;
    return eventually([&] { return started_ >= target; });
}

std::string Load::Result::text() const {
    std::string text = fmt::format("{} started, {} failed", started, failed());
    for (const auto& [kind, count] : failures) text += fmt::format(", {} {}", count, kind);
    return text;
}

// One thread, one epoll: a request's fate is its own, the clock alone decides when the next begins.
void Load::work() {
    struct Request {
        Fd fd;
        std::string text;
        Clock::time_point deadline;
        bool sent = false;
    };
    const milliseconds patience = slowness() * kDeadline;
    std::unordered_map<int, Request> open;
    Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
    auto target = parse(address_, port_);
    std::string question = request_text("/", false);
    auto begin = Clock::now();

    auto fail = [&](int fd, const std::string& kind) {
        result_.failures[kind]++;
        open.erase(fd);
    };
    auto begin_one = [&] {
        result_.started++;
        started_++;
        Request request;
        request.fd.reset(
            ::socket(target->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
        request.deadline = Clock::now() + patience;
        int fd = request.fd.get();
        if (::connect(fd, reinterpret_cast<sockaddr*>(&target->storage), target->size) != 0 &&
            errno != EINPROGRESS) {
            result_.failures[kind_of(errno)]++;
            return;
        }
        epoll_event event{};
        event.events = EPOLLOUT;
        event.data.fd = fd;
        ::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event);
        open.emplace(fd, std::move(request));
    };
    auto go_on = [&](int fd) {
        auto found = open.find(fd);
        // Closed here, but a process that was just forked still holds it until its exec: epoll
        // still tells of it, under a number that may be another request's by now. That one's
        // system calls then say EAGAIN.
        if (found == open.end()) return;
        Request& request = found->second;
        if (!request.sent) {
            bool sent = ::send(fd, question.data(), question.size(), MSG_NOSIGNAL) >= 0;
            if (!sent && errno == EAGAIN) return;
            if (!sent) return fail(fd, errno == ECONNRESET ? "reset in the queue" : kind_of(errno));
            request.sent = true;
            epoll_event event{};
            event.events = EPOLLIN;
            event.data.fd = fd;
            ::epoll_ctl(epoll.get(), EPOLL_CTL_MOD, fd, &event);
            return;
        }
        char buffer[4096];
        ssize_t got = ::recv(fd, buffer, sizeof(buffer), 0);
        if (got < 0 && errno == EAGAIN) return;
        if (got < 0) return fail(fd, kind_of(errno));
        request.text.append(buffer, static_cast<size_t>(got));
        if (!is_whole(request.text, got == 0)) {
            if (got == 0) fail(fd, "closed");
            return;
        }
        auto reply = reply_of(request.text);
        if (!reply.ok()) return fail(fd, reply.error);
        open.erase(fd);
        result_.answered++;
        answered_++;
    };

    while (!stopping_ || !open.empty()) {
        auto due =
            static_cast<int>(std::chrono::duration<double>(Clock::now() - begin).count() * rate_);
        while (!stopping_ && result_.started < due) begin_one();
        epoll_event events[256];
        int ready = ::epoll_wait(epoll.get(), events, 256, 1);
        for (int i = 0; i < ready; i++) go_on(events[i].data.fd);
        std::vector<int> late;
        for (const auto& [fd, request] : open)
            if (Clock::now() > request.deadline) late.push_back(fd);
        for (int fd : late) fail(fd, open.at(fd).sent ? "timeout" : "timeout in connect");
    }
}

}  // namespace drover::test
