// SPDX-License-Identifier: MIT
//
// Node programs that know nothing of drover: it is their cluster's primary. The programs are in
// tests/node; Express is what scripts/run-tests has installed into the build folder.
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

namespace drover::test {

namespace {

namespace fs = std::filesystem;
using Shares = std::map<int, int>;

const char* const kHttp =
    "const http = require('http');\n"
    "const me = `pid ${process.pid} instance ${process.env.NODE_APP_INSTANCE}\\n`;\n"
    "const server = () => http.createServer((q, r) => r.end(me));\n";

std::string modules() {
    return build_folder() + "/node/node_modules";
}

// The command of a program of tests/node that needs Express; says a skip where that is not there.
std::optional<Words> express_program(const std::string& name) {
    auto node = find_program("node");
    if (!node) return std::nullopt;
    if (!fs::exists(modules() + "/express")) {
        say_skip("express is not installed in the build folder; scripts/run-tests does it");
        return std::nullopt;
    }
    return Words{*node, fs::absolute("tests/node/" + name)};
}

Cluster run_express(Sandbox& sandbox, const Words& options, const Words& command) {
    return {sandbox, "web", options, command, {"NODE_PATH=" + modules()}};
}

// A program of a few lines, in the sandbox.
std::optional<Words> program(Sandbox& sandbox, const std::string& text) {
    auto node = find_program("node");
    if (!node) return std::nullopt;
    write_file(sandbox.path("program.js"), text);
    return Words{*node, sandbox.path("program.js")};
}

int id_of(Cluster& cluster, int instance) {
    Json worker = cluster.worker(instance);
    return worker.is_object() ? worker["id"].get<int>() : 0;
}

std::set<pid_t> pids_of(Cluster& cluster) {
    std::set<pid_t> pids;
    Json status = cluster.status();
    for (const auto& worker : status["workers"]) pids.insert(worker["pid"].get<pid_t>());
    return pids;
}

// An exit within a second of being ready counts as a failed start, which is not what is tested.
bool wait_until_established(Cluster& cluster) {
    auto ready = Clock::now();
    return eventually([&] { return Clock::now() - ready > milliseconds(1'050); }) &&
           cluster.status()["state"] == "running";
}

// One instance's worker was replaced by another that is ready.
bool wait_replaced(Cluster& cluster, int instance, int former_id) {
    return eventually([&] {
        Json worker = cluster.worker(instance);
        return worker.is_object() && worker["id"] != former_id && worker["state"] == "ready";
    });
}

// The exit event of a worker; null where there is none.
Json exit_of(Cluster& cluster, int id) {
    for (const auto& event : events_of(cluster, "exit"))
        if (event["worker"]["id"] == id) return event;
    return {};
}

milliseconds between(const Json& earlier, const Json& later) {
    auto since_midnight = [](const Json& event) {
        int hour = 0, minute = 0;
        double second = 0;
        std::string text = event["time"].get<std::string>();
        std::sscanf(text.c_str() + text.find('T'), "T%d:%d:%lf", &hour, &minute, &second);
        return milliseconds(static_cast<int>((hour * 3600 + minute * 60 + second) * 1000));
    };
    return since_midnight(later) - since_midnight(earlier);
}

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

TEST_CASE("an unmodified Express app answers from all workers in turn") {
    auto command = express_program("hello.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "4", "--policy", "round-robin"}, *command);
    REQUIRE(cluster.wait_ready(4));
    CHECK(spread("127.0.0.1", 8080, 20) == Shares{{0, 5}, {1, 5}, {2, 5}, {3, 5}});
    CHECK(spread("::1", 8080, 20) == Shares{{0, 5}, {1, 5}, {2, 5}, {3, 5}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("the cluster program of every tutorial runs as a worker and forks nothing") {
    auto command = express_program("tutorial.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "3", "--policy", "round-robin"}, *command);
    REQUIRE(cluster.wait_ready(3));
    CHECK(spread("127.0.0.1", 8080, 12) == Shares{{0, 4}, {1, 4}, {2, 4}});
    auto pids = pids_of(cluster);
    for (int i = 0; i < 3; i++) CHECK(pids.count(pid_in(get("127.0.0.1", 8080).body)) == 1);
    CHECK_FALSE(contains(cluster.master().out(), "Primary"));
    CHECK(contains(cluster.master().out(), fmt::format("Worker {} started", *pids.begin())));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a Node worker is a cluster worker whose id is drover's") {
    auto command = express_program("cluster.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "2", "--policy", "round-robin"}, *command);
    REQUIRE(cluster.wait_ready(2));
    std::set<int> ids;
    for (int i = 0; i < 2; i++) {
        Json seen = Json::parse(get("127.0.0.1", 8080, "/cluster").body, nullptr, false);
        REQUIRE(seen.is_object());
        INFO(seen.dump());
        CHECK(seen["isWorker"] == true);
        CHECK(seen["isPrimary"] == false);
        CHECK(seen["connected"] == true);
        CHECK(seen["id"] == seen["environment"]);
        CHECK(seen["leaked"] == Json::array());
        ids.insert(seen["id"].get<int>());
    }
    CHECK(ids == std::set<int>{id_of(cluster, 0), id_of(cluster, 1)});
    CHECK(cluster.stop() == 0);
}

TEST_CASE("process.send is a message event, and drover send arrives as process.on('message')") {
    auto command = express_program("cluster.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "2"}, *command);
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(get("127.0.0.1", 8080, "/send").ok());
    REQUIRE(eventually([&] { return events_of(cluster, "message").size() == 1; }));
    Json event = events_of(cluster, "message")[0];
    Json id = event["worker"]["id"];
    CHECK(event["data"]["from"] == id);
    CHECK(event["data"]["to"] == "master");
    CHECK(event["data"]["data"] ==
          Json{{"from", id}, {"text", "grüße"}, {"list", Json::array({1, 2.5, nullptr})}});

    int first = id_of(cluster, 0), second = id_of(cluster, 1);
    Json alone = {{"job", "für einen"}, {"deep", {{"list", {1, 2, 3}}}}};
    CHECK(send(cluster, cluster.target(1), alone) == 0);
    CHECK(wait_said(cluster, second, {{"got", alone}}));
    for (const Json& data : {Json("a string"), Json(7), Json(true)}) {
        CHECK(send(cluster, "web", data) == 0);
        CHECK(wait_said(cluster, first, {{"got", data}}));
        CHECK(wait_said(cluster, second, {{"got", data}}));
    }
    for (const auto& said : said_by(cluster, first)) CHECK(said != Json{{"got", alone}});
    CHECK(cluster.stop() == 0);
}

TEST_CASE("listen(0) gives all Node workers one port") {
    Sandbox sandbox;
    auto command = program(sandbox, kHttp + std::string("server().listen(0);\n"));
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

TEST_CASE("each of several servers of a Node program is shared") {
    Sandbox sandbox;
    auto command = program(sandbox, kHttp + std::string("server().listen(8080);\n"
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

TEST_CASE("a Node program may listen on IPv6 alone") {
    Sandbox sandbox;
    auto command = program(
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

TEST_CASE("a Node server that wants its port for itself is steered all the same") {
    Sandbox sandbox;
    auto command =
        program(sandbox, kHttp + std::string("server().listen({port: 8080, exclusive: true});\n"));
    if (!command) return;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin"}, *command);
    REQUIRE(cluster.wait_ready(2));
    CHECK(spread("127.0.0.1", 8080, 8) == Shares{{0, 4}, {1, 4}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a Node worker whose port a stranger holds is stopped with the stranger's name") {
    Sandbox sandbox;
    auto command = program(sandbox, kHttp + std::string("server().listen(8080);\n"));
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

TEST_CASE("a Node program's unix socket is shared, and its file is gone at the end") {
    Sandbox sandbox;
    std::string path = sandbox.path("app.sock");
    auto command = program(
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

TEST_CASE("a Node program's UDP socket is shared") {
    Sandbox sandbox;
    auto command = program(sandbox,
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

TEST_CASE("a TLS session that one worker began is resumed by the others") {
    auto node = find_program("node");
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

TEST_CASE("a server that closes and listens again is steered again") {
    auto command = express_program("cluster.js");
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

TEST_CASE("a worker that disconnects exits with 0 and is replaced at once") {
    auto command = express_program("cluster.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "1"}, *command);
    REQUIRE(cluster.wait_ready(1));
    REQUIRE(wait_until_established(cluster));
    int id = id_of(cluster, 0);
    REQUIRE(get("127.0.0.1", 8080, "/disconnect").ok());
    CHECK(get("127.0.0.1", 8080).ok());  // waits for the replacement, if need be
    REQUIRE(wait_replaced(cluster, 0, id));
    Json exit = exit_of(cluster, id);
    REQUIRE(exit.is_object());
    CHECK(exit["data"]["code"] == 0);
    CHECK(exit["data"]["signal"] == nullptr);
    Json disconnects = events_of(cluster, "disconnect");
    REQUIRE(disconnects.size() == 1);
    CHECK(disconnects[0]["worker"]["id"] == id);
    auto forks = events_of(cluster, "fork");
    REQUIRE(forks.size() == 2);
    CHECK(between(exit, forks[1]) < milliseconds(200));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a Node worker that throws is replaced") {
    auto command = express_program("cluster.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "1"}, *command);
    REQUIRE(cluster.wait_ready(1));
    REQUIRE(wait_until_established(cluster));
    int id = id_of(cluster, 0);
    REQUIRE(get("127.0.0.1", 8080, "/throw").ok());
    REQUIRE(wait_replaced(cluster, 0, id));
    CHECK(get("127.0.0.1", 8080).ok());
    Json exit = exit_of(cluster, id);
    REQUIRE(exit.is_object());
    CHECK(exit["data"]["code"] == 1);
    CHECK(exit["data"]["reason"] == "crash");
    CHECK(contains(cluster.master().err(), "thrown on purpose"));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a restart of Node workers under load loses no connection") {
    auto command = express_program("hello.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "2"}, *command);
    REQUIRE(cluster.wait_ready(2));
    auto before = pids_of(cluster);
    Load load("127.0.0.1", 8080, 300);
    REQUIRE(load.wait_answered(100));
    CHECK(cluster.drover({"restart", "web"}, milliseconds(30'000)).status == 0);
    REQUIRE(cluster.wait_ready(2));
    CHECK(load.wait_answered(100));
    auto result = load.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
    for (pid_t pid : pids_of(cluster)) CHECK(before.count(pid) == 0);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("Node workers live on without their master until drover stop") {
    auto command = express_program("cluster.js");
    if (!command) return;
    Sandbox sandbox;
    auto cluster = run_express(sandbox, {"-n", "2", "--policy", "round-robin"}, *command);
    REQUIRE(cluster.wait_ready(2));
    auto pids = pids_of(cluster);
    cluster.master().send(SIGKILL);
    REQUIRE(cluster.master().wait() == 128 + SIGKILL);
    CHECK(spread("127.0.0.1", 8080, 8) == Shares{{0, 4}, {1, 4}});
    // What they say goes nowhere, and does them no harm.
    for (int i = 0; i < 50; i++) CHECK(get("127.0.0.1", 8080, "/send").ok());
    for (int i = 0; i < 4; i++) CHECK(pids.count(pid_in(get("127.0.0.1", 8080).body)) == 1);
    CHECK(sandbox.drover({"stop", "web"}).status == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
