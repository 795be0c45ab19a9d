// SPDX-License-Identifier: MIT
//
// The live counts, against the kernel's own list of sockets: whatever connections do, at the end
// each worker's count is the number of its sockets in ESTABLISHED and CLOSE_WAIT, and nothing had
// to be corrected.
//
// Whose a socket is, `ss` says by the process that has it open: so not by what drover goes by.
#include <bpf/bpf.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>

#include <filesystem>
#include <memory>
#include <random>
#include <regex>

#include "churn.h"
#include "harness.h"
#include "http.h"
#include "raw_tcp.h"
#include "truth.h"

namespace drover::test {

namespace {

constexpr uint16_t kPort = 8080;

void set_sysctl(const std::string& name, int value) {
    write_file("/proc/sys/net/ipv4/" + name, fmt::format("{}\n", value));
    REQUIRE(std::atoi(read_file("/proc/sys/net/ipv4/" + name).c_str()) == value);
}

// Enters what nobody looks for into a map of a master's, until no more goes in. Returns how many
// entries went in.
size_t fill_map(pid_t master, const std::string& name) {
    size_t entered = 0;
    for (const auto& entry :
         std::filesystem::directory_iterator(fmt::format("/proc/{}/fdinfo", master))) {
        std::smatch id;
        std::string about = read_file(entry.path());
        if (!std::regex_search(about, id, std::regex("map_id:\\s*([0-9]+)"))) continue;
        int map = bpf_map_get_fd_by_id(static_cast<uint32_t>(std::stoul(id[1])));
        REQUIRE(map >= 0);
        bpf_map_info info{};
        uint32_t size = sizeof info;
        REQUIRE(bpf_obj_get_info_by_fd(map, &info, &size) == 0);
        if (info.name == name) {
            std::vector<char> value(info.value_size);
            REQUIRE(info.key_size == sizeof(uint64_t));
            // No cookie of a socket is so large.
            for (uint64_t key = ~uint64_t(0); entered <= info.max_entries; key--, entered++)
                if (bpf_map_update_elem(map, &key, value.data(), BPF_NOEXIST) != 0) break;
        }
        ::close(map);
    }
    return entered;
}

}  // namespace

TEST_SUITE_BEGIN("account");

TEST_CASE("20,000 connections come and go between kills, drains and scaling: counts stay exact") {
    Sandbox sandbox;
    // The same worker may be killed many times, each within a second after its start.
    Cluster cluster(sandbox, "web",
                    {"-n", "4", "--drain-timeout", "200ms", "--max-restarts", "100/60s"}, hello());
    REQUIRE(cluster.wait_ready(4));
    uint32_t seed = std::random_device{}();
    INFO("seed ", seed);
    std::mt19937 random(seed);
    Churn churn(seed);
    int workers = 4;
    for (int part = 0; churn.connected() < 20'000; part++) {
        REQUIRE(part < 200);
        pid_t victim = cluster.pid_of(static_cast<int>(random() % 3));
        std::string name = cluster.target(static_cast<int>(random() % 3));
        if (part % 5 == 0) workers = 7 - workers;  // 4 and 3
        std::thread meanwhile([&] {
            switch (part % 5) {
                case 0:
                    cluster.drover({"scale", "web", std::to_string(workers)});
                    break;
                case 1:
                    if (victim > 0) ::kill(victim, SIGKILL);
                    break;
                case 2:
                    cluster.drover({"rescue", name});
                    break;
                case 3:
                    cluster.drover({"restart", name});
                    break;
                case 4:
                    if (victim > 0 && ::kill(victim, SIGSTOP) == 0) {
                        cluster.drover({"weight", name, "3"});
                        cluster.drover({"weight", name, "1"});
                        ::kill(victim, SIGCONT);
                    }
                    break;
                default:
                    break;
            }
        });
        for (int i = 0; i < 1'000; i++) churn.step();
        meanwhile.join();
    }
    REQUIRE(cluster.wait_ready(workers));
    check_counts(sandbox, cluster);
    churn.close_all();
    check_counts(sandbox, cluster);
    Json status = cluster.status();
    for (const auto& worker : status["workers"]) CHECK(worker["live"] == 0);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("with SYN cookies connections go by the policy and are counted exactly") {
    Sandbox sandbox;
    set_sysctl("tcp_syncookies", 2);  // always
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", "least-conn"}, hello());
    REQUIRE(cluster.wait_ready(4));
    std::vector<std::unique_ptr<Connection>> held;
    std::map<int, int> shares;
    for (int i = 0; i < 200; i++) {
        held.push_back(std::make_unique<Connection>("127.0.0.1", kPort));
        shares[instance_in(held.back()->get("/hold").body)]++;
    }
    CHECK(shares == std::map<int, int>{{0, 50}, {1, 50}, {2, 50}, {3, 50}});
    // They were cookies: the program saw each connection twice.
    CHECK(cluster.status()["decisions_total"]["stray"].get<int>() >= 200);
    check_counts(sandbox, cluster);
    held.clear();
    check_counts(sandbox, cluster);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("with SYN cookies a client still comes back to its instance") {
    Sandbox sandbox;
    set_sysctl("tcp_syncookies", 2);
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", "source"}, hello());
    REQUIRE(cluster.wait_ready(4));
    for (const char* client : {"127.0.0.5", "127.0.0.6", "127.0.0.7", "127.0.0.8"}) {
        std::map<int, int> shares;
        for (int i = 0; i < 10; i++)
            shares[instance_in(get("127.0.0.1", kPort, "/", kDeadline, client).body)]++;
        CHECK(shares.size() == 1);
        CHECK(shares.count(-1) == 0);
    }
    CHECK(cluster.stop() == 0);
}

TEST_CASE("handshakes that end in a reset leave nothing behind") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "least-conn"}, hello());
    REQUIRE(cluster.wait_ready(2));
    RawTcp raw;
    for (uint16_t i = 0; i < 500; i++)
        REQUIRE(raw.send_syn(INADDR_LOOPBACK + 1 + i % 100, 10'000 + i, kPort));
    CHECK(cluster.status()["decisions_total"]["picked"].get<int>() >= 500);
    check_counts(sandbox, cluster);
    CHECK(spread("127.0.0.1", kPort, 10).count(-1) == 0);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a SYN flood neither shifts the counts nor keeps clients away") {
    Sandbox sandbox;
    set_sysctl("tcp_syncookies", 2);
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", "least-busy"}, hello());
    REQUIRE(cluster.wait_ready(4));
    // Two of the workers have much to do.
    std::vector<std::unique_ptr<Connection>> held;
    std::map<int, std::vector<std::unique_ptr<Connection>>> by_instance;
    for (int i = 0; i < 80; i++) {
        auto connection = std::make_unique<Connection>("127.0.0.1", kPort);
        by_instance[instance_in(connection->get("/hold").body)].push_back(std::move(connection));
    }
    by_instance.erase(2);
    by_instance.erase(3);
    REQUIRE(eventually([&] { return cluster.worker(3)["live"] == 0; }));
    std::atomic<bool> over = false;
    std::atomic<int> sent = 0;
    std::thread flood([&] {
        RawTcp raw;
        for (uint32_t i = 0; !over; i++)
            sent += raw.send_syn(INADDR_LOOPBACK + 1 + i % 60'000, static_cast<uint16_t>(i | 1024),
                                 kPort);
    });
    REQUIRE(eventually([&] { return sent > 1'000; }));
    auto shares = spread("127.0.0.1", kPort, 200);
    over = true;
    flood.join();
    INFO(sent.load(), " SYNs");
    // The ranking is as without a flood.
    CHECK(shares.count(-1) == 0);
    CHECK(shares[0] + shares[1] == 0);
    CHECK(shares[2] > 20);
    CHECK(shares[3] > 20);
    check_counts(sandbox, cluster);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("TCP Fast Open: counted from the SYN on, and not for ever when it ends in a reset") {
    Sandbox sandbox;
    // Client and server, without cookies and without a word from the server's program.
    set_sysctl("tcp_fastopen", 0x1 | 0x2 | 0x4 | 0x200 | 0x400);
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "least-conn"}, hello());
    REQUIRE(cluster.wait_ready(2));
    const std::string request = "GET /hold HTTP/1.1\r\n\r\n";
    sockaddr_in target{};
    target.sin_family = AF_INET;
    target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    target.sin_port = htons(kPort);
    std::vector<Fd> held;
    for (int i = 0; i < 20; i++) {
        held.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        REQUIRE(::sendto(held.back().get(), request.data(), request.size(), MSG_FASTOPEN,
                         reinterpret_cast<sockaddr*>(&target),
                         sizeof(target)) == static_cast<ssize_t>(request.size()));
        char answer[256];
        REQUIRE(::recv(held.back().get(), answer, sizeof(answer), 0) > 0);
        tcp_info info{};
        socklen_t size = sizeof(info);
        REQUIRE(::getsockopt(held.back().get(), IPPROTO_TCP, TCP_INFO, &info, &size) == 0);
        REQUIRE((info.tcpi_options & TCPI_OPT_SYN_DATA) != 0);  // it was one
    }
    check_counts(sandbox, cluster);
    CHECK(cluster.worker(0)["live"] == 10);
    held.clear();
    check_counts(sandbox, cluster);
    // The kernel resets what nobody asked for: these end before their handshake does.
    RawTcp raw;
    uint64_t before = 0, after = 0;
    auto established = [&] {
        return cluster.worker(0)["accepted_total"].get<uint64_t>() +
               cluster.worker(1)["accepted_total"].get<uint64_t>();
    };
    before = established();
    for (uint16_t i = 0; i < 50; i++)
        REQUIRE(raw.send_syn(INADDR_LOOPBACK + 1, 10'000 + i, kPort, request));
    CHECK(eventually([&] { return (after = established()) == before + 50; }));
    CHECK(after == before + 50);
    check_counts(sandbox, cluster);
    CHECK(cluster.worker(0)["live"] == 0);
    CHECK(cluster.worker(1)["live"] == 0);
    CHECK(cluster.stop() == 0);
}

TEST_CASE(
    "where no more moved connections can be remembered they are served, and counted where they "
    "were") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin"}, hello());
    REQUIRE(cluster.wait_ready(2));
    CHECK(fill_map(cluster.master().pid(), "moved") >= 65'000);
    pid_t stopped = cluster.pid_of(1);
    REQUIRE(stop_process(stopped));
    std::vector<std::unique_ptr<Connection>> waiting;
    for (int i = 0; i < 40; i++) {
        waiting.push_back(std::make_unique<Connection>("127.0.0.1", kPort));
        REQUIRE(waiting.back()->send_request("/", false));
    }
    for (auto& connection : waiting) CHECK(instance_in(connection->receive().body) == 0);
    CHECK(cluster.status()["moved_total"] == 0);
    waiting.clear();
    REQUIRE(::kill(stopped, SIGCONT) == 0);
    for (int instance : {0, 1})
        CHECK(eventually([&] { return cluster.worker(instance)["live"] == 0; }));
    check_counts(sandbox, cluster);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("what a worker has taken never falls, though connections queue while it is read") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--policy", "round-robin", "--stall-after", "never"}, hello());
    REQUIRE(cluster.wait_ready(2));
    pid_t stopped = cluster.pid_of(0);
    REQUIRE(stop_process(stopped));
    Load load("127.0.0.1", kPort, 400);
    uint64_t most = 0;
    int falls = 0;
    for (int look = 0; look < 100; look++) {
        auto taken = cluster.worker(0)["accepted_total"].get<uint64_t>();
        falls += taken < most ? 1 : 0;
        most = std::max(most, taken);
    }
    CHECK(falls == 0);
    REQUIRE(::kill(stopped, SIGCONT) == 0);
    auto result = load.stop();
    CHECK_MESSAGE(result.failed() == 0, result.text());
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a connection whose client has said its last word counts until the worker closes it") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    REQUIRE(cluster.drover({"signal", "web", "STOP"}).status == 0);
    Churn churn(1);
    std::vector<Fd> held;
    for (int i = 0; i < 5; i++) {
        held.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in target{};
        target.sin_family = AF_INET;
        target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        target.sin_port = htons(kPort);
        REQUIRE(::connect(held.back().get(), reinterpret_cast<sockaddr*>(&target),
                          sizeof(target)) == 0);
        ::shutdown(held.back().get(), SHUT_WR);
    }
    CHECK(sockets_by_owner(sandbox)[0] == 5);
    CHECK(cluster.worker(0)["live"] == 5);
    REQUIRE(cluster.drover({"signal", "web", "CONT"}).status == 0);
    CHECK(eventually([&] { return cluster.worker(0)["live"] == 0; }));
    check_counts(sandbox, cluster);
    CHECK(cluster.stop() == 0);
}

TEST_SUITE_END();

}  // namespace drover::test
