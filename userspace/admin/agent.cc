// SPDX-License-Identifier: MIT
#include "admin/agent.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <fstream>
#include <sstream>

namespace drover::admin {

namespace {

using std::chrono::duration;
using std::chrono::steady_clock;

constexpr int kBacklog = 64;
constexpr int kMostAtOnce = 64;  // then the loop's other work has its turn
constexpr std::chrono::milliseconds kPause{1'000};
constexpr std::chrono::milliseconds kShortest{100};  // the kernel counts CPU time in ticks of 10 ms
constexpr double kMemory = 5;                        // seconds
constexpr double kMostOff = 0.5;                     // of the weight, on a host that is all busy

bool serves(const supervisor::WorkerStatus& worker) {
    return worker.state == supervisor::State::ready && worker.flags.empty();
}

Result<Fd> listen_at(const supervisor::Port& at) {
    auto what =
        fmt::format("listen for agent checks at {} port {} (--agent)", at.address, at.number);
    sockaddr_in v4{};
    sockaddr_in6 v6{};
    v4.sin_family = AF_INET;
    v6.sin6_family = AF_INET6;
    v4.sin_port = v6.sin6_port = htons(static_cast<uint16_t>(at.number));
    bool is_v6 = ::inet_pton(AF_INET6, at.address.c_str(), &v6.sin6_addr) == 1;
    if (!is_v6 && ::inet_pton(AF_INET, at.address.c_str(), &v4.sin_addr) != 1)
        return fail("usage", fmt::format("--agent: \"{}\" is no address", at.address));
    Fd socket(::socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket.is_open()) return fail_errno(errno, what);
    int on = 1;
    (void)::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    const auto* address =
        is_v6 ? reinterpret_cast<const sockaddr*>(&v6) : reinterpret_cast<const sockaddr*>(&v4);
    if (::bind(socket.get(), address, is_v6 ? sizeof(v6) : sizeof(v4)) != 0 ||
        ::listen(socket.get(), kBacklog) != 0)
        return fail_errno(errno, what);
    return socket;
}

std::optional<CpuTimes> cpu_times_now() {
    std::ifstream file("/proc/stat");
    std::string line;
    std::getline(file, line);
    return parse_cpu_times(line);
}

}  // namespace

std::optional<CpuTimes> parse_cpu_times(const std::string& content) {
    std::istringstream fields(content);
    std::string name;
    uint64_t user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0;
    fields >> name >> user >> nice >> system >> idle >> iowait >> irq >> softirq >> steal;
    if (!fields || name != "cpu") return std::nullopt;
    // Stolen time is as little to be had as used time.
    uint64_t busy = user + nice + system + irq + softirq + steal;
    return CpuTimes{busy, busy + idle + iowait};
}

double Busyness::note(Time now, const std::optional<CpuTimes>& cpu, double waiting) {
    bool is_first = !last_;
    auto since = is_first ? Time::duration(0) : now - *last_;
    if (!is_first && since < kShortest) return smoothed_;
    last_ = now;
    if (cpu && cpu_ && cpu->all > cpu_->all && cpu->busy >= cpu_->busy)
        cpu_busy_ =
            static_cast<double>(cpu->busy - cpu_->busy) / static_cast<double>(cpu->all - cpu_->all);
    cpu_ = cpu;
    double share = is_first ? 1 : 1 - std::exp(-duration<double>(since).count() / kMemory);
    smoothed_ += share * (std::clamp(std::max(cpu_busy_, waiting), 0.0, 1.0) - smoothed_);
    return smoothed_;
}

double share_that_waits(const supervisor::Status& status) {
    double serving = 0, waited_for = 0;
    for (const auto& worker : status.workers) {
        if (!serves(worker)) continue;
        serving += 1;
        waited_for += worker.queued.value_or(0) > 0 ? 1 : 0;
    }
    return serving > 0 ? waited_for / serving : 0;
}

std::string agent_line(const supervisor::Status& status, double busy) {
    if (status.state == "stopping" || status.is_drained) return "drain\n";
    if (status.ready == 0) return "down\n";
    auto serving = static_cast<double>(std::ranges::count_if(status.workers, serves));
    double capacity = std::min(serving / std::max(status.wanted, 1), 1.0);
    // Where all are unhealthy they serve all the same: with the least weight, not none, for on the
    // other hosts it may be no better.
    double weight = 100 * capacity * (1 - kMostOff * busy);
    return fmt::format("ready up {}%\n", std::clamp(std::lround(weight), 1L, 100L));
}

Result<std::unique_ptr<Agent>> Agent::open(EventLoop& loop, const supervisor::Port& at,
                                           Ask status) {
    auto socket = listen_at(at);
    if (!socket) return tl::unexpected(socket.error());
    std::unique_ptr<Agent> agent(new Agent(loop, std::move(status)));
    agent->listener_ = std::move(*socket);
    agent->listen();
    return agent;
}

int Agent::port() const {
    sockaddr_storage address{};
    socklen_t size = sizeof(address);
    if (::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
    return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                               : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

void Agent::listen() {
    source_ = loop_.on_io(listener_.get(), EPOLLIN, [this](uint32_t) { answer_all(); });
}

// One line fits into any socket's buffer, so nobody is waited for and no connection is kept.
void Agent::answer_all() {
    std::string line;  // the same for all that have come together
    for (int i = 0; i < kMostAtOnce; i++) {
        Fd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!client.is_open() && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
            // Out of descriptors: who waits keeps the listener ready.
            source_ = loop_.after(kPause, [this] { listen(); });
            return;
        }
        if (!client.is_open()) return;
        if (line.empty()) {
            auto status = status_();
            auto busy =
                busyness_.note(steady_clock::now(), cpu_times_now(), share_that_waits(status));
            line = agent_line(status, busy);
        }
        (void)::send(client.get(), line.data(), line.size(), MSG_NOSIGNAL);
        (void)::shutdown(client.get(), SHUT_WR);
    }
}

}  // namespace drover::admin
