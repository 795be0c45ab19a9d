// SPDX-License-Identifier: MIT
//
// An open-loop load on a server on this machine: each request is begun when the plan says so
// (arrivals.h), whether or not earlier ones are answered.
//
//     load --port N [--rate R] [--seconds S] [--fixed] [--seed N] [--timeout-ms N]
//          [--path /P]                          one kind of request
//          [--class NAME:WEIGHT:/PATH]…         or several, mixed by weight and counted apart
//          [--mode new]                         a connection for each request (the default)
//          [--mode keep-alive --connections N]  over N connections; the plan says on which
//          [--mode hold --connections N]        open N, one request each, hold them for S seconds
//          [--plan]                             only print the plan: µs, class, connection
//
// A latency runs from the planned moment, not from when connect() or send() was called: a generator
// that waits for a slow server and so asks less of it would hide just what is to be measured
// ("coordinated omission"). On a kept connection a request therefore waits its turn, and that time
// is its own. A latency ends when the answer is whole.
//
// One thread, epoll; good for some 10,000 connections a second. Only loopback is ever asked, and
// rate, time and open connections are bounded. The connections come from many addresses, because
// one alone has only some 28,000 ports. A new connection's end is left to the server, so that the
// closed one's TIME_WAIT is the server's, as it is with a browser and `Connection: close`; nothing
// is reset to get round it.
//
// Prints one line of JSON (report.h), and one for people on standard error. Exit status 0 when at
// least one request was answered, 1 when none was, 2 for a bad option.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <optional>
#include <string>
#include <unordered_map>

#include "answer.h"
#include "arrivals.h"
#include "base/fd.h"
#include "options.h"
#include "report.h"

namespace drover::bench {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::nanoseconds;

constexpr uint32_t kSources = 64;      // 127.0.0.1 and the following
constexpr size_t kMaxWorkers = 1'024;  // different ones that are counted

struct Request {
    uint64_t number = 0;
    Clock::time_point planned;
    size_t kind = 0;
};

// A connection (or the place for one) and its requests: the first has been sent, or will be as soon
// as the connection stands; the others wait their turn.
struct Lane {
    Fd socket;
    bool sent = false;
    Answer answer;
    std::deque<Request> requests;
};

nanoseconds in_nanoseconds(double seconds) {
    return nanoseconds(static_cast<int64_t>(seconds * 1e9));
}

const char* kind_of(int error) {
    switch (error) {
        case ECONNREFUSED:
            return "refused";
        case ECONNRESET:
        case EPIPE:
            return "reset";
        case ETIMEDOUT:
            return "timeout";
        case EADDRNOTAVAIL:
            return "no-port";
        case EMFILE:
        case ENFILE:
            return "no-fd";
        default:
            return "other";
    }
}

sockaddr_in loopback(uint32_t number, uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + number);
    address.sin_port = htons(port);
    return address;
}

// Begins to connect; without a socket where that failed at once (errno says why).
Fd connect_to(uint16_t port, uint64_t number) {
    Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    int on = 1;
    ::setsockopt(socket.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    auto source = loopback(static_cast<uint32_t>(number % kSources), 0);
    auto target = loopback(0, port);
    if (!socket.is_open() ||
        ::bind(socket.get(), reinterpret_cast<sockaddr*>(&source), sizeof(source)) != 0)
        return {};
    if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&target), sizeof(target)) != 0 &&
        errno != EINPROGRESS)
        return {};
    return socket;
}

Arrivals plan_of(const Options& options) {
    std::vector<double> weights;
    for (const auto& one : options.classes) weights.push_back(one.weight);
    return {options.rate, options.fixed, weights, std::max<size_t>(options.connections, 1),
            options.seed};
}

class Load {
  public:
    explicit Load(const Options& options) : options_(options), plan_(plan_of(options)) {
        report_.tallies.resize(options.classes.size());
        for (const auto& one : options.classes)
            texts_.push_back(fmt::format("GET {} HTTP/1.1\r\nHost: bench\r\nConnection: {}\r\n\r\n",
                                         one.path,
                                         options.mode == Mode::fresh ? "close" : "keep-alive"));
    }

    // False where the kernel gives no epoll.
    bool run() {
        poll_.reset(::epoll_create1(EPOLL_CLOEXEC));
        if (!poll_.is_open()) return false;
        start_ = Clock::now();
        next_ = plan_.next();
        while (more_to_come() || unsettled_ > 0) {
            // A few at a time, so that the ready ones are not kept waiting by a backlog.
            for (int i = 0; i < 16 && more_to_come() && start_ + next_.at <= Clock::now(); ++i)
                begin_next();
            serve(more_to_come() ? start_ + next_.at : Clock::time_point::max());
            give_up_late_ones();
        }
        if (options_.mode == Mode::hold) hold();
        return true;
    }

    [[nodiscard]] const Report& report() const { return report_; }

  private:
    [[nodiscard]] bool more_to_come() const {
        if (options_.mode == Mode::hold) return begun_ < options_.connections;
        return next_.at < in_nanoseconds(options_.seconds);
    }

    [[nodiscard]] double seconds_since_start() const {
        return std::chrono::duration<double>(Clock::now() - start_).count();
    }

    void begin_next() {
        Request request{begun_++, start_ + next_.at, next_.kind};
        report_.lateness.add(Clock::now() - request.planned);
        report_.planned_seconds = std::chrono::duration<double>(next_.at).count();
        report_.sent_seconds = seconds_since_start();
        ++report_.tallies[request.kind].sent;
        ++unsettled_;
        uint64_t number = options_.mode == Mode::keep_alive ? next_.lane : request.number;
        deadlines_.push_back({request.planned + options_.patience, number, request.number});
        auto& lane = lanes_[number];
        lane.requests.push_back(request);
        if (lane.requests.size() == 1) go_on(number, lane);
        next_ = plan_.next();
    }

    // Carries on what the lane has to do, as far as that goes without waiting.
    void go_on(uint64_t number, Lane& lane) {
        while (!lane.requests.empty()) {
            if (!lane.socket.is_open() && !connect(number, lane)) continue;
            if (!lane.sent && !send(lane)) return;
            if (lane.sent && !receive(lane)) return;
        }
        look_for_the_end(lane);
        if (options_.mode == Mode::fresh && !lane.socket.is_open()) lanes_.erase(number);
    }

    bool connect(uint64_t number, Lane& lane) {
        lane.socket = connect_to(options_.port, number);
        epoll_event event{};
        event.events = EPOLLOUT | EPOLLIN | EPOLLRDHUP | EPOLLET;
        event.data.u64 = number;
        if (lane.socket.is_open() &&
            ::epoll_ctl(poll_.get(), EPOLL_CTL_ADD, lane.socket.get(), &event) == 0)
            return true;
        fail(lane, kind_of(errno));
        return false;
    }

    // False where the connection does not stand yet; a failure ends the request.
    bool send(Lane& lane) {
        const auto& text = texts_[lane.requests.front().kind];
        ssize_t size = ::send(lane.socket.get(), text.data(), text.size(), MSG_NOSIGNAL);
        if (size < 0 && errno == EAGAIN) return false;
        lane.sent = size >= 0;
        if (size < 0) fail(lane, kind_of(errno));
        return true;
    }

    // False where the answer is not whole yet; else the request is over, one way or the other.
    bool receive(Lane& lane) {
        auto state = Answer::State::more;
        while (state == Answer::State::more) {
            std::array<char, 4096> chunk;
            ssize_t size = ::recv(lane.socket.get(), chunk.data(), chunk.size(), 0);
            if (size < 0 && errno == EAGAIN) return false;
            if (size < 0) {
                fail(lane, kind_of(errno));
                return true;
            }
            if (size > 0) {
                state = lane.answer.take({chunk.data(), static_cast<size_t>(size)});
            } else if (state = lane.answer.end(); state == Answer::State::more) {
                fail(lane, "eof");
                return true;
            }
        }
        if (state == Answer::State::bad) {
            fail(lane, "bad-answer");
        } else {
            finish(lane);
        }
        return true;
    }

    // Of a connection that owes us nothing only the end is of interest.
    void look_for_the_end(Lane& lane) {
        std::array<char, 4096> chunk;
        while (lane.socket.is_open()) {
            ssize_t size = ::recv(lane.socket.get(), chunk.data(), chunk.size(), 0);
            if (size < 0 && errno == EAGAIN) return;
            if (size > 0) continue;
            lane.socket.reset();
            ++report_.dropped;
        }
    }

    void finish(Lane& lane) {
        const auto& request = lane.requests.front();
        auto& tally = report_.tallies[request.kind];
        if (lane.answer.status() / 100 == 2) {
            ++tally.ok;
            report_.answered_seconds = seconds_since_start();
            tally.latencies.add(Clock::now() - request.planned);
            count_worker(lane.answer.worker());
        } else {
            ++tally.errors["bad-status"];
        }
        end_request(lane);
    }

    void count_worker(const std::string& worker) {
        if (worker.empty()) return;
        if (report_.workers.size() < kMaxWorkers || report_.workers.contains(worker))
            ++report_.workers[worker];
    }

    // A request that failed takes its connection with it: what came later on it could be its
    // answer.
    void fail(Lane& lane, const char* kind) {
        ++report_.tallies[lane.requests.front().kind].errors[kind];
        lane.socket.reset();
        end_request(lane);
    }

    void end_request(Lane& lane) {
        lane.requests.pop_front();
        lane.sent = false;
        lane.answer = {};
        --unsettled_;
    }

    // Serves what is ready, and waits for it until `until` at most, or until it is time to look for
    // late ones.
    void serve(Clock::time_point until) {
        std::array<epoll_event, 256> events;
        auto now = Clock::now();
        auto wait = std::min<nanoseconds>(std::chrono::milliseconds(20),
                                          until > now ? until - now : nanoseconds(0));
        timespec timeout{0, wait.count()};
        int count = ::epoll_pwait2(poll_.get(), events.data(), events.size(), &timeout, nullptr);
        for (int i = 0; i < count; ++i) {
            auto number = events[static_cast<size_t>(i)].data.u64;
            auto found = lanes_.find(number);
            if (found != lanes_.end()) go_on(number, found->second);
        }
    }

    void give_up_late_ones() {
        auto now = Clock::now();
        for (; !deadlines_.empty() && deadlines_.front().at <= now; deadlines_.pop_front()) {
            auto found = lanes_.find(deadlines_.front().lane);
            if (found != lanes_.end()) give_up(found->first, found->second, now);
        }
    }

    // Gives up the lane's request that is due to it, if that is not settled.
    void give_up(uint64_t lane_number, Lane& lane, Clock::time_point now) {
        auto number = deadlines_.front().request;
        auto is_it = [&](const Request& request) { return request.number == number; };
        auto found = std::find_if(lane.requests.begin(), lane.requests.end(), is_it);
        if (found == lane.requests.end()) {
            // Answered. What the server has not closed by now, though it was asked to, we close.
            if (options_.mode == Mode::fresh) lanes_.erase(lane_number);
            return;
        }
        report_.tallies[found->kind].latencies.add(now - found->planned);
        if (found == lane.requests.begin()) {
            fail(lane, "timeout");
            return go_on(lane_number, lane);
        }
        ++report_.tallies[found->kind].errors["timeout"];
        lane.requests.erase(found);
        --unsettled_;
    }

    // Keeps what is open, and looks what the server does with it.
    void hold() {
        const auto end = Clock::now() + in_nanoseconds(options_.seconds);
        while (Clock::now() < end) serve(end);
        for (const auto& [number, lane] : lanes_) report_.held += lane.socket.is_open() ? 1 : 0;
    }

    struct Deadline {
        Clock::time_point at;
        uint64_t lane = 0;
        uint64_t request = 0;
    };

    Options options_;
    std::vector<std::string> texts_;  // of the requests, one for each class
    Arrivals plan_;
    Arrival next_;
    Clock::time_point start_;
    Fd poll_;
    // By number: that of the request, or of the kept connection.
    std::unordered_map<uint64_t, Lane> lanes_;
    std::deque<Deadline> deadlines_;  // in order: all have the same patience
    uint64_t begun_ = 0;
    uint64_t unsettled_ = 0;  // requests begun, not yet answered, failed or given up
    Report report_;
};

void print_plan(const Options& options) {
    auto plan = plan_of(options);
    for (auto next = plan.next(); next.at < in_nanoseconds(options.seconds); next = plan.next())
        fmt::print("{} {} {}\n", next.at.count() / 1000, options.classes[next.kind].name,
                   next.lane);
}

}  // namespace
}  // namespace drover::bench

int main(int argc, char** argv) {
    using namespace drover::bench;
    auto options = parse(argc, argv);
    if (!options) {
        std::fputs(kUsage, stderr);
        return 2;
    }
    if (options->plan_only) {
        print_plan(*options);
        return 0;
    }
    rlimit files{};
    ::getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
    ::prctl(PR_SET_TIMERSLACK, 1UL);  // ns: the plan's gaps are short

    Load load(*options);
    if (!load.run()) {
        std::perror("load: epoll_create1");
        return 1;
    }
    std::puts(json_line(*options, load.report()).c_str());
    fmt::print(stderr, "{}\n", line_for_people(*options, load.report()));
    return total_of(load.report()).ok > 0 ? 0 : 1;
}
