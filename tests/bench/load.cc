// SPDX-License-Identifier: MIT
//
// An open-loop load on a server on this machine: one connection a request, begun when the plan says
// so, whether or not earlier ones are answered.
//
//     load --port N [--rate R] [--seconds S] [--fixed] [--seed N] [--path /P]
//
// The plan is a Poisson process of R connections a second (--fixed: one each 1/R). A latency runs
// from the planned start, not from when connect() was called: a generator that waits for a slow
// server and so asks less of it would hide just what is to be measured ("coordinated omission").
// It ends when the answer has been read to its end.
//
// One thread, epoll. Only loopback is ever asked, and rate, time and open connections are bounded.
// Prints one line of JSON: counts, failures by kind, latencies in microseconds. Exit status 0 when
// at least one connection was answered, 1 when none was, 2 for a bad option.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>

#include "base/fd.h"

namespace {

using drover::Fd;
using Clock = std::chrono::steady_clock;
using std::chrono::nanoseconds;

constexpr double kMaxRate = 50'000;
constexpr double kMaxSeconds = 60;
constexpr size_t kMaxOpen = 10'000;
constexpr auto kPatience = std::chrono::seconds(5);  // for one connection, from its planned start
// Sources of connections: one address alone has some 28,000 ports, and a closed connection's is not
// free at once.
constexpr uint32_t kSources = 16;

struct Options {
    uint16_t port = 0;
    double rate = 1000;
    double seconds = 3;
    bool fixed = false;
    uint64_t seed = 1;
    std::string path = "/";
};

// Counts of durations in buckets whose width grows with the value, as HdrHistogram has them: below
// one percent of error over the whole range, in constant memory.
class Histogram {
  public:
    void add(nanoseconds duration) {
        auto value = static_cast<uint64_t>(std::max<int64_t>(duration.count(), 0));
        ++counts_[index_of(value)];
        ++total_;
        most_ = std::max(most_, value);
    }

    // The value that the part `quantile` of all does not exceed, in microseconds.
    [[nodiscard]] double microseconds_at(double quantile) const {
        auto wanted = static_cast<uint64_t>(std::ceil(quantile * static_cast<double>(total_)));
        uint64_t seen = 0;
        for (size_t i = 0; i < counts_.size(); ++i) {
            seen += counts_[i];
            if (seen >= wanted && seen > 0)
                return static_cast<double>(std::min(upper_end(i), most_)) / 1000;
        }
        return 0;
    }

  private:
    static constexpr unsigned kBits = 7;  // 128 buckets for each power of two
    static constexpr uint64_t kPerPower = 1U << kBits;

    static size_t index_of(uint64_t value) {
        if (value < kPerPower) return value;
        unsigned shift = static_cast<unsigned>(std::bit_width(value)) - 1 - kBits;
        return (shift + 1) * kPerPower + ((value >> shift) - kPerPower);
    }

    static uint64_t upper_end(size_t index) {
        if (index < kPerPower) return index;
        uint64_t shift = index / kPerPower - 1;
        return ((index % kPerPower + kPerPower + 1) << shift) - 1;
    }

    std::array<uint64_t, (64 - kBits + 1) * kPerPower> counts_{};
    uint64_t total_ = 0;
    uint64_t most_ = 0;
};

class Load {
  public:
    explicit Load(const Options& options)
        : options_(options),
          request_(fmt::format("GET {} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n",
                               options.path)),
          random_(options.seed) {}

    // Returns false where the kernel gives no epoll.
    bool run() {
        poll_.reset(::epoll_create1(EPOLL_CLOEXEC));
        if (!poll_.is_open()) return false;
        auto planned = Clock::now();
        const auto end =
            planned + nanoseconds(static_cast<int64_t>(options_.seconds * 1'000'000'000));
        planned += gap();
        while (planned < end || !open_.empty()) {
            // A few at a time, so that the ready ones are not kept waiting by a backlog.
            for (int i = 0; i < 16 && planned < end && planned <= Clock::now(); ++i) {
                begin(planned);
                planned += gap();
            }
            serve(planned < end ? planned : Clock::time_point::max());
            give_up_late_ones();
        }
        return true;
    }

    [[nodiscard]] uint64_t answered() const { return answered_; }

    [[nodiscard]] std::string json() const {
        std::string failures;
        for (const auto& [kind, count] : failures_)
            failures += fmt::format("{}\"{}\":{}", failures.empty() ? "" : ",", kind, count);
        return fmt::format(
            "{{\"sent\":{},\"ok\":{},\"failed\":{},\"errors\":{{{}}},\"p50_us\":{:.1f},"
            "\"p90_us\":{:.1f},\"p99_us\":{:.1f},\"max_us\":{:.1f}}}",
            sent_, answered_, sent_ - answered_, failures, latencies_.microseconds_at(0.5),
            latencies_.microseconds_at(0.9), latencies_.microseconds_at(0.99),
            latencies_.microseconds_at(1));
    }

  private:
    struct Connection {
        Fd socket;
        Clock::time_point planned;
        uint64_t number = 0;
        bool connected = false;
        size_t received = 0;
        std::array<char, 12> head{};  // "HTTP/1.1 200"
    };

    nanoseconds gap() {
        double mean = 1e9 / options_.rate;
        if (options_.fixed) return nanoseconds(static_cast<int64_t>(mean));
        return nanoseconds(
            static_cast<int64_t>(std::exponential_distribution<double>(1 / mean)(random_)));
    }

    void fail(const char* kind) { ++failures_[kind]; }
    void fail(int error) {
        switch (error) {
            case ECONNREFUSED:
                return fail("refused");
            case ECONNRESET:
            case EPIPE:
                return fail("reset");
            case ETIMEDOUT:
                return fail("timeout");
            case EADDRNOTAVAIL:
                return fail("no-port");
            case EMFILE:
            case ENFILE:
                return fail("no-fd");
            default:
                return fail("other");
        }
    }

    void begin(Clock::time_point planned) {
        uint64_t number = ++sent_;
        if (open_.size() >= kMaxOpen) return fail("too-many-open");
        Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
        if (!socket.is_open()) return fail(errno);
        int on = 1;
        ::setsockopt(socket.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
        auto source = address(INADDR_LOOPBACK + number % kSources, 0);
        auto target = address(INADDR_LOOPBACK, options_.port);
        if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&source), sizeof(source)) != 0)
            return fail(errno);
        if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&target), sizeof(target)) != 0 &&
            errno != EINPROGRESS)
            return fail(errno);
        epoll_event event{};
        event.events = EPOLLOUT | EPOLLIN | EPOLLRDHUP | EPOLLET;
        event.data.u64 = number;
        if (::epoll_ctl(poll_.get(), EPOLL_CTL_ADD, socket.get(), &event) != 0) return fail(errno);
        auto& connection = open_[number];
        connection.socket = std::move(socket);
        connection.planned = planned;
        connection.number = number;
    }

    static sockaddr_in address(uint32_t host, uint16_t port) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(host);
        address.sin_port = htons(port);
        return address;
    }

    // Serves what is ready, and waits for it until `until` at most, or until it is time to look for
    // late ones.
    void serve(Clock::time_point until) {
        std::array<epoll_event, 256> events;
        auto now = Clock::now();
        auto wait = std::min<nanoseconds>(std::chrono::milliseconds(100),
                                          until > now ? until - now : nanoseconds(0));
        timespec timeout{0, wait.count()};
        int count = ::epoll_pwait2(poll_.get(), events.data(), events.size(), &timeout, nullptr);
        for (int i = 0; i < count; ++i) {
            auto found = open_.find(events[static_cast<size_t>(i)].data.u64);
            if (found != open_.end() && is_over(found->second)) open_.erase(found);
        }
    }

    // Carries a connection on; true when it is over, one way or the other.
    bool is_over(Connection& connection) {
        if (!connection.connected) {
            ssize_t size =
                ::send(connection.socket.get(), request_.data(), request_.size(), MSG_NOSIGNAL);
            if (size < 0 && errno == EAGAIN) return false;
            if (size < 0) {
                fail(errno);
                return true;
            }
            connection.connected = true;
        }
        for (;;) {
            std::array<char, 4096> chunk;
            ssize_t size = ::recv(connection.socket.get(), chunk.data(), chunk.size(), 0);
            if (size < 0 && errno == EAGAIN) return false;
            if (size < 0) {
                fail(errno);
                return true;
            }
            if (size == 0) {
                finish(connection);
                return true;
            }
            for (ssize_t i = 0; i < size && connection.received < connection.head.size(); ++i)
                connection.head[connection.received++] = chunk[static_cast<size_t>(i)];
        }
    }

    void finish(const Connection& connection) {
        std::string_view head(connection.head.data(), connection.received);
        if (head.empty()) return fail("closed");
        if (head != "HTTP/1.1 200" && head != "HTTP/1.0 200") return fail("bad-answer");
        ++answered_;
        latencies_.add(Clock::now() - connection.planned);
    }

    // The oldest have the smallest numbers: they stand first in the ordered map.
    void give_up_late_ones() {
        auto now = Clock::now();
        while (!open_.empty() && now - open_.begin()->second.planned > kPatience) {
            fail("timeout");
            open_.erase(open_.begin());
        }
    }

    Options options_;
    std::string request_;
    std::mt19937_64 random_;
    Fd poll_;
    std::map<uint64_t, Connection> open_;  // by number, counted up
    Histogram latencies_;
    std::map<std::string, uint64_t> failures_;
    uint64_t sent_ = 0;
    uint64_t answered_ = 0;
};

template <class T>
bool number_into(std::string_view text, T& out, T least, T most) {
    T value{};
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) return false;
    if (!(value >= least && value <= most)) return false;
    out = value;
    return true;
}

std::optional<Options> parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        std::string_view name = argv[i];
        if (name == "--fixed") {
            options.fixed = true;
            continue;
        }
        if (i + 1 == argc) return std::nullopt;
        std::string_view value = argv[++i];
        bool good = false;
        if (name == "--port") good = number_into<uint16_t>(value, options.port, 1, 65535);
        if (name == "--rate") good = number_into<double>(value, options.rate, 1, kMaxRate);
        if (name == "--seconds") good = number_into(value, options.seconds, 0.01, kMaxSeconds);
        if (name == "--seed") good = number_into<uint64_t>(value, options.seed, 0, UINT64_MAX);
        if (name == "--path") good = value.starts_with('/');
        if (!good) return std::nullopt;
        if (name == "--path") options.path = value;
    }
    if (options.port == 0) return std::nullopt;
    return options;
}

}  // namespace

int main(int argc, char** argv) {
    auto options = parse(argc, argv);
    if (!options) {
        std::fputs(
            "usage: load --port N [--rate R] [--seconds S] [--fixed] [--seed N] [--path P]\n",
            stderr);
        return 2;
    }
    rlimit files{};
    ::getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
    ::prctl(PR_SET_TIMERSLACK, 1UL);  // ns: the plan's gaps are short

    auto load = std::make_unique<Load>(*options);
    if (!load->run()) {
        std::perror("load: epoll_create1");
        return 1;
    }
    std::puts(load->json().c_str());
    return load->answered() > 0 ? 0 : 1;
}
