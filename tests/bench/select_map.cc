// SPDX-License-Identifier: MIT
//
// What does it cost a connection that drover's listeners are in a SOCKMAP?
//
// The steering program may select from a SOCKMAP or from a REUSEPORT_SOCKARRAY. The listen callback
// can only fill the first: that is the adoption without a search for fds and without a race. But a
// socket in a SOCKMAP has its sk_prot replaced, and each connection it accepts goes through
// tcp_bpf_clone(), which puts the original back. Five variants, eight listeners each:
//
//     plain          SO_REUSEPORT alone: the kernel's hash
//     member         the same, but the listeners are in a SOCKMAP: the price of membership
//     sockarray      round-robin out of a SOCKARRAY
//     sockarray 2    the same again: shows how much of a difference is noise
//     sockmap        round-robin out of a SOCKMAP
//
// One thread on one CPU connects, accepts and resets, so that loopback's softirq work runs inside
// its own system calls and is in its CPU time. (A kernel with IRQ_TIME_ACCOUNTING takes that work
// out of it; the column from /proc/stat shows it there, roughly. Without, it is part of the CPU
// time, and not to be added.) Nothing is sent: the connection is the cheapest there is, so a ratio
// to it is an upper bound. In each round the variants run in another order with new sockets. Ratios
// are taken within a round; the interval is the median's, 95 %, by order statistics. Afterwards the
// programs' own run time is measured, apart, because the kernel's clock reads would be in the CPU
// time.
//
//     sudo build/bench/select_map [ROUNDS [CONNECTIONS]]
//
// What was found on kernel 6.18 (two CPUs, other work beside it, four runs of 80 rounds):
// CPU a connection, SOCKMAP to SOCKARRAY: 0.996 … 1.006, all intervals within 0.985 and 1.014;
// SOCKARRAY to itself: 0.994 … 1.008. Membership alone: 0.995 … 1.003 of plain. The program, with
// either map, adds 1 to 2 % (0.1 to 0.2 of 9 µs); a run of it takes 93 to 105 ns with either,
// SOCKMAP 3 less to 7 more. Accepted connections have the plain sk_prot again (seen by iter/tcp).
// So SOCKMAP costs nothing that can be told from noise, and drover takes it.
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/core.h>
#include <net/if.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

using namespace drover;

namespace {

constexpr int kMembers = 8;  // as in select_map.bpf.c
constexpr uint16_t kPort = 8080;
constexpr int kWarmUp = 200;  // connections before each measured batch, not measured

enum Variant { kPlain, kMember, kSockarray, kSockarray2, kSockmap, kVariants };
constexpr std::array<const char*, kVariants> kNames = {"plain", "member", "sockarray",
                                                       "sockarray 2", "sockmap"};

struct CloseObject {
    void operator()(bpf_object* object) const { bpf_object__close(object); }
};

struct Programs {
    std::unique_ptr<bpf_object, CloseObject> object;
    int from_sockmap = -1, from_sockarray = -1;  // owned by the object, as are the maps
    int sockmap = -1, sockarray = -1;
};

struct Group {
    std::vector<Fd> listeners;
    Fd epoll;
};

struct Batch {
    double cpu_us = 0;       // of this process, per connection
    long softirq_ticks = 0;  // of this CPU, in the whole batch
    double program_ns = 0;   // per run; 0 where statistics are off
};

struct Figures {  // of each variant; a row has one value a round
    std::array<std::vector<double>, kVariants> cpu_us, program_ns;
    std::array<long, kVariants> softirq_ticks = {};
};

Result<Programs> load_programs() {
    std::error_code error;
    std::string path = std::filesystem::read_symlink("/proc/self/exe", error).string() + ".bpf.o";
    Programs programs;
    programs.object.reset(bpf_object__open_file(path.c_str(), nullptr));
    if (!programs.object) return fail_errno(errno, "opening " + path);
    if (bpf_object__load(programs.object.get())) return fail_errno(errno, "loading " + path);
    auto* object = programs.object.get();
    programs.from_sockmap =
        bpf_program__fd(bpf_object__find_program_by_name(object, "from_sockmap"));
    programs.from_sockarray =
        bpf_program__fd(bpf_object__find_program_by_name(object, "from_sockarray"));
    programs.sockmap = bpf_object__find_map_fd_by_name(object, "sockmap");
    programs.sockarray = bpf_object__find_map_fd_by_name(object, "sockarray");
    return programs;
}

// A network namespace with nothing in it but loopback, and one CPU: the one we are on.
Result<int> isolate() {
    if (unshare(CLONE_NEWNET)) return fail_errno(errno, "making a network namespace");
    Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request = {};
    std::strcpy(request.ifr_name, "lo");
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    if (ioctl(socket.get(), SIOCSIFFLAGS, &request)) return fail_errno(errno, "raising loopback");
    int cpu = sched_getcpu();
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set)) return fail_errno(errno, "pinning to a CPU");
    return cpu;
}

sockaddr_in address() {
    sockaddr_in at = {};
    at.sin_family = AF_INET;
    at.sin_port = htons(kPort);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return at;
}

Result<Fd> open_listener() {
    Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in at = address();
    int on = 1;
    if (setsockopt(fd.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) ||
        bind(fd.get(), reinterpret_cast<sockaddr*>(&at), sizeof(at)) || listen(fd.get(), 128))
        return fail_errno(errno, "opening a listener");
    return fd;
}

Result<Group> open_group(Variant variant, const Programs& programs) {
    bool selects = variant >= kSockarray;
    bool in_sockmap = variant == kMember || variant == kSockmap;
    Group group;
    group.epoll = Fd(epoll_create1(EPOLL_CLOEXEC));
    for (uint32_t i = 0; i < kMembers; i++) {
        Result<Fd> listener = open_listener();
        if (!listener) return tl::unexpected(listener.error());
        uint64_t value = listener->get();
        if (variant != kPlain &&
            bpf_map_update_elem(in_sockmap ? programs.sockmap : programs.sockarray, &i, &value,
                                BPF_NOEXIST))
            return fail_errno(errno, fmt::format("{}: entering a listener", kNames[variant]));
        epoll_event event = {.events = EPOLLIN, .data = {.fd = listener->get()}};
        if (epoll_ctl(group.epoll.get(), EPOLL_CTL_ADD, listener->get(), &event))
            return fail_errno(errno, "watching a listener");
        group.listeners.push_back(std::move(*listener));
    }
    const int& program = in_sockmap ? programs.from_sockmap : programs.from_sockarray;
    if (selects && setsockopt(group.listeners[0].get(), SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF,
                              &program, sizeof(program)))
        return fail_errno(errno, "attaching the program");
    return group;
}

// Opens, accepts and resets `count` connections. Returns how many each listener took.
Result<std::vector<int>> serve(const Group& group, int count) {
    std::vector<int> taken(kMembers);
    sockaddr_in at = address();
    linger reset = {.l_onoff = 1, .l_linger = 0};  // no TIME_WAIT: ports are free at once
    for (int i = 0; i < count; i++) {
        Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        setsockopt(client.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        if (connect(client.get(), reinterpret_cast<sockaddr*>(&at), sizeof(at)))
            return fail_errno(errno, "connecting");
        epoll_event event = {};
        if (epoll_wait(group.epoll.get(), &event, 1, 1000) != 1)
            return fail("lost", "a connection arrived at no listener");
        Fd accepted(accept4(event.data.fd, nullptr, nullptr, SOCK_CLOEXEC));
        if (!accepted.is_open()) return fail_errno(errno, "accepting");
        client.reset();
        auto is_it = [&](const Fd& fd) { return fd.get() == event.data.fd; };
        taken[std::find_if(group.listeners.begin(), group.listeners.end(), is_it) -
              group.listeners.begin()]++;
    }
    return taken;
}

double process_cpu_us() {
    timespec now = {};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

long softirq_ticks(int cpu) {
    std::ifstream stat("/proc/stat");
    std::string word, name = fmt::format("cpu{}", cpu);
    long ticks = 0;
    while (stat >> word && word != name) {
    }
    for (int field = 0; field < 7; field++) stat >> ticks;  // user nice system idle iowait irq
    return ticks;
}

bpf_prog_info program_info(int program) {
    bpf_prog_info info = {};
    __u32 size = sizeof(info);
    bpf_obj_get_info_by_fd(program, &info, &size);
    return info;
}

Result<Batch> measure(Variant variant, const Programs& programs, int cpu, int connections) {
    int program = variant == kSockmap ? programs.from_sockmap : programs.from_sockarray;
    Result<Group> group = open_group(variant, programs);
    if (!group) return tl::unexpected(group.error());
    Result<std::vector<int>> taken = serve(*group, kWarmUp);
    if (!taken) return tl::unexpected(taken.error());
    bpf_prog_info info = program_info(program);
    long ticks = softirq_ticks(cpu);
    double start = process_cpu_us();
    taken = serve(*group, connections);
    double used = process_cpu_us() - start;
    if (!taken) return tl::unexpected(taken.error());
    ticks = softirq_ticks(cpu) - ticks;
    bpf_prog_info after = program_info(program);
    uint64_t runs = after.run_cnt - info.run_cnt;
    auto [least, most] = std::minmax_element(taken->begin(), taken->end());
    if (variant >= kSockarray && *most - *least > 1)
        return fail("spread", fmt::format("{}: not in turn", kNames[variant]));
    return Batch{used / connections, ticks,
                 runs ? double(after.run_time_ns - info.run_time_ns) / runs : 0};
}

double median(std::vector<double> row) {
    std::sort(row.begin(), row.end());
    return (row[row.size() / 2] + row[(row.size() - 1) / 2]) / 2;
}

// Median of the ratios within the rounds, and its 95 % interval.
std::string ratio(const std::vector<double>& of, const std::vector<double>& to) {
    std::vector<double> row(of.size());
    std::transform(of.begin(), of.end(), to.begin(), row.begin(), std::divides<>());
    std::sort(row.begin(), row.end());
    size_t n = row.size();
    size_t low = std::max(0.0, std::floor((n - 1.96 * std::sqrt(n)) / 2));
    return fmt::format("{:.3f} ({:.3f} … {:.3f})", median(row), row[low], row[n - 1 - low]);
}

// Rounds of the variants from `first` on: each in another order, with programs loaded anew, because
// where their code and maps come to lie makes a difference of its own.
Result<Figures> run_rounds(int rounds, Variant first, int cpu, int connections) {
    Figures figures;
    std::vector<Variant> order;
    for (int v = first; v < kVariants; v++) order.push_back(Variant(v));
    std::mt19937 random(1);
    for (int round = 0; round < rounds; round++) {
        Result<Programs> programs = load_programs();
        if (!programs) return tl::unexpected(programs.error());
        std::shuffle(order.begin(), order.end(), random);
        for (Variant variant : order) {
            Result<Batch> batch = measure(variant, *programs, cpu, connections);
            if (!batch) return tl::unexpected(batch.error());
            figures.cpu_us[variant].push_back(batch->cpu_us);
            figures.program_ns[variant].push_back(batch->program_ns);
            figures.softirq_ticks[variant] += batch->softirq_ticks;
        }
    }
    return figures;
}

Result<void> run(int rounds, int connections) {
    Result<int> cpu = isolate();
    if (!cpu) return tl::unexpected(cpu.error());
    Result<Figures> whole = run_rounds(rounds, kPlain, *cpu, connections);
    if (!whole) return tl::unexpected(whole.error());

    Fd statistics(bpf_enable_stats(BPF_STATS_RUN_TIME));
    if (!statistics.is_open()) return fail_errno(errno, "turning program statistics on");
    Result<Figures> programs = run_rounds(rounds, kSockarray, *cpu, connections);
    if (!programs) return tl::unexpected(programs.error());

    const auto& cpu_us = whole->cpu_us;
    const auto& program_ns = programs->program_ns;
    fmt::print("{} rounds of {} connections a variant, {} listeners, CPU {}\n\n", rounds,
               connections, kMembers, *cpu);
    fmt::print("{:<12} {:>9} {:>8}  {:<24} {:<24} {:>7}  {}\n", "", "CPU µs", "softirq", "× plain",
               "× sockarray", "run ns", "× sockarray");
    long tick_us = 1'000'000 / sysconf(_SC_CLK_TCK);
    for (int v = 0; v < kVariants; v++) {
        fmt::print("{:<12} {:>8.3f} {:>8.2f}  {:<24} {:<24} ", kNames[v], median(cpu_us[v]),
                   double(whole->softirq_ticks[v]) * tick_us / rounds / connections,
                   ratio(cpu_us[v], cpu_us[kPlain]), ratio(cpu_us[v], cpu_us[kSockarray]));
        if (program_ns[v].empty())
            fmt::print("{:>7}\n", "–");
        else
            fmt::print("{:>7.1f}  {}\n", median(program_ns[v]),
                       ratio(program_ns[v], program_ns[kSockarray]));
    }
    return {};
}

}  // namespace

int main(int count, char** words) {
    int rounds = count > 1 ? std::atoi(words[1]) : 80;
    int connections = count > 2 ? std::atoi(words[2]) : 2500;
    if (count > 3 || rounds < 1 || connections < 1) {
        fmt::print(stderr, "usage: select_map [ROUNDS [CONNECTIONS]]\n");
        return 2;
    }
    if (Result<void> done = run(rounds, connections); !done) {
        fmt::print(stderr, "select_map: {}\n", done.error().text);
        return 1;
    }
    return 0;
}
