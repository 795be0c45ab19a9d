// SPDX-License-Identifier: MIT
//
// The agent check: what a load balancer is told, and a real HAProxy in front of two drover hosts.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <memory>
#include <sstream>

#include "crowd.h"
#include "harness.h"
#include "hosts.h"
#include "http.h"

namespace drover::test {

namespace {

std::string read_all(int socket) {
    std::string text;
    char piece[4096];
    for (ssize_t size = 0; (size = ::recv(socket, piece, sizeof(piece), 0)) > 0;)
        text.append(piece, static_cast<size_t>(size));
    return text;
}

// What the agent at that port of the sandbox says, by IPv4 or IPv6; "" where there is none.
std::string ask_agent(int port, int family = AF_INET) {
    Fd socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in v4{};
    sockaddr_in6 v6{};
    v4.sin_family = AF_INET;
    v6.sin6_family = AF_INET6;
    v4.sin_port = v6.sin6_port = htons(static_cast<uint16_t>(port));
    v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    v6.sin6_addr = in6addr_loopback;
    bool is_v6 = family == AF_INET6;
    const auto* address =
        is_v6 ? reinterpret_cast<const sockaddr*>(&v6) : reinterpret_cast<const sockaddr*>(&v4);
    if (::connect(socket.get(), address, is_v6 ? sizeof(v6) : sizeof(v4)) != 0) return "";
    return read_all(socket.get());
}

constexpr int kAgent = 9000;

// The configuration that README shows, for the test's addresses and a faster check.
const char* const kHaproxy = R"(
global
    stats socket {folder}/haproxy.sock
defaults
    mode http
    timeout connect 2s
    timeout client {long}
    timeout server {long}
    retries 3
    option redispatch
frontend web
    bind 127.0.0.1:8080
    default_backend hosts
backend hosts
    balance leastconn
    default-server weight 100 check inter {often} fall 2 rise 1
    default-server agent-check agent-port 9000 agent-inter {often}
    server one {one}:8080
    server two {two}:8080
)";

class Haproxy {
  public:
    Haproxy(Sandbox& sandbox, const std::string& program, const Host& one, const Host& two)
        : socket_(sandbox.path("haproxy.sock")) {
        std::string text = kHaproxy;
        auto put = [&text](const std::string& name, const std::string& value) {
            for (size_t at; (at = text.find(name)) != std::string::npos;)
                text.replace(at, name.size(), value);
        };
        put("{often}", patient(200));
        put("{long}", patient(30'000));
        put("{folder}", sandbox.path("."));
        put("{one}", one.address());
        put("{two}", two.address());
        write_file(sandbox.path("haproxy.cfg"), text);
        process_ = sandbox.start({.command = {program, "-db", "-f", sandbox.path("haproxy.cfg")},
                                  .extra_environment = {},
                                  .identity = {},
                                  .cwd = {}});
    }

    Child& process() { return process_; }

    // Of one server: a field of its statistics, by the field's name; "" where there is no answer.
    std::string stat(const std::string& server, const std::string& field) const {
        std::istringstream lines(statistics());
        std::string line;
        std::getline(lines, line);
        auto names = split(line);
        while (std::getline(lines, line)) {
            auto values = split(line);
            if (values.size() < names.size() || values[0] != "hosts" || values[1] != server)
                continue;
            for (size_t i = 0; i < names.size(); i++)
                if (names[i] == field) return values[i];
        }
        return "";
    }
    bool comes_to(const std::string& server, const std::string& status) const {
        bool came = eventually([&] { return stat(server, "status").starts_with(status); });
        if (!came) std::printf("%s", statistics().c_str());
        return came;
    }

    [[nodiscard]] std::string statistics() const {
        Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strncpy(address.sun_path, socket_.c_str(), sizeof(address.sun_path) - 1);
        if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
            return "";
        const char ask[] = "show stat\n";
        if (::send(socket.get(), ask, sizeof(ask) - 1, MSG_NOSIGNAL) < 0) return "";
        return read_all(socket.get());
    }

  private:
    static std::vector<std::string> split(std::string line) {
        if (line.starts_with("# ")) line.erase(0, 2);
        std::vector<std::string> values;
        std::istringstream fields(line);
        for (std::string value; std::getline(fields, value, ',');) values.push_back(value);
        return values;
    }
    std::string socket_;
    Child process_;
};

// A drover cluster on a host, whose requests are in a file.
class Web {
  public:
    Web(Sandbox& sandbox, const Host& host, const std::string& name)
        : sandbox_(sandbox), name_(name), log_(sandbox.path(name + ".log")) {
        Words command = {build_folder() + "/drover",
                         "run",
                         "--name",
                         name,
                         "-n",
                         "2",
                         "--port",
                         "8080",
                         "--agent",
                         fmt::format("0.0.0.0:{}", kAgent),
                         "--stop-delay",
                         patient(2'000),
                         "--"};
        for (const auto& word : hello({"--log", log_})) command.push_back(word);
        master_ = sandbox.start(
            {.command = host.there(command), .extra_environment = {}, .identity = {}, .cwd = {}});
    }
    bool wait_ready() {
        return eventually([&] {
            auto status = Json::parse(sandbox_.drover({"status", name_, "--json"}).out, nullptr,
                                      /*allow_exceptions=*/false);
            return status.is_object() && status["ready"] == 2;
        });
    }
    int do_verb(const std::string& verb) { return sandbox_.drover({verb, name_}).status; }
    Child& master() { return master_; }
    [[nodiscard]] size_t requests() const { return count_lines(read_file(log_)); }

  private:
    Sandbox& sandbox_;
    std::string name_, log_;
    Child master_;
};

}  // namespace

TEST_SUITE_BEGIN("agent");

TEST_CASE("the agent says what the cluster can do: up, drain, down") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--agent", std::to_string(kAgent), "--ready-timeout", "60s"},
                    hello({"--delay-listen-ms", "700"}));
    REQUIRE(eventually([&] { return !ask_agent(kAgent).empty(); }));
    CHECK(ask_agent(kAgent) == "down\n");
    REQUIRE(cluster.wait_ready(2));
    auto up = ask_agent(kAgent);
    CHECK(up.starts_with("ready up "));
    CHECK(up.ends_with("%\n"));
    auto weight = [] {
        auto line = ask_agent(kAgent);
        return line.starts_with("ready up ") ? std::stoi(line.substr(9)) : -1;
    };
    CHECK(weight() >= 50);
    // One of two workers is half the capacity.
    REQUIRE(cluster.drover({"drain", cluster.target(0)}).status == 0);
    CHECK(weight() >= 25);
    CHECK(weight() <= 50);
    REQUIRE(cluster.drover({"resume", cluster.target(0)}).status == 0);

    auto drained = cluster.drover({"drain", "web"});
    CHECK(drained.status == 0);
    CHECK(contains(drained.out, "it serves on, until \"drover resume web\""));
    CHECK(ask_agent(kAgent) == "drain\n");
    CHECK(cluster.status()["drained"] == true);
    CHECK(get("127.0.0.1", 8080).ok());
    // So does the master that is started after a kill -9.
    cluster.master().send(SIGKILL);
    REQUIRE(cluster.master().wait() == 128 + SIGKILL);
    Cluster next(sandbox, "web",
                 {"-n", "2", "--agent", std::to_string(kAgent), "--ready-timeout", "60s"},
                 hello({"--delay-listen-ms", "700"}));
    REQUIRE(next.wait_ready(2));
    CHECK(ask_agent(kAgent) == "drain\n");
    CHECK(next.drover({"resume", "web"}).status == 0);
    CHECK(ask_agent(kAgent).starts_with("ready up "));
    CHECK(next.drover({"resume", "web"}).status == 1);
    // It is reached by no other address.
    CHECK(contains(read_file("/proc/thread-self/net/tcp"),
                   fmt::format("0100007F:{:04X} 00000000:0000 0A", kAgent)));
    CHECK(next.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("the agent answers at an IPv6 address, and there alone") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1", "--agent", fmt::format("[::1]:{}", kAgent)},
                    hello());
    REQUIRE(cluster.wait_ready(1));
    CHECK(ask_agent(kAgent, AF_INET6).starts_with("ready up "));
    CHECK(ask_agent(kAgent, AF_INET) == "");
    REQUIRE(cluster.drover({"drain", "web"}).status == 0);
    CHECK(ask_agent(kAgent, AF_INET6) == "drain\n");
    Cluster other(sandbox, "other", {"-n", "1", "--agent", fmt::format("[::1]:{}", kAgent)},
                  hello({"--port", "8081"}));
    CHECK(other.master().wait() == 1);
    CHECK(contains(other.master().err(), "listen for agent checks at ::1 port 9000 (--agent)"));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a stop is announced before connections are refused") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--agent", std::to_string(kAgent), "--stop-delay", "3s"}, hello());
    REQUIRE(cluster.wait_ready(2));
    auto begin = Clock::now();
    cluster.master().send(SIGTERM);
    REQUIRE(eventually([] { return ask_agent(kAgent) == "drain\n"; }));
    CHECK(cluster.status()["state"] == "stopping");
    while (Clock::now() - begin < milliseconds(1'000)) REQUIRE(get("127.0.0.1", 8080).ok());
    CHECK(cluster.master().wait() == 0);
    CHECK(Clock::now() - begin >= milliseconds(3'000));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a second signal does not wait for load balancers") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--stop-delay", "1h"}, hello());
    REQUIRE(cluster.wait_ready(2));
    cluster.master().send(SIGTERM);
    REQUIRE(eventually([&] { return contains(cluster.master().err(), "is going to stop"); }));
    cluster.master().send(SIGTERM);
    CHECK(cluster.master().wait() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("an agent port that is taken is refused with a sentence") {
    Sandbox sandbox;
    Cluster first(sandbox, "web", {"-n", "1", "--agent", std::to_string(kAgent)}, hello());
    REQUIRE(first.wait_ready(1));
    Cluster other(sandbox, "other", {"-n", "1", "--agent", std::to_string(kAgent)},
                  hello({"--port", "8081"}));
    CHECK(other.master().wait() == 1);
    CHECK(contains(other.master().err(),
                   "listen for agent checks at 127.0.0.1 port 9000 (--agent): Address already in "
                   "use"));
    CHECK(first.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("behind HAProxy, drain and stop of one of two hosts lose nothing") {
    auto program = find_program("haproxy");
    if (!program) return;
    Sandbox sandbox;
    Host first(sandbox, 1), second(sandbox, 2);
    auto one = std::make_unique<Web>(sandbox, first, "one");
    Web two(sandbox, second, "two");
    REQUIRE(one->wait_ready());
    REQUIRE(two.wait_ready());
    Haproxy haproxy(sandbox, *program, first, second);
    REQUIRE(haproxy.comes_to("one", "UP"));
    REQUIRE(haproxy.comes_to("two", "UP"));
    Crowd crowd(crowd_options());
    bool is_served = crowd.wait_answered(400);
    INFO(haproxy.statistics());
    REQUIRE(is_served);
    CHECK(one->requests() > 50);
    CHECK(two.requests() > 50);

    // By hand, and back.
    REQUIRE(one->do_verb("drain") == 0);
    REQUIRE(haproxy.comes_to("one", "DRAIN"));
    REQUIRE(eventually([&] { return haproxy.stat("one", "scur") == "0"; }));
    auto rested = one->requests();
    REQUIRE(crowd.wait_answered(200));
    CHECK(one->requests() == rested);
    REQUIRE(one->do_verb("resume") == 0);
    REQUIRE(haproxy.comes_to("one", "UP"));
    REQUIRE(eventually([&] { return one->requests() > rested + 20; }));

    // A host is stopped, away for a while, and started anew.
    CHECK(one->do_verb("stop") == 0);
    CHECK(one->master().wait() == 0);
    REQUIRE(crowd.wait_answered(200));
    rested = one->requests();
    one = std::make_unique<Web>(sandbox, first, "one");
    REQUIRE(one->wait_ready());
    REQUIRE(haproxy.comes_to("one", "UP"));
    REQUIRE(eventually([&] { return one->requests() > rested + 20; }));

    // The other one, the way systemd does it.
    two.master().send(SIGTERM);
    CHECK(two.master().wait() == 0);
    REQUIRE(crowd.wait_answered(200));
    auto result = crowd.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
    // Not even by a second try.
    for (const std::string server : {"one", "two"})
        for (const std::string field : {"econ", "eresp", "wretr", "wredis"}) {
            CAPTURE(server);
            CAPTURE(field);
            CHECK(haproxy.stat(server, field) == "0");
        }
    haproxy.process().send(SIGTERM);
    haproxy.process().wait();
    CHECK(one->do_verb("stop") == 0);
    CHECK(one->master().wait() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
