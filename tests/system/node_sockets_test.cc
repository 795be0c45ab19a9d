// SPDX-License-Identifier: MIT
//
// What Node workers listen on: drover opens it for them, as the primary of Node's cluster does. TCP
// in all its forms, TLS, UDP and unix sockets.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <filesystem>
#include <set>
#include <sstream>

#include "harness.h"
#include "http.h"
#include "messages.h"
#include "node_programs.h"

namespace drover::test {

namespace {

namespace fs = std::filesystem;

// Sends one datagram to 127.0.0.1:8053 and gives the answer; empty: there was none.
std::string ask_udp(const std::string& text) {
    Fd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    timeval limit{2, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(8053);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ::sendto(fd.get(), text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&address),
             sizeof(address));
    char answer[256];
    ssize_t size = ::recv(fd.get(), answer, sizeof(answer), 0);
    return size > 0 ? std::string(answer, static_cast<size_t>(size)) : "";
}

// What a unix socket's server says until it closes; empty where there is none.
std::string ask_unix(const std::string& path) {
    Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) return "";
    std::string text;
    char bytes[256];
    for (ssize_t size; (size = ::recv(fd.get(), bytes, sizeof(bytes), 0)) > 0;)
        text.append(bytes, static_cast<size_t>(size));
    return text;
}

}  // namespace

TEST_SUITE_BEGIN("node");

NODE_TEST_CASE("listen(0) gives all Node workers one port") {
    Sandbox sandbox;
    auto command = program<Node>(sandbox, kHttp + std::string("server().listen(0);\n"));
    if (!command) return;
    Cluster cluster(sandbox, "web", {"-n", "3", "--policy", "round-robin"}, *command);
    REQUIRE(cluster.wait_ready(3));
    std::set<int> ports;
    for (const auto& event : events_of(cluster, "listening"))
        ports.insert(event["data"]["port"].get<int>());
    REQUIRE(ports.size() == 1);
    CHECK(*ports.begin() > 0);
    CHECK(spread("127.0.0.1", *ports.begin(), 9) == Shares{{0, 3}, {1, 3}, {2, 3}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

NODE_TEST_CASE("each of several servers of a Node program is shared") {
    Sandbox sandbox;
    auto command =
        program<Node>(sandbox, kHttp + std::string("server().listen(8080);\n"
                                                   "server().listen(8081, '127.0.0.1');\n"));
    if (!command) return;
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--port", "8080", "--port", "8081", "--policy", "round-robin"},
                    *command);
    REQUIRE(cluster.wait_ready(2));
    CHECK(spread("127.0.0.1", 8080, 8) == Shares{{0, 4}, {1, 4}});
    CHECK(spread("127.0.0.1", 8081, 8) == Shares{{0, 4}, {1, 4}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

NODE_TEST_CASE("a Node program may listen on IPv6 alone") {
    Sandbox sandbox;
    auto command = program<Node>(
        sandbox,
        kHttp + std::string("server().listen({port: 8080, host: '::', ipv6Only: true});\n"));
    if (!command) return;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin"}, *command);
    REQUIRE(cluster.wait_ready(2));
    CHECK(spread("::1", 8080, 8) == Shares{{0, 4}, {1, 4}});
    CHECK(get("127.0.0.1", 8080).error == "refused");
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

NODE_TEST_CASE("a Node server that wants its port for itself is steered all the same") {
    Sandbox sandbox;
    auto command = program<Node>(
        sandbox, kHttp + std::string("server().listen({port: 8080, exclusive: true});\n"));
    if (!command) return;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin"}, *command);
    REQUIRE(cluster.wait_ready(2));
    CHECK(spread("127.0.0.1", 8080, 8) == Shares{{0, 4}, {1, 4}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

NODE_TEST_CASE("a Node worker whose port a stranger holds is stopped with the stranger's name") {
    Sandbox sandbox;
    auto command = program<Node>(sandbox, kHttp + std::string("server().listen(8080);\n"));
    if (!command) return;
    Child stranger =
        sandbox.start({.command = hello(), .extra_environment = {}, .identity = {}, .cwd = {}});
    REQUIRE(eventually([] { return get("127.0.0.1", 8080).ok(); }));
    Cluster cluster(sandbox, "web", {"-n", "2"}, *command);
    CHECK(cluster.master().wait() == 1);
    INFO(cluster.master().err());
    CHECK(contains(cluster.master().err(), "port 8080 is taken"));
    CHECK(contains(cluster.master().err(), fmt::format("pid {}", stranger.pid())));
    CHECK(pid_in(get("127.0.0.1", 8080).body) == stranger.pid());
}

NODE_TEST_CASE("a Node program's unix socket is shared, and its file is gone at the end") {
    Sandbox sandbox;
    std::string path = sandbox.path("app.sock");
    auto command = program<Node>(
        sandbox, fmt::format("require('net').createServer(c => c.end(`pid ${{process.pid}}\\n`))"
                             ".listen('{}');\n",
                             path));
    if (!command) return;
    Cluster cluster(sandbox, "web", {"-n", "2"}, *command);
    REQUIRE(cluster.wait_ready(2));
    auto listening = events_of(cluster, "listening");
    REQUIRE(listening.size() == 2);
    CHECK(listening[0]["data"]["proto"] == "unix");
    CHECK(listening[0]["data"]["addr"] == path);
    auto pids = pids_of(cluster);
    for (int i = 0; i < 6; i++) CHECK(pids.count(pid_in(ask_unix(path))) == 1);
    // Not the first worker's: the others go on with it.
    int former = id_of(cluster, 0);
    REQUIRE(::kill(cluster.pid_of(0), SIGKILL) == 0);
    CHECK(pid_in(ask_unix(path)) > 0);
    CHECK(eventually([&] { return id_of(cluster, 0) != former; }));
    CHECK(cluster.stop() == 0);
    CHECK_FALSE(fs::exists(path));
    CHECK(sandbox.leftovers() == "");
}

NODE_TEST_CASE("a Node program's UDP socket is shared") {
    Sandbox sandbox;
    auto command =
        program<Node>(sandbox,
                      "const socket = require('dgram').createSocket('udp4');\n"
                      "socket.on('message', (text, from) =>\n"
                      "    socket.send(`${text} ${process.pid}`, from.port, from.address));\n"
                      "socket.bind(8053);\n");
    if (!command) return;
    Cluster cluster(sandbox, "web", {"-n", "2"}, *command);
    REQUIRE(cluster.wait_ready(2));
    auto listening = events_of(cluster, "listening");
    REQUIRE(listening.size() == 2);
    CHECK(listening[0]["data"]["proto"] == "udp");
    CHECK(listening[0]["data"]["port"] == 8053);
    auto pids = pids_of(cluster);
    for (int i = 0; i < 6; i++) {
        std::istringstream answer(ask_udp(fmt::format("question-{}", i)));
        std::string text;
        pid_t pid = 0;
        answer >> text >> pid;
        CHECK(text == fmt::format("question-{}", i));
        CHECK(pids.count(pid) == 1);
    }
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

NODE_TEST_CASE("a TLS session that one worker began is resumed by the others") {
    auto node = find_node<Node>();
    auto openssl = find_program("openssl");
    if (!node || !openssl) return;
    Sandbox sandbox;
    std::string key = sandbox.path("key.pem"), certificate = sandbox.path("certificate.pem");
    auto made =
        sandbox.run({.command = {*openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt",
                                 "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                                 "/CN=localhost", "-keyout", key, "-out", certificate},
                     .extra_environment = {},
                     .identity = {},
                     .cwd = {}});
    REQUIRE(made.status == 0);
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin"},
                    {*node, fs::absolute("tests/node/tls.js"), key, certificate});
    REQUIRE(cluster.wait_ready(2));
    auto client = sandbox.run({.command = {*node, fs::absolute("tests/node/tls_client.js")},
                               .extra_environment = {},
                               .identity = {},
                               .cwd = {}});
    INFO(client.out << client.err);
    CHECK(client.status == 0);
    std::istringstream lines(client.out);
    std::set<std::string> seen;
    std::string first;
    std::getline(lines, first);
    CHECK(first.substr(0, 4) == "new ");
    for (std::string line; std::getline(lines, line);) {
        CHECK(line.substr(0, 8) == "resumed ");
        seen.insert(line);
    }
    CHECK(seen.size() == 2);  // of both workers
    CHECK(cluster.stop() == 0);
}

NODE_TEST_CASE("a server that closes and listens again is steered again") {
    auto command = express_program<Node>("cluster.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "2", "--policy", "round-robin"}, *command);
    REQUIRE(cluster.wait_ready(2));
    auto pids = pids_of(cluster);
    REQUIRE(get("127.0.0.1", 8080, "/listen-again").ok());
    REQUIRE(eventually([&] { return events_of(cluster, "listening").size() == 3; }));
    REQUIRE(cluster.wait_ready(2));
    CHECK(spread("127.0.0.1", 8080, 8) == Shares{{0, 4}, {1, 4}});
    CHECK(pids_of(cluster) == pids);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
