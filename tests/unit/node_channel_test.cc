// SPDX-License-Identifier: MIT
//
// NodeChannel with the test as its worker, byte by byte: what a well-behaved Node would never say,
// and the order in which things go. node_worker_test.cc has the real Node.
#include "worker/node_channel.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "node_test.h"

using namespace drover;
using namespace drover::worker;
using namespace drover::worker::node_test;
using namespace std::chrono_literals;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

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
