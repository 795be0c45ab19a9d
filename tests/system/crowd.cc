// SPDX-License-Identifier: MIT
//
// How it works. A Client has at most one request under way. Its socket is watched edge-triggered
// for everything, so `carry` does whatever can be done until the kernel says EAGAIN. What is to be
// begun later is in `agenda_`, by time; the deadlines are a queue, because all have the same
// patience. Events carry the client's number and that of its connection: one of a connection that
// is closed already is of nobody. (A process that was just forked holds our sockets until its exec,
// so epoll can tell of such.)
//
// Long, because the reader of answers is here, too: the bench's (answer.h) knows no chunked ones,
// and http.h's keeps whole bodies.
#include "crowd.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <optional>
#include <queue>
#include <string_view>
#include <unordered_map>

namespace drover::test {

namespace {

using std::chrono::nanoseconds;
using Time = Clock::time_point;

constexpr uint32_t kSources = 250;  // 127.0.1.1 and the following
constexpr milliseconds kPeriod{100};
constexpr milliseconds kShortest{20};  // from one slow request to the next, however it went
constexpr size_t kExamples = 10;

// One answer, as it comes in pieces. Keeps no more than its head, or a line of the chunked form.
class Answer {
  public:
    enum class State { more, whole, bad };

    State take(std::string_view piece) {
        if (!piece.empty()) begun_ = true;
        while (!piece.empty() && state_ == State::more) state_ = step(piece);
        // Bytes behind the end: nobody has asked for them.
        if (!piece.empty()) state_ = State::bad;
        return state_;
    }

    // The stream has ended: that is the end of an answer that does not state its own.
    State end() {
        if (state_ == State::more && part_ == Part::rest) state_ = State::whole;
        return state_;
    }

    [[nodiscard]] bool has_begun() const { return begun_; }
    [[nodiscard]] bool closes() const { return closes_; }  // no further request on this connection
    [[nodiscard]] int status() const { return status_; }

  private:
    enum class Part { first_line, header, body, rest, chunk_size, chunk, chunk_end, trailer };
    static constexpr size_t kLongestLine = 8'192;

    // Takes some of the piece away.
    State step(std::string_view& piece) {
        if (part_ == Part::rest) {
            piece = {};
            return State::more;
        }
        if (part_ == Part::body || part_ == Part::chunk) {
            auto size = std::min<uint64_t>(piece.size(), left_);
            piece.remove_prefix(size);
            left_ -= size;
            if (left_ > 0) return State::more;
            if (part_ == Part::body) return State::whole;
            part_ = Part::chunk_end;
            return State::more;
        }
        auto end = piece.find('\n');
        line_ += piece.substr(0, end);
        piece.remove_prefix(end == std::string_view::npos ? piece.size() : end + 1);
        if (line_.size() > kLongestLine) return State::bad;
        if (end == std::string_view::npos) return State::more;
        if (!line_.empty() && line_.back() == '\r') line_.pop_back();
        auto state = take_line(line_);
        line_.clear();
        return state;
    }

    State take_line(std::string_view line) {
        switch (part_) {
            case Part::first_line:
                return take_first_line(line);
            case Part::header:
                return line.empty() ? end_head() : take_header(line);
            case Part::chunk_size:
                return take_chunk_size(line);
            case Part::chunk_end:
                part_ = Part::chunk_size;
                return line.empty() ? State::more : State::bad;
            case Part::trailer:
                return line.empty() ? State::whole : State::more;
            default:
                return State::bad;
        }
    }

    State take_first_line(std::string_view line) {
        if (!line.starts_with("HTTP/1.") || line.size() < 12) return State::bad;
        std::from_chars(line.data() + 9, line.data() + 12, status_);
        closes_ = line.starts_with("HTTP/1.0");
        part_ = Part::header;
        return State::more;
    }

    State take_header(std::string_view line) {
        auto colon = line.find(':');
        if (colon == std::string_view::npos) return State::bad;
        std::string name(line.substr(0, colon));
        std::string value(
            line.substr(std::min(line.size(), line.find_first_not_of(' ', colon + 1))));
        auto is = [](const std::string& one, const char* other) {
            return ::strcasecmp(one.c_str(), other) == 0;
        };
        if (is(name, "connection")) closes_ = is(value, "close");
        if (is(name, "transfer-encoding")) chunked_ = is(value, "chunked");
        if (is(name, "content-length")) {
            uint64_t length = 0;
            auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), length);
            if (error != std::errc()) return State::bad;
            length_ = length;
        }
        return State::more;
    }

    State end_head() {
        left_ = length_.value_or(0);
        part_ = chunked_ ? Part::chunk_size : length_ ? Part::body : Part::rest;
        if (part_ == Part::rest) closes_ = true;
        return part_ == Part::body && left_ == 0 ? State::whole : State::more;
    }

    // "1a2b" or "1a2b;extension"
    State take_chunk_size(std::string_view line) {
        auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), left_, 16);
        if (error != std::errc()) return State::bad;
        part_ = left_ == 0 ? Part::trailer : Part::chunk;
        return State::more;
    }

    State state_ = State::more;
    Part part_ = Part::first_line;
    bool begun_ = false;
    bool closes_ = false;
    bool chunked_ = false;
    int status_ = 0;
    std::optional<uint64_t> length_;
    uint64_t left_ = 0;
    std::string line_;
};

enum class Class { fresh, keep_alive, long_lived };

const char* name_of(Class kind) {
    switch (kind) {
        case Class::fresh:
            return "new";
        case Class::keep_alive:
            return "keep-alive";
        default:
            return "long-lived";
    }
}

struct Client {
    Class kind = Class::fresh;
    uint64_t number = 0;
    Fd socket;
    uint32_t connection = 0;  // how many it has had
    bool kept = false;        // the present connection has brought an answer before
    bool asks = false;        // a request is under way
    bool sent = false;
    bool again = false;  // for the second time
    uint64_t request = 0;
    Time due;  // when the request was to be begun
    Answer answer;
};

std::string kind_of(int error) {
    switch (error) {
        case ECONNREFUSED:
            return "refused";
        case ECONNRESET:
        case EPIPE:
            return "reset";
        case EMFILE:
        case ENFILE:
            return "out of descriptors here";
        case EADDRNOTAVAIL:
            return "out of ports here";
        default:
            return std::strerror(error);
    }
}

sockaddr_in loopback(uint32_t number, int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + number);
    address.sin_port = htons(static_cast<uint16_t>(port));
    return address;
}

// Begins to connect; closed where that failed at once (errno says why).
Fd connect_to(int port, uint64_t number) {
    Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket.is_open()) return {};
    int on = 1;
    ::setsockopt(socket.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    auto source = loopback(256 + static_cast<uint32_t>(number % kSources), 0);
    auto target = loopback(0, port);
    if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&source), sizeof(source)) != 0) return {};
    if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&target), sizeof(target)) != 0 &&
        errno != EINPROGRESS)
        return {};
    return socket;
}

std::string request_text(const std::string& path, bool keep, const Words& headers) {
    std::string text = fmt::format("GET {} HTTP/1.1\r\nHost: test\r\nConnection: {}\r\n", path,
                                   keep ? "keep-alive" : "close");
    for (const auto& header : headers) text += header + "\r\n";
    return text + "\r\n";
}

// What the thread does.
class Clients {
  public:
    Clients(const CrowdOptions& options, std::atomic<bool>& stopping, std::atomic<int>& started,
            std::atomic<int>& answered, Crowd::Result& result)
        : options_(options),
          stopping_(stopping),
          started_(started),
          answered_(answered),
          result_(result),
          texts_{request_text(options.path, false, options.headers),
                 request_text(options.path, true, options.headers),
                 request_text(options.long_path, false, options.headers)} {}

    void run() {
        poll_.reset(::epoll_create1(EPOLL_CLOEXEC));
        if (!poll_.is_open()) {
            result_.started = 1;
            result_.failures["no epoll here"] = 1;
            return;
        }
        start_ = Clock::now();
        admit(Class::keep_alive, options_.keep_alive, kPeriod);
        admit(Class::long_lived, options_.long_lived, kPeriod);
        while (!stopping_ || under_way_ > 0) {
            if (!stopping_) begin_those_due();
            wait();
            give_up_late_ones();
        }
    }

  private:
    struct Deadline {
        Time at;
        uint64_t client = 0;
        uint64_t request = 0;
    };
    struct Plan {
        Time at;
        uint64_t client = 0;
        bool operator>(const Plan& other) const { return at > other.at; }
    };

    // So many clients that stay, their first requests spread over the period.
    void admit(Class kind, int count, milliseconds period) {
        for (int i = 0; i < count; i++) {
            uint64_t number = ++last_client_;
            clients_[number].kind = kind;
            clients_[number].number = number;
            agenda_.push({start_ + nanoseconds(period) * i / count, number});
        }
    }

    [[nodiscard]] Time next_new() const {
        if (options_.rate <= 0) return Time::max();
        return start_ + nanoseconds(1'000'000'000LL * new_ones_ / options_.rate);
    }

    // Few at a time, so that answers are not kept waiting where we are behind the plan.
    void begin_those_due() {
        auto now = Clock::now();
        for (int i = 0; i < 16 && next_new() <= now; i++) {
            Client& client = clients_[++last_client_];
            client.number = last_client_;
            auto due = next_new();
            new_ones_++;
            begin(client, due);
        }
        for (int i = 0; i < 16 && !agenda_.empty() && agenda_.top().at <= now; i++) {
            auto plan = agenda_.top();
            agenda_.pop();
            begin(clients_.at(plan.client), plan.at);
        }
    }

    void begin(Client& client, Time due) {
        if (client.socket.is_open()) look_for_the_end(client);
        result_.started++;
        started_++;
        under_way_++;
        client.request = ++last_request_;
        client.due = due;
        client.asks = true;
        client.again = false;
        client.sent = false;
        client.answer = {};
        deadlines_.push_back({Clock::now() + options_.patience, client.number, client.request});
        carry(client.number);
    }

    // Does all that can be done for the client without waiting. A new one's life may end with it.
    void carry(uint64_t number) {
        Client& client = clients_.at(number);
        while (client.asks) {
            if (!client.socket.is_open() && !connect(client)) continue;
            if (!client.sent && !send(client)) break;
            if (client.sent && !receive(client)) break;
        }
        if (!client.asks && client.kind == Class::fresh) {
            clients_.erase(number);
            return;
        }
        if (!client.asks) look_for_the_end(client);
    }

    bool connect(Client& client) {
        client.socket = connect_to(options_.port, client.number);
        client.connection++;
        client.kept = false;
        epoll_event event{};
        event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
        event.data.u64 = tag_of(client);
        if (client.socket.is_open() &&
            ::epoll_ctl(poll_.get(), EPOLL_CTL_ADD, client.socket.get(), &event) == 0)
            return true;
        fail(client, kind_of(errno));
        return false;
    }

    // False where the connection does not stand yet. Requests are short: they go as a whole.
    bool send(Client& client) {
        const auto& text = texts_.at(static_cast<size_t>(client.kind));
        ssize_t size = ::send(client.socket.get(), text.data(), text.size(), MSG_NOSIGNAL);
        if (size < 0 && errno == EAGAIN) return false;
        if (size < 0) {
            lose(client,
                 errno == ECONNREFUSED ? "refused" : kind_of(errno) + " before the request");
        } else if (static_cast<size_t>(size) < text.size()) {
            fail(client, "request not sent as a whole");
        } else {
            client.sent = true;
        }
        return true;
    }

    // False where more is to come; else the request is over, or has to be made again.
    bool receive(Client& client) {
        for (;;) {
            std::array<char, 16'384> chunk;
            ssize_t size = ::recv(client.socket.get(), chunk.data(), chunk.size(), 0);
            if (size < 0 && errno == EAGAIN) return false;
            if (size < 0) {
                lose(client, kind_of(errno));
                return true;
            }
            auto state = size == 0 ? client.answer.end()
                                   : client.answer.take({chunk.data(), static_cast<size_t>(size)});
            if (state == Answer::State::whole) {
                finish(client, size == 0);
                return true;
            }
            if (state == Answer::State::bad) {
                fail(client, "no proper answer");
                return true;
            }
            if (size == 0) {
                lose(client, "closed");
                return true;
            }
        }
    }

    // The connection is no more. That is nobody's fault only where it was a kept one that had not
    // begun to answer.
    void lose(Client& client, const std::string& how) {
        bool begun = client.answer.has_begun();
        if (client.kind == Class::keep_alive && client.kept && !client.again && !begun) {
            result_.retried++;
            client.again = true;
            client.sent = false;
            close(client);
            return;
        }
        fail(client, begun ? "broke off, " + how : how);
    }

    void fail(Client& client, const std::string& how) {
        auto what = fmt::format("{}: {}{}", name_of(client.kind), how,
                                client.again ? ", for the second time" : "");
        result_.failures[what]++;
        if (result_.first_ones.size() < kExamples)
            result_.first_ones.push_back(story_of(client, what));
        close(client);
        end(client);
    }

    // For people: when, from which port, after how long.
    [[nodiscard]] std::string story_of(const Client& client, const std::string& what) const {
        auto now = Clock::now();
        auto ms = [](nanoseconds time) {
            return std::chrono::duration_cast<milliseconds>(time).count();
        };
        sockaddr_in address{};
        socklen_t size = sizeof(address);
        ::getsockname(client.socket.get(), reinterpret_cast<sockaddr*>(&address), &size);
        return fmt::format("at {} ms: {}, {} ms after it was due, from port {}", ms(now - start_),
                           what, ms(now - client.due), ntohs(address.sin_port));
    }

    void finish(Client& client, bool at_end) {
        if (client.answer.status() != 200) {
            fail(client, fmt::format("status {}", client.answer.status()));
            return;
        }
        result_.answered++;
        answered_++;
        result_.slowest = std::max(
            result_.slowest, std::chrono::duration_cast<milliseconds>(Clock::now() - client.due));
        client.kept = true;
        if (client.kind != Class::keep_alive || client.answer.closes() || at_end) close(client);
        end(client);
    }

    // The request is over, one way or the other.
    void end(Client& client) {
        client.asks = false;
        under_way_--;
        auto now = Clock::now();
        if (client.kind == Class::keep_alive)
            agenda_.push({std::max(client.due + kPeriod, now), client.number});
        if (client.kind == Class::long_lived)
            agenda_.push({std::max(client.due + kShortest, now), client.number});
    }

    void close(Client& client) { client.socket.reset(); }

    // Of a connection that owes us nothing only the end is of interest, and that is no harm. Bytes
    // that nobody asked for (status 408, say) announce it.
    void look_for_the_end(Client& client) {
        while (client.socket.is_open()) {
            std::array<char, 1'024> chunk;
            ssize_t size = ::recv(client.socket.get(), chunk.data(), chunk.size(), 0);
            if (size < 0 && errno == EAGAIN) return;
            close(client);
        }
    }

    void wait() {
        constexpr nanoseconds kLongest = milliseconds(20);
        auto next = stopping_ ? Time::max() : next_new();
        if (!stopping_ && !agenda_.empty()) next = std::min(next, agenda_.top().at);
        auto now = Clock::now();
        auto pause = next <= now             ? nanoseconds(0)
                     : next > now + kLongest ? kLongest
                                             : nanoseconds(next - now);
        timespec timeout{0, pause.count()};
        std::array<epoll_event, 256> events;
        int count = ::epoll_pwait2(poll_.get(), events.data(), events.size(), &timeout, nullptr);
        for (int i = 0; i < count; i++) {
            uint64_t tag = events[static_cast<size_t>(i)].data.u64;
            auto found = clients_.find(tag >> kConnectionBits);
            if (found != clients_.end() && tag_of(found->second) == tag) carry(found->first);
        }
    }

    void give_up_late_ones() {
        auto now = Clock::now();
        for (; !deadlines_.empty() && deadlines_.front().at <= now; deadlines_.pop_front()) {
            auto found = clients_.find(deadlines_.front().client);
            if (found == clients_.end()) continue;
            Client& client = found->second;
            if (!client.asks || client.request != deadlines_.front().request) continue;
            fail(client, !client.sent                ? "timeout in connect"
                         : client.answer.has_begun() ? "timeout within the answer"
                                                     : "timeout");
            if (client.kind == Class::fresh) clients_.erase(found);
        }
    }

    static constexpr int kConnectionBits = 24;
    static uint64_t tag_of(const Client& client) {
        return client.number << kConnectionBits |
               (client.connection & ((1U << kConnectionBits) - 1));
    }

    const CrowdOptions& options_;
    std::atomic<bool>& stopping_;
    std::atomic<int>& started_;
    std::atomic<int>& answered_;
    Crowd::Result& result_;
    std::array<std::string, 3> texts_;  // of the requests, by class
    Fd poll_;
    Time start_;
    std::unordered_map<uint64_t, Client> clients_;  // by number
    std::priority_queue<Plan, std::vector<Plan>, std::greater<>> agenda_;
    std::deque<Deadline> deadlines_;
    int64_t new_ones_ = 0;
    uint64_t last_client_ = 0;
    uint64_t last_request_ = 0;
    int under_way_ = 0;
};

// Two thousand clients need more than the usual 1,024 descriptors.
void allow_many_files() {
    rlimit files{};
    ::getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
}

}  // namespace

bool is_full_run() {
    const char* full = std::getenv("DROVER_TEST_FULL");
    return full != nullptr && *full != '\0';
}

CrowdOptions crowd_options() {
    CrowdOptions options;
    if (!is_full_run()) {
        options.rate = 300;
        options.keep_alive = 50;
        options.long_lived = 10;
    }
    // A crowd that the workers cannot keep up with would show nothing: a slow machine has slow
    // clients, too, and the master's work beside them.
    int thinner = slowness() * slowness() * slowness();
    options.rate = std::max(10, options.rate / thinner);
    options.keep_alive = std::max(2, options.keep_alive / thinner);
    options.patience *= slowness();
    return options;
}

Crowd::Crowd(CrowdOptions options) : options_(std::move(options)) {
    allow_many_files();
    // A thread begins in the network namespace of the one that starts it: the sandbox's.
    thread_ =
        std::thread([this] { Clients(options_, stopping_, started_, answered_, result_).run(); });
}

Crowd::~Crowd() {
    if (thread_.joinable()) stop();
}

Crowd::Result Crowd::stop() {
    stopping_ = true;
    thread_.join();
    return result_;
}

bool Crowd::wait_answered(int more) {
    int target = answered_ + more;
    return eventually([&] { return answered_ >= target; });
}

bool Crowd::wait_started(int more) {
    int target = started_ + more;
    return eventually([&] { return started_ >= target; });
}

int Crowd::Result::failed_of(const std::string& client) const {
    int count = 0;
    for (const auto& [kind, times] : failures)
        if (kind.starts_with(client + ": ")) count += times;
    return count;
}

std::string Crowd::Result::text() const {
    std::string text = fmt::format("{} started, {} failed, {} retried, slowest {} ms", started,
                                   failed(), retried, slowest.count());
    for (const auto& [kind, count] : failures) text += fmt::format("\n    {} {}", count, kind);
    for (const auto& story : first_ones) text += "\n    " + story;
    return text;
}

void check_unharmed(Crowd& crowd) {
    CHECK(crowd.wait_answered(100));
    auto result = crowd.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
}

}  // namespace drover::test
