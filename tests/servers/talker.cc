// SPDX-License-Identifier: MIT
//
// A worker that talks: the example of include/drover/worker.hpp, and what the tests of messages
// start. It serves a little HTTP as well, on the sockets that were passed to it or on one of its
// own; without either it only talks. It runs without drover, too.
//
//     talker [--port N]          listen on 0.0.0.0:N, unless sockets were passed
//            [--ready-after-ms N]
//            [--load N]          report this load at the start
//
// GET / is answered with "pid P instance I worker W fds NAME,NAME".
//
// What it does with a message, by its data (everything else goes back to who sent it; what another
// worker sends, is told to the master as {"got":…,"from":ID}):
//
//     {"do":"broadcast","say":X}      X goes to all workers
//     {"do":"tell","id":3,"say":X}    X goes to worker 3
//     {"do":"load","value":0.5}       reports the load
//     {"do":"flood","count":N}        0 … N − 1 go to the master, none is lost
//     {"do":"raw","hex":"7b0a"}       these bytes go out as they are: garbage
//     {"do":"big","bytes":N}          one line of N bytes goes out
//     {"do":"deaf"}                   reads no messages any more
//     {"do":"exit","code":N}
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <drover/worker.hpp>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace {

using std::chrono::milliseconds;

struct Options {
    int port = 0;
    int ready_after_ms = 0;
    double load = -1;
};

Options read_options(int argc, char** argv) {
    Options options;
    for (int i = 1; i + 1 < argc; i += 2) {
        std::string name = argv[i];
        if (name == "--port") options.port = std::atoi(argv[i + 1]);
        if (name == "--ready-after-ms") options.ready_after_ms = std::atoi(argv[i + 1]);
        if (name == "--load") options.load = std::atof(argv[i + 1]);
    }
    return options;
}

int listen_on(int port) {
    int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    if (::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
        ::listen(fd, 4096) != 0) {
        std::perror("talker: listen");
        std::exit(1);
    }
    return fd;
}

// What a program would use a JSON library for. The commands' fields are plain enough for this.
std::string field(const std::string& json, const char* name) {
    std::string value;
    drover::worker_detail::each_field(json, drover::Channel::kMaxDepth,
                                      [&](std::string_view key, std::string_view text) {
                                          if (key == name) value = text;
                                      });
    return value;
}

uint64_t number(const std::string& text) {
    return std::strtoull(text.c_str(), nullptr, 10);
}

// From a JSON string of hexadecimal digits.
std::string from_hex(const std::string& json) {
    std::string bytes;
    for (size_t i = 1; i + 2 < json.size(); i += 2)
        bytes += static_cast<char>(std::strtoul(json.substr(i, 2).c_str(), nullptr, 16));
    return bytes;
}

class Talker {
  public:
    explicit Talker(Options options) : options_(options), channel_(drover::Channel::open()) {
        for (auto& passed : drover::listening_fds()) {
            listeners_.push_back(passed.fd);
            names_ += (names_.empty() ? "" : ",") + passed.name;
        }
        if (listeners_.empty() && options.port != 0) listeners_.push_back(listen_on(options.port));
    }

    int run() {
        if (options_.ready_after_ms > 0)
            ::usleep(static_cast<useconds_t>(options_.ready_after_ms) * 1000);
        channel_.ready();
        if (options_.load >= 0) channel_.report_load(options_.load);
        std::printf("talker: worker %llu instance %d of %d, %zu sockets\n",
                    static_cast<unsigned long long>(drover::worker_id()), drover::instance(),
                    drover::workers(), listeners_.size());
        std::fflush(stdout);
        while (!done_) serve_once();
        channel_.flush(milliseconds(1000));
        return status_;
    }

  private:
    void serve_once() {
        std::vector<pollfd> polls;
        polls.push_back({is_deaf_ ? -1 : channel_.fd(), POLLIN, 0});
        polls.push_back({channel_.has_unsent() ? channel_.write_fd() : -1, POLLOUT, 0});
        for (int listener : listeners_) polls.push_back({listener, POLLIN, 0});
        if (::poll(polls.data(), polls.size(), -1) < 0) return;
        channel_.flush();
        while (!is_deaf_ && !done_) {
            auto message = channel_.receive();
            if (!message) break;
            obey(*message);
        }
        for (size_t i = 2; i < polls.size(); ++i)
            if ((polls[i].revents & POLLIN) != 0) answer(polls[i].fd);
    }

    void obey(const drover::Message& message) {
        if (message.kind == drover::Message::Kind::disconnect) {
            for (int listener : listeners_) ::close(listener);
            listeners_.clear();
            channel_.disconnect();
            done_ = true;
            return;
        }
        if (message.from != 0) {
            say("{\"got\":" + message.data + ",\"from\":" + std::to_string(message.from) + "}");
            return;
        }
        auto what = field(message.data, "do");
        auto words = field(message.data, "say");
        if (what == "\"broadcast\"") {
            say(words, drover::To::all());
        } else if (what == "\"tell\"") {
            say(words, drover::To::worker(number(field(message.data, "id"))));
        } else if (what == "\"load\"") {
            channel_.report_load(std::atof(field(message.data, "value").c_str()));
        } else if (what == "\"flood\"") {
            long count = std::atol(field(message.data, "count").c_str());
            for (long i = 0; i < count; ++i) say(std::to_string(i));
        } else if (what == "\"raw\"") {
            write_raw(from_hex(field(message.data, "hex")));
        } else if (what == "\"big\"") {
            write_raw(std::string(number(field(message.data, "bytes")), 'x') + "\n");
        } else if (what == "\"deaf\"") {
            is_deaf_ = true;
        } else if (what == "\"exit\"") {
            done_ = true;
            status_ = std::atoi(field(message.data, "code").c_str());
        } else {
            say(message.data);
        }
    }

    // Tries again while the queue is full: so nothing is lost.
    void say(const std::string& data, drover::To to = drover::To::master()) {
        while (channel_.send(data, to) == drover::Sent::queue_full)
            channel_.flush(milliseconds(100));
    }

    // Past the library, which would not let it through.
    void write_raw(const std::string& bytes) {
        channel_.flush(milliseconds(-1));
        for (size_t at = 0; at < bytes.size();) {
            ssize_t size = ::write(channel_.write_fd(), bytes.data() + at, bytes.size() - at);
            if (size > 0) {
                at += static_cast<size_t>(size);
                continue;
            }
            if (errno != EAGAIN && errno != EINTR) return;
            pollfd room{channel_.write_fd(), POLLOUT, 0};
            ::poll(&room, 1, -1);
        }
    }

    void answer(int listener) {
        int fd = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
        if (fd < 0) return;
        char request[4096];
        if (::recv(fd, request, sizeof(request), 0) > 0) {
            std::string body = "pid " + std::to_string(::getpid()) + " instance " +
                               std::to_string(drover::instance()) + " worker " +
                               std::to_string(drover::worker_id()) + " fds " + names_ + "\n";
            std::string text = "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) +
                               "\r\nConnection: close\r\n\r\n" + body;
            (void)::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
        }
        ::close(fd);
    }

    Options options_;
    drover::Channel channel_;
    std::vector<int> listeners_;
    std::string names_;
    bool is_deaf_ = false;
    bool done_ = false;
    int status_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
    return Talker(read_options(argc, argv)).run();
}
