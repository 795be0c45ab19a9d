// SPDX-License-Identifier: MIT
//
// NodeChannel with the test as its worker, byte by byte, and with unmodified Node as its worker.
#include "worker/node_channel.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/event_loop.h"
#include "base/sys.h"
#include "worker/spawn.h"

using namespace drover;
using namespace drover::worker;
using namespace std::chrono_literals;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr auto kDeadline = 30s;
constexpr uint64_t kId = 7;

struct Recorder : ChannelObserver {
    int online = 0, disconnects = 0, closed = 0;
    std::vector<std::string> messages;
    std::vector<Error> errors;
    std::vector<std::pair<uint64_t, SocketQuery>> queries;
    std::vector<SocketQuery> listening;
    std::function<void(uint64_t, const SocketQuery&)> answer;
    std::function<void()> anything;

    void on_channel_online(uint64_t) override {
        ++online;
        call();
    }
    void on_channel_ready(uint64_t) override { FAIL("Node has no ready"); }
    void on_channel_message(uint64_t worker, const std::string& data, Address to) override {
        CHECK(worker == kId);
        CHECK(to.kind == Address::Kind::master);
        messages.push_back(data);
        call();
    }
    void on_channel_load(uint64_t, double) override { FAIL("Node has no load"); }
    void on_channel_disconnect(uint64_t) override {
        ++disconnects;
        call();
    }
    void on_channel_pong(uint64_t) override { FAIL("Node has no pong"); }
    void on_channel_error(uint64_t, const Error& error) override {
        errors.push_back(error);
        call();
    }
    void on_channel_closed(uint64_t) override {
        ++closed;
        call();
    }
    void on_channel_query(uint64_t, uint64_t query, const SocketQuery& asked) override {
        queries.emplace_back(query, asked);
        if (answer) answer(query, asked);
        call();
    }
    void on_channel_listening(uint64_t, const SocketQuery& query) override {
        listening.push_back(query);
        call();
    }
    void call() {
        if (anything) anything();
    }
    [[nodiscard]] std::vector<std::string> codes() const {
        std::vector<std::string> result;
        for (const auto& error : errors) result.push_back(error.code);
        return result;
    }
};

EventLoop make_loop() {
    auto loop = EventLoop::open();
    REQUIRE(loop);
    return std::move(*loop);
}

bool wait_for(EventLoop& loop, const std::function<bool()>& condition) {
    auto end = std::chrono::steady_clock::now() + kDeadline;
    while (!condition()) {
        if (std::chrono::steady_clock::now() > end) return false;
        loop.run_once(50ms);
    }
    return true;
}

// --- Sockets -------------------------------------------------------------------------------------

// Bound, not listening, and blocking: the channel has to see to that.
Fd bound_tcp(int port = 0) {
    Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    int on = 1;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    return fd;
}

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

int port_of(int fd) {
    sockaddr_in address{};
    socklen_t size = sizeof(address);
    REQUIRE(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    return ntohs(address.sin_port);
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

// --- The test as the worker ----------------------------------------------------------------------

struct Received {
    std::string text;
    Fd fd;
};

struct Peer {
    EventLoop loop = make_loop();
    Recorder recorder;
    std::unique_ptr<NodeChannel> channel;
    Fd fd;

    Peer() {
        auto opened = NodeChannel::open(loop, kId, recorder);
        REQUIRE(opened);
        channel = std::move(*opened);
        fd.reset(::fcntl(channel->child_fd(), F_DUPFD_CLOEXEC, 3));
        ::fcntl(fd.get(), F_SETFL, O_NONBLOCK);
        channel->close_child_end();
    }

    // Runs the master's loop while its socket is full; stops where the channel is destroyed.
    void say(std::string_view text) {
        while (!text.empty()) {
            auto size = ::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL);
            if (size > 0) text.remove_prefix(static_cast<size_t>(size));
            if (size < 0 && errno == EPIPE) return;
            if (size < 0) REQUIRE(errno == EAGAIN);
            if (size < 0) loop.run_once(50ms);
        }
    }
    void say_query(int seq, const std::string& rest = "") {
        say(fmt::format(R"({{"cmd":"NODE_CLUSTER","act":"queryServer","address":null,"port":0,)"
                        R"("addressType":4,"seq":{}{}}})",
                        seq, rest) +
            "\n");
    }
    bool wait(const std::function<bool()>& condition) { return wait_for(loop, condition); }

    // What is there now, at most `size` bytes of it.
    Received hear(size_t size = 1 << 20) {
        Received received;
        received.text.resize(size);
        alignas(cmsghdr) char rights[CMSG_SPACE(sizeof(int))] = {};
        iovec buffer{received.text.data(), received.text.size()};
        msghdr message{};
        message.msg_iov = &buffer;
        message.msg_iovlen = 1;
        message.msg_control = rights;
        message.msg_controllen = sizeof(rights);
        auto got = ::recvmsg(fd.get(), &message, MSG_CMSG_CLOEXEC);
        received.text.resize(got > 0 ? static_cast<size_t>(got) : 0);
        if (auto* part = CMSG_FIRSTHDR(&message); got > 0 && part != nullptr) {
            int number = -1;
            std::memcpy(&number, CMSG_DATA(part), sizeof(number));
            received.fd.reset(number);
        }
        return received;
    }
    // The next line, which must come alone; its fd if it has one.
    std::pair<json, Fd> hear_line() {
        Received received;
        REQUIRE(wait([&] { return !(received = hear()).text.empty(); }));
        REQUIRE(received.text.find('\n') == received.text.size() - 1);
        return {json::parse(received.text, nullptr, false), std::move(received.fd)};
    }
    // Nothing has come when everything before has been served.
    bool is_silent() {
        auto before = recorder.messages.size();
        say("\"over\"\n");
        REQUIRE(wait([&] { return recorder.messages.size() > before; }));
        return hear().text.empty();
    }
};

size_t open_fds() {
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry : fs::directory_iterator("/proc/self/fd")) ++count;
    return count;
}

void send_fds(int socket, const std::string& text, int fd, size_t count) {
    std::vector<int> numbers(count, fd);
    std::vector<char> rights(CMSG_SPACE(count * sizeof(int)));
    iovec buffer{const_cast<char*>(text.data()), text.size()};
    msghdr message{};
    message.msg_iov = &buffer;
    message.msg_iovlen = 1;
    message.msg_control = rights.data();
    message.msg_controllen = rights.size();
    auto* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(count * sizeof(int));
    std::memcpy(CMSG_DATA(part), numbers.data(), count * sizeof(int));
    REQUIRE(::sendmsg(socket, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()));
}

const std::string kAck = "{\"cmd\":\"NODE_HANDLE_ACK\"}\n";
const std::string kNack = "{\"cmd\":\"NODE_HANDLE_NACK\"}\n";

}  // namespace

TEST_CASE("node channel: what a worker says wrong is told, skipped, and the next message arrives") {
    Peer peer;
    peer.say("nonsense\n\"\xff\"\n" + std::string(kMaxLine + 1, ' ') + "\n" +
             std::string(kMaxLine, '[') + "\n{\"cmd\":\"NODE_CLUSTER\",\"act\":\"queryServer\"}\n" +
             "\"fine\"\n");
    REQUIRE(peer.wait([&] { return !peer.recorder.messages.empty(); }));
    CHECK(peer.recorder.messages.front() == "\"fine\"");
    CHECK(peer.recorder.codes() == std::vector<std::string>{"malformed", "malformed", "oversized",
                                                            "malformed", "malformed"});
    CHECK(peer.recorder.closed == 0);
}

TEST_CASE("node channel: frames that are not known are counted") {
    Peer peer;
    peer.say("{\"cmd\":\"NODE_NEW\"}\n{\"cmd\":\"NODE_HANDLE_ACK\"}\n1\n");
    REQUIRE(peer.wait([&] { return !peer.recorder.messages.empty(); }));
    CHECK(peer.channel->unknown_total() == 2);
    CHECK(peer.recorder.errors.empty());
}

TEST_CASE("node channel: the end of the channel is told once, a message cut short before it") {
    Peer peer;
    peer.say("\"whole\"\n\"cut sho");
    peer.fd.reset();
    REQUIRE(peer.wait([&] { return peer.recorder.closed > 0; }));
    CHECK(peer.recorder.messages == std::vector<std::string>{"\"whole\""});
    CHECK(peer.recorder.codes() == std::vector<std::string>{"malformed"});
    peer.loop.run_once(0ms);
    CHECK(peer.recorder.closed == 1);
    CHECK(peer.channel->send("1", 0).error().code == "closed");
    CHECK(peer.channel->answer(1, {}).error().code == "closed");
    CHECK(peer.channel->disconnect(1s).error().code == "closed");
}

TEST_CASE("node channel: a worker that ends without reading is an end like any other") {
    Peer peer;
    REQUIRE(peer.channel->send("1", 0));
    peer.say("\"last words\"\n");
    peer.fd.reset();
    REQUIRE(peer.wait([&] { return peer.recorder.closed > 0; }));
    CHECK(peer.recorder.messages == std::vector<std::string>{"\"last words\""});
    CHECK(peer.recorder.errors.empty());
}

TEST_CASE("node channel: a slow reader's queue is full at its bound, and nothing of it is lost") {
    Peer peer;
    std::string data = "\"" + std::string(100'000, 'x') + "\"";
    size_t sent = 0;
    Result<void> result;
    while ((result = peer.channel->send(data, 0))) ++sent;
    CHECK(result.error().code == "queue-full");
    CHECK(sent * data.size() >= kMaxQueued - data.size());
    CHECK(sent * data.size() < kMaxQueued + kMaxLine);
    std::string heard;
    REQUIRE(peer.wait([&] {
        heard += peer.hear().text;
        return heard.size() == sent * (data.size() + 1);
    }));
    CHECK(peer.channel->send(data, 0));
    CHECK(peer.channel->send("{\"cmd\":\"NODE_CLUSTER\"}", 0).error().code == "reserved");
}

TEST_CASE("node channel: a socket goes alone in its message, and the next when it has arrived") {
    Peer peer;
    peer.say_query(11);
    peer.say_query(12, R"(,"data":{"ticketKeys":"ab"})");
    REQUIRE(peer.wait([&] { return peer.recorder.queries.size() == 2; }));
    // Lines that wait on both sides of it.
    std::string data = "\"" + std::string(300'000, 'x') + "\"";
    REQUIRE(peer.channel->send(data, 0));
    REQUIRE(peer.channel->send(data, 0));
    auto first = bound_tcp();
    auto port = port_of(first.get());
    REQUIRE(peer.channel->answer(peer.recorder.queries[0].first, {std::move(first), 0, "null"}));
    REQUIRE(peer.channel->answer(peer.recorder.queries[1].first,
                                 {bound_tcp(), 0, R"({"ticketKeys":"ab"})"}));

    // The kernel may put what was written before in front of it, but nothing behind.
    std::string lines;
    Received handle;
    REQUIRE(peer.wait([&] {
        auto received = peer.hear();
        lines += received.text;
        if (received.fd.is_open()) {
            REQUIRE_FALSE(handle.fd.is_open());
            REQUIRE(lines.ends_with('\n'));
            auto begin = lines.rfind('\n', lines.size() - 2) + 1;  // 0 where it is the first line
            handle = {lines.substr(begin), std::move(received.fd)};
            lines.erase(begin);
        }
        return handle.fd.is_open() && lines.size() >= 2 * (data.size() + 1);
    }));
    CHECK(lines == data + "\n" + data + "\n");
    CHECK(port_of(handle.fd.get()) == port);
    CHECK((::fcntl(handle.fd.get(), F_GETFL) & O_NONBLOCK) != 0);
    auto frame = json::parse(handle.text, nullptr, false);
    CHECK(frame["type"] == "net.Native");
    CHECK(frame["msg"]["ack"] == 11);
    CHECK(frame["msg"]["errno"] == 0);

    CHECK(peer.is_silent());
    peer.say(kAck);
    auto [second, fd] = peer.hear_line();
    CHECK(fd.is_open());
    CHECK(second["msg"]["ack"] == 12);
    CHECK(second["msg"]["data"] == json{{"ticketKeys", "ab"}});
    CHECK(second["msg"]["key"] != frame["msg"]["key"]);
}

TEST_CASE("node channel: a socket that gets lost is sent three times more, then the listen fails") {
    Peer peer;
    peer.say_query(11);
    REQUIRE(peer.wait([&] { return peer.recorder.queries.size() == 1; }));
    REQUIRE(peer.channel->answer(peer.recorder.queries[0].first, {bound_tcp(), 0, "null"}));
    for (int i = 0; i < 4; ++i) {
        auto [frame, fd] = peer.hear_line();
        CHECK(frame["cmd"] == "NODE_HANDLE");
        CHECK(fd.is_open());
        peer.say(kNack);
    }
    auto [reply, none] = peer.hear_line();
    CHECK_FALSE(none.is_open());
    CHECK(reply["cmd"] == "NODE_CLUSTER");
    CHECK(reply["errno"] == -EMFILE);
    CHECK(reply["ack"] == 11);
    CHECK(peer.recorder.codes() == std::vector<std::string>{"handle-lost"});
}

TEST_CASE("node channel: an error is a plain answer; each query is answered once") {
    Peer peer;
    peer.say_query(3);
    REQUIRE(peer.wait([&] { return peer.recorder.queries.size() == 1; }));
    auto query = peer.recorder.queries[0].first;
    REQUIRE(peer.channel->answer(query, {Fd(), EADDRINUSE, "null"}));
    auto [reply, fd] = peer.hear_line();
    CHECK_FALSE(fd.is_open());
    CHECK(reply["errno"] == -EADDRINUSE);
    CHECK(reply["ack"] == 3);
    CHECK(peer.channel->answer(query, {bound_tcp(), 0, "null"}).error().code == "no-such-query");
}

TEST_CASE("node channel: after a disconnect no query is answered") {
    Peer peer;
    peer.say_query(1);
    peer.say_query(2);
    peer.say_query(3);
    REQUIRE(peer.wait([&] { return peer.recorder.queries.size() == 3; }));
    REQUIRE(peer.channel->answer(peer.recorder.queries[0].first, {bound_tcp(), 0, "null"}));
    REQUIRE(peer.channel->answer(peer.recorder.queries[1].first, {bound_tcp(), 0, "null"}));
    CHECK(peer.hear_line().first["msg"]["ack"] == 1);
    REQUIRE(peer.channel->disconnect(1s));
    REQUIRE(peer.channel->disconnect(1s));
    CHECK(peer.hear_line().first["act"] == "disconnect");
    REQUIRE(peer.channel->answer(peer.recorder.queries[2].first, {Fd(), EADDRINUSE, "null"}));
    peer.say_query(4);
    peer.say(kAck);
    CHECK(peer.is_silent());
    CHECK(peer.recorder.queries.size() == 3);
}

TEST_CASE("node channel: leaving is acknowledged and told") {
    Peer peer;
    peer.say("{\"cmd\":\"NODE_CLUSTER\",\"act\":\"exitedAfterDisconnect\",\"seq\":5}\n");
    auto reply = peer.hear_line().first;
    CHECK(reply["ack"] == 5);
    CHECK(peer.recorder.disconnects == 1);
}

TEST_CASE("node channel: sockets that a worker sends are acknowledged and closed") {
    Peer peer;
    auto socket = bound_tcp();
    auto before = open_fds();
    const std::string handle =
        "{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":{\"a\":1}}\n";
    send_fds(peer.fd.get(), handle, socket.get(), 1);
    send_fds(peer.fd.get(), "2\n", socket.get(), 253);
    REQUIRE(peer.wait([&] { return peer.recorder.messages.size() == 2; }));
    CHECK(peer.recorder.messages == std::vector<std::string>{R"({"a":1})", "2"});
    CHECK(peer.hear().text == kAck);
    CHECK(open_fds() == before);
    CHECK(peer.recorder.codes() == std::vector<std::string>{"handle-refused"});
}

TEST_CASE("node channel: a worker that talks and does not listen is not read without an end") {
    Peer peer;
    const std::string leaving =
        "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"exitedAfterDisconnect\",\"seq\":5}\n";
    std::string many;
    for (int i = 0; i < 1000; ++i) many += leaving;
    size_t said = 0;
    size_t size_of_all = 10 * kMaxQueued;
    // Without the bound all of it would be taken.
    for (int idle = 0; said < size_of_all && idle < 10;) {
        auto size = ::send(peer.fd.get(), many.data() + said % many.size(),
                           many.size() - said % many.size(), MSG_NOSIGNAL);
        if (size > 0) said += static_cast<size_t>(size);
        idle = size > 0 ? 0 : idle + 1;
        for (int i = 0; i < 20; ++i) peer.loop.run_once(0ms);
    }
    CHECK(said < size_of_all);
    CHECK(peer.recorder.disconnects > 1000);
    // It listens at last: everything is answered.
    size_t heard = 0;
    auto whole = said / leaving.size();
    REQUIRE(peer.wait([&] {
        heard += peer.hear().text.size();
        return static_cast<size_t>(peer.recorder.disconnects) == whole;
    }));
    CHECK(heard > 0);
    // And where it does not, its end is seen.
    peer.fd.reset();
    CHECK(peer.wait([&] { return peer.recorder.closed == 1; }));
}

TEST_CASE("node channel: a worker that never listens and ends is seen to end") {
    Peer peer;
    const std::string leaving =
        "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"exitedAfterDisconnect\",\"seq\":5}\n";
    std::string many;
    for (int i = 0; i < 1000; ++i) many += leaving;
    for (int idle = 0; idle < 10;) {
        auto size = ::send(peer.fd.get(), many.data(), many.size(), MSG_NOSIGNAL);
        idle = size > 0 ? 0 : idle + 1;
        for (int i = 0; i < 20; ++i) peer.loop.run_once(0ms);
    }
    peer.fd.reset();
    CHECK(peer.wait([&] { return peer.recorder.closed == 1; }));
}

TEST_CASE("node channel: one worker's thousands of messages do not hold up another's") {
    Peer loud;
    Recorder other;
    auto opened = NodeChannel::open(loud.loop, kId, other);
    REQUIRE(opened);
    std::string many;
    for (int i = 0; i < 20'000; ++i) many += "1\n";
    loud.say(many);
    REQUIRE(::send((*opened)->child_fd(), "2\n", 2, 0) == 2);
    REQUIRE(loud.wait([&] { return !other.messages.empty(); }));
    CHECK(loud.recorder.messages.size() < 2'000);
    REQUIRE(loud.wait([&] { return loud.recorder.messages.size() == 20'000; }));
}

TEST_CASE("node channel: the observer may destroy the channel in any callback") {
    const std::string leaving =
        "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"exitedAfterDisconnect\",\"seq\":5}\n";
    const std::string query =
        "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"queryServer\",\"port\":1,\"addressType\":4,\"seq\":1}"
        "\n";
    for (const std::string& line :
         {std::string("1\n"), std::string("x\n"), std::string(kMaxLine + 1, 'x') + "\n", leaving,
          query, std::string("{\"cmd\":\"NODE_HANDLE\",\"msg\":1}\n"),
          std::string("{\"cmd\":\"NODE_CLUSTER\",\"act\":\"online\"}\n"), std::string("cut sho")}) {
        Peer peer;
        int calls = 0;
        peer.recorder.anything = [&] {
            ++calls;
            peer.channel.reset();
        };
        peer.say(line + (line.ends_with('\n') ? line : ""));
        peer.fd.reset();
        REQUIRE(peer.wait([&] { return peer.channel == nullptr; }));
        peer.loop.run_once(0ms);
        CHECK(calls == 1);
    }
}

// --- Node as the worker --------------------------------------------------------------------------

namespace {

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
    NodeWorker worker("process.on('message', (m) => process.send(m))");
    std::mt19937 random(3);
    std::uniform_real_distribution<> exponent(0, 20);
    size_t sent = 0;
    size_t received = 0;
    int full = 0;
    std::deque<std::pair<size_t, size_t>> expected;  // size and hash
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
    CHECK(full > 0);
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
