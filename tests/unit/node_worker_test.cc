// SPDX-License-Identifier: MIT
//
// NodeChannel with unmodified Node as its worker: whatever `node` is in the PATH. Skipped where
// there is none. node_channel_test.cc has what Node itself would never do.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/un.h>

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/sys.h"
#include "node_test.h"
#include "worker/node_channel.h"
#include "worker/spawn.h"

using namespace drover;
using namespace drover::worker;
using namespace drover::worker::node_test;
using namespace std::chrono_literals;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

Fd bound_udp() {
    Fd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    return fd;
}

sockaddr_un unix_address(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    REQUIRE(path.size() < sizeof(address.sun_path));
    path.copy(address.sun_path, path.size());
    return address;
}

Fd bound_unix(const std::string& path) {
    Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    auto address = unix_address(path);
    REQUIRE(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    return fd;
}

void limit_waiting(int fd) {
    timeval limit{std::chrono::seconds(kDeadline).count(), 0};
    ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

std::string ask(const Fd& fd, const std::string& request) {
    limit_waiting(fd.get());
    if (::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return "";
    std::string reply;
    char bytes[4096];
    for (ssize_t size = 0; (size = ::recv(fd.get(), bytes, sizeof(bytes), 0)) > 0;)
        reply.append(bytes, static_cast<size_t>(size));
    return reply;
}

std::string body(const std::string& reply) {
    auto end = reply.find("\r\n\r\n");
    return end == std::string::npos ? "" : reply.substr(end + 4);
}

const std::string kRequest = "GET / HTTP/1.0\r\n\r\n";

// The body of an HTTP answer; empty where nobody answers.
std::string http_get(int port) {
    Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) return "";
    return body(ask(fd, kRequest));
}

std::string http_get(const std::string& path) {
    Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    auto address = unix_address(path);
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) return "";
    return body(ask(fd, kRequest));
}

bool has_node() {
    const char* path = std::getenv("PATH");
    std::string rest = path != nullptr ? path : "";
    for (size_t begin = 0; begin <= rest.size();) {
        auto end = std::min(rest.find(':', begin), rest.size());
        if (::access((rest.substr(begin, end - begin) + "/node").c_str(), X_OK) == 0) return true;
        begin = end + 1;
    }
    return false;
}

constexpr const char* kHttp =
    "const http = require('http');"
    "const serve = (...where) => {"
    "  const s = http.createServer((q, r) => r.end(String(process.pid)));"
    "  s.on('error', (e) => process.send({error: e.code}));"
    "  s.listen(...where); return s; };\n";

struct NodeWorker {
    enum class Keep { both_ends, child_end };

    EventLoop loop = make_loop();
    Recorder recorder;
    std::unique_ptr<NodeChannel> channel;
    Process process;
    std::optional<Ended> ended;
    std::string output;
    fs::path folder;
    Fd output_end;
    EventLoop::Source output_source, exit_source;

    explicit NodeWorker(const std::string& script,
                        NodeChannel::Role role = NodeChannel::Role::cluster_worker,
                        Keep keep = Keep::both_ends) {
        char pattern[] = "/tmp/drover-node-XXXXXX";
        REQUIRE(::mkdtemp(pattern) != nullptr);
        folder = pattern;
        std::ofstream(folder / "app.js") << "const cluster = require('cluster');\n" << script;
        auto opened = NodeChannel::open(loop, kId, recorder, role);
        REQUIRE(opened);
        channel = std::move(*opened);
        // Sockets as they are asked for, unless a test does it itself.
        recorder.answer = [this](uint64_t query, const SocketQuery& asked) {
            Fd socket = asked.udp                  ? bound_udp()
                        : asked.address_type == -1 ? bound_unix(asked.address)
                                                   : bound_tcp(asked.port);
            CHECK(channel->answer(query, {std::move(socket), 0, asked.data}));
        };
        start(keep);
    }
    ~NodeWorker() {
        if (!ended) {
            sys::pidfd_send_signal(process.pidfd.get(), SIGKILL);
            wait([&] { return ended.has_value(); });
        }
        fs::remove_all(folder);
    }

    void start(Keep keep) {
        int ends[2];
        REQUIRE(::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
        output_end.reset(ends[0]);
        Fd write_end(ends[1]);
        SpawnRequest request;
        request.command = {"node", (folder / "app.js").string()};
        request.environment = channel->environment(3);
        for (const char* name : {"PATH", "HOME"})
            if (const char* value = std::getenv(name); value != nullptr)
                request.environment.push_back(fmt::format("{}={}", name, value));
        request.stdout_fd = request.stderr_fd = write_end.get();
        request.fds = {{channel->child_fd(), 3}};
        if (keep == Keep::both_ends) request.fds.emplace_back(channel->second_child_fd(), 4);
        auto spawned = spawn(request);
        REQUIRE(spawned);
        process = std::move(*spawned);
        channel->close_child_end();
        output_source = loop.on_io(output_end.get(), EPOLLIN, [this](uint32_t) {
            char bytes[4096];
            auto size = ::read(output_end.get(), bytes, sizeof(bytes));
            if (size > 0) output.append(bytes, static_cast<size_t>(size));
            if (size == 0) output_source.reset();
        });
        exit_source = loop.on_io(process.pidfd.get(), EPOLLIN, [this](uint32_t) {
            ended = reap(process.pidfd.get());
            if (ended) exit_source.reset();
        });
    }

    bool wait(const std::function<bool()>& condition) {
        bool is_met = wait_for(loop, condition);
        if (!is_met) MESSAGE("the worker printed: ", output);
        return is_met;
    }
    bool wait_for_messages(size_t count) {
        return wait([&] { return recorder.messages.size() >= count; });
    }
    bool wait_for_listening(size_t count) {
        return wait([&] { return recorder.listening.size() >= count; });
    }
    json message(size_t index) { return json::parse(recorder.messages.at(index), nullptr, false); }
    std::optional<int> exit_code() {
        if (!wait([&] { return ended.has_value(); })) return {};
        return ended->code;
    }
    std::string pid() const { return std::to_string(process.pid); }
};

#define NODE_TEST(name) TEST_CASE(name* doctest::skip(!has_node()))

}  // namespace

NODE_TEST("node worker: it comes online and believes to be the cluster's worker") {
    NodeWorker worker(
        "process.send({is: cluster.isWorker, id: cluster.worker.id,"
        " left: Object.keys(process.env).filter((n) => n.startsWith('NODE_'))})");
    REQUIRE(worker.wait_for_messages(1));
    CHECK(worker.recorder.online == 1);
    CHECK(worker.message(0) == json{{"is", true}, {"id", kId}, {"left", json::array()}});
    CHECK(worker.recorder.errors.empty());
    CHECK(worker.channel->unknown_total() == 0);
}

NODE_TEST("node worker: a server on any port serves") {
    NodeWorker worker(std::string(kHttp) + "serve(0)");
    REQUIRE(worker.wait_for_listening(1));
    CHECK(worker.recorder.queries.at(0).second.port == 0);
    CHECK(http_get(worker.recorder.listening[0].port) == worker.pid());
    CHECK(http_get(worker.recorder.listening[0].port) == worker.pid());
}

NODE_TEST("node worker: a server on a given port and address serves; the answer may come later") {
    int port = port_of(bound_tcp().get());
    NodeWorker worker(std::string(kHttp) + fmt::format("serve({}, '127.0.0.1')", port));
    worker.recorder.answer = nullptr;
    REQUIRE(worker.wait([&] { return worker.recorder.queries.size() == 1; }));
    auto [query, asked] = worker.recorder.queries[0];
    CHECK(asked.port == port);
    CHECK(asked.address == "127.0.0.1");
    REQUIRE(worker.channel->answer(query, {bound_tcp(port), 0, asked.data}));
    REQUIRE(worker.wait_for_listening(1));
    CHECK(worker.recorder.listening[0].port == port);
    CHECK(http_get(port) == worker.pid());
}

NODE_TEST("node worker: messages of every kind arrive as they are, in both directions") {
    NodeWorker worker("process.on('message', (m) => process.send(m))");
    std::vector<std::string> messages = {"1",
                                         "-2.5",
                                         "true",
                                         "false",
                                         "null",
                                         R"("")",
                                         R"("text \" \\ \n")",
                                         R"({"a":[1,{"b":[[],{}]}],"c":null})",
                                         "\"\xc3\xa4 \xe2\x82\xac \xf0\x9f\x9a\x80\"",
                                         R"({"cmd":"mine"})",
                                         R"({"cmd":"NODE_"})",
                                         R"(["NODE_CLUSTER"])",
                                         "\"" + std::string(kMaxLine - 2, 'm') + "\""};
    for (const auto& message : messages) REQUIRE(worker.channel->send(message, 0));
    REQUIRE(worker.wait_for_messages(messages.size()));
    CHECK(worker.recorder.messages == messages);
    CHECK(worker.recorder.errors.empty());
}

NODE_TEST("node worker: 2,000 messages each way, 1 byte to 1 MiB, arrive whole and in order") {
    std::mt19937 random(3);
    std::uniform_real_distribution<> exponent(0, 20);
    size_t sent = 0;
    size_t received = 0;
    int full = 0;
    std::deque<std::pair<size_t, size_t>> expected;  // size and hash
    // Below what its recorder refers to: its end reads what is left.
    NodeWorker worker("process.on('message', (m) => process.send(m))");
    worker.recorder.anything = [&] {
        for (const auto& message : worker.recorder.messages) {
            REQUIRE_FALSE(expected.empty());
            auto [size, hash] = expected.front();
            CHECK(message.size() == size);
            CHECK(std::hash<std::string>{}(message) == hash);
            expected.pop_front();
            ++received;
        }
        worker.recorder.messages.clear();
    };
    std::string message;
    REQUIRE(worker.wait([&] {
        while (sent < 2000) {
            if (message.empty()) {
                auto size = static_cast<size_t>(std::exp2(exponent(random)));
                message = "7";
                if (size > 1) message = "\"" + std::string(size - 2, 'x') + "\"";
                for (size_t i = 1; i + 1 < message.size(); i += 1 + random() % 64)
                    message[i] = static_cast<char>('a' + random() % 26);
            }
            if (auto queued = worker.channel->send(message, 0); !queued) {
                REQUIRE(queued.error().code == "queue-full");
                ++full;
                break;
            }
            expected.emplace_back(message.size(), std::hash<std::string>{}(message));
            message.clear();
            ++sent;
        }
        return received == 2000;
    }));
    MESSAGE("the queue was full ", full, " times");  // it depends on who is faster
    CHECK(worker.recorder.errors.empty());
}

NODE_TEST("node worker: an address in use is an error that the program sees") {
    NodeWorker worker(std::string(kHttp) + "serve(80)");
    worker.recorder.answer = [&](uint64_t query, const SocketQuery& asked) {
        CHECK(worker.channel->answer(query, {Fd(), EADDRINUSE, asked.data}));
    };
    REQUIRE(worker.wait_for_messages(1));
    CHECK(worker.message(0) == json{{"error", "EADDRINUSE"}});
}

NODE_TEST("node worker: several servers at once, each with its own socket") {
    NodeWorker worker(std::string(kHttp) + "for (let i = 0; i < 20; i++) serve(0)");
    REQUIRE(worker.wait_for_listening(20));
    std::set<int> ports;
    std::set<int> indexes;
    for (const auto& query : worker.recorder.listening) {
        ports.insert(query.port);
        CHECK(http_get(query.port) == worker.pid());
    }
    for (const auto& [id, query] : worker.recorder.queries) indexes.insert(query.index);
    CHECK(ports.size() == 20);
    CHECK(indexes.size() == 20);
}

NODE_TEST("node worker: a server closes and listens again") {
    NodeWorker worker(
        std::string(kHttp) +
        "const s = serve(0); let left = 3; s.on('listening', () => {"
        " if (left-- > 0) s.close(() => s.listen(0)); else process.send(s.address().port) })");
    REQUIRE(worker.wait_for_messages(1));
    CHECK(worker.recorder.queries.size() == 4);
    CHECK(http_get(worker.message(0).get<int>()) == worker.pid());
    CHECK(worker.recorder.errors.empty());
}

NODE_TEST("node worker: a TLS server uses the ticket keys of the answer") {
    NodeWorker worker(
        "const s = require('tls').createServer({}); s.listen(0, () => "
        "process.send(s.getTicketKeys().toString('hex')))");
    const std::string keys(96, 'b');
    worker.recorder.answer = [&](uint64_t query, const SocketQuery& asked) {
        CHECK(asked.data.find("ticketKeys") != std::string::npos);
        CHECK(worker.channel->answer(
            query, {bound_tcp(), 0, fmt::format(R"({{"ticketKeys":"{}"}})", keys)}));
    };
    REQUIRE(worker.wait_for_messages(1));
    CHECK(worker.message(0) == keys);
}

NODE_TEST("node worker: a UDP socket gets datagrams") {
    NodeWorker worker(
        "const s = require('dgram').createSocket('udp4'); s.on('message', (m, from) => "
        "s.send('got ' + m, from.port, from.address)); s.bind(0)");
    REQUIRE(worker.wait_for_listening(1));
    CHECK(worker.recorder.listening[0].udp);
    auto client = bound_udp();
    limit_waiting(client.get());
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(worker.recorder.listening[0].port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::sendto(client.get(), "it", 2, 0, reinterpret_cast<sockaddr*>(&address),
                     sizeof(address)) == 2);
    char bytes[16];
    auto size = ::recv(client.get(), bytes, sizeof(bytes), 0);
    REQUIRE(size > 0);
    CHECK(std::string(bytes, static_cast<size_t>(size)) == "got it");
}

NODE_TEST("node worker: a unix socket serves") {
    NodeWorker worker(std::string(kHttp) + "serve(__dirname + '/s')");
    REQUIRE(worker.wait_for_listening(1));
    CHECK(worker.recorder.queries.at(0).second.address == (worker.folder / "s").string());
    CHECK(http_get((worker.folder / "s").string()) == worker.pid());
}

NODE_TEST("node worker: its own disconnect is acknowledged, and it exits with 0") {
    NodeWorker worker(std::string(kHttp) +
                      "serve(0).on('listening', () => cluster.worker.disconnect())");
    CHECK(worker.exit_code() == 0);
    REQUIRE(worker.wait([&] { return worker.recorder.closed == 1; }));
    CHECK(worker.recorder.disconnects == 1);
    CHECK(worker.recorder.errors.empty());
}

NODE_TEST("node worker: its own kill is acknowledged, and it exits with 0") {
    NodeWorker worker(std::string(kHttp) + "serve(0).on('listening', () => cluster.worker.kill())");
    CHECK(worker.exit_code() == 0);
    CHECK(worker.recorder.disconnects == 1);
}

NODE_TEST("node worker: the master's disconnect ends it with 0, after its exit handlers") {
    NodeWorker worker(std::string(kHttp) +
                      "serve(0); process.on('disconnect', () => "
                      "console.log('left', cluster.worker.exitedAfterDisconnect))");
    REQUIRE(worker.wait_for_listening(1));
    int port = worker.recorder.listening[0].port;
    REQUIRE(worker.channel->disconnect(10s));
    CHECK(worker.exit_code() == 0);
    REQUIRE(worker.wait([&] { return worker.recorder.closed == 1; }));
    CHECK(worker.wait([&] { return worker.output == "left true\n"; }));
    CHECK(worker.recorder.disconnects == 0);
    CHECK(http_get(port).empty());
}

NODE_TEST("node worker: a listen while it is being disconnected is not answered, and it ends") {
    NodeWorker worker(std::string(kHttp) + "serve(0); process.on('message', () => serve(0))");
    REQUIRE(worker.wait_for_listening(1));
    worker.recorder.answer = nullptr;
    REQUIRE(worker.channel->send("1", 0));
    REQUIRE(worker.wait([&] { return worker.recorder.queries.size() == 2; }));
    REQUIRE(worker.channel->disconnect(10s));
    REQUIRE(worker.channel->answer(worker.recorder.queries[1].first,
                                   {bound_tcp(), 0, worker.recorder.queries[1].second.data}));
    CHECK(worker.exit_code() == 0);
}

NODE_TEST("node worker: after a socket that it sends its messages go on") {
    NodeWorker worker(
        "const net = require('net'); const s = net.createServer((c) => {"
        " process.send({socket: 1}, c); process.send('after') });"
        "s.listen(__dirname + '/own', () => net.connect(__dirname + '/own'))");
    REQUIRE(worker.wait_for_messages(2));
    CHECK(worker.message(0) == json{{"socket", 1}});
    CHECK(worker.message(1) == "after");
    CHECK(worker.recorder.codes() == std::vector<std::string>{"handle-refused"});
}

NODE_TEST("node worker: it lives on when the master is gone, because it has both ends") {
    NodeWorker worker(std::string(kHttp) + "serve(0)");
    REQUIRE(worker.wait_for_listening(1));
    worker.channel.reset();
    // If the first answer came before Node saw the end, the second would not.
    CHECK(http_get(worker.recorder.listening[0].port) == worker.pid());
    CHECK(http_get(worker.recorder.listening[0].port) == worker.pid());
    worker.loop.run_once(0ms);
    CHECK_FALSE(worker.ended);
}

NODE_TEST("node worker: with one end alone it ends with the master") {
    NodeWorker worker(std::string(kHttp) + "serve(0)", NodeChannel::Role::cluster_worker,
                      NodeWorker::Keep::child_end);
    REQUIRE(worker.wait_for_listening(1));
    worker.channel.reset();
    CHECK(worker.exit_code() == 0);
}

NODE_TEST("node worker: a plain child is no cluster worker; it is told by the channel's end") {
    NodeWorker worker(
        "process.on('message', (m) => process.send([m, cluster.isPrimary]));"
        "process.on('disconnect', () => console.log('left'))",
        NodeChannel::Role::child);
    REQUIRE(worker.channel->send("\"hello\"", 0));
    REQUIRE(worker.wait_for_messages(1));
    CHECK(worker.message(0) == json{"hello", true});
    CHECK(worker.recorder.online == 0);
    REQUIRE(worker.channel->send("\"before the end\"", 0));
    REQUIRE(worker.channel->disconnect(10s));
    CHECK(worker.channel->send("1", 0).error().code == "closed");
    CHECK(worker.exit_code() == 0);
    REQUIRE(worker.wait([&] { return worker.recorder.closed == 1; }));
    CHECK(worker.message(1) == json{"before the end", true});
    CHECK(worker.wait([&] { return worker.output == "left\n"; }));
}
