// SPDX-License-Identifier: MIT
//
// The probe against real sockets: who listens, who does not, who answers what.
#include "worker/probe.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <string>

#include "base/fd.h"

using namespace drover;
using namespace drover::worker;
using namespace std::chrono_literals;

namespace {

// A listener on a port of the loopback interface.
class Server {
  public:
    Server() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        address_.sin_family = AF_INET;
        address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        REQUIRE(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address_), sizeof(address_)) ==
                0);
        socklen_t length = sizeof(address_);
        ::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address_), &length);
        REQUIRE(::listen(socket_.get(), 8) == 0);
    }
    [[nodiscard]] Fd connect() const {
        Fd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        (void)::connect(client.get(), reinterpret_cast<const sockaddr*>(&address_),
                        sizeof(address_));
        return client;
    }
    [[nodiscard]] Fd accept() const { return Fd(::accept(socket_.get(), nullptr, nullptr)); }
    void close() { socket_.reset(); }

  private:
    Fd socket_;
    sockaddr_in address_{};
};

// What the probe of the path finds, the server answering the given bytes; "" answers nothing.
std::string outcome(const std::string& path, const std::string& bytes, bool hang_up = true) {
    Server server;
    auto loop = *EventLoop::open();
    Fd client = server.connect();
    Fd accepted = server.accept();
    if (!bytes.empty()) REQUIRE(::send(accepted.get(), bytes.data(), bytes.size(), 0) > 0);
    if (hang_up) ::shutdown(accepted.get(), SHUT_WR);
    std::string found = "nothing";
    Probe probe(
        loop, client.get(), path, "localhost", Wants::good_status, 200ms,
        [&](const Result<ProbeAnswer>& result) { found = result ? "ok" : result.error().text; });
    for (int i = 0; i < 100 && found == "nothing"; i++) loop.run_once(20ms);
    return found;
}

}  // namespace

TEST_CASE("probe: the status is read out of an HTTP answer's first line") {
    CHECK(http_status("HTTP/1.1 200 OK\r") == 200);
    CHECK(http_status("HTTP/1.0 503 Service Unavailable") == 503);
    CHECK(http_status("HTTP/1.1 204") == 204);
    CHECK(http_status("HTTP/1.1 204\r") == 204);
    for (const char* bad :
         {"", "HTTP/1.1", "HTTP/1.1 ", "HTTP/1.1 20", "HTTP/1.1 2000 OK", "HTTP/1.1 2x0 OK",
          "HTTP/2 200", "SSH-2.0-OpenSSH", "HTTP/1.1\t200 OK"}) {
        CAPTURE(bad);
        CHECK_FALSE(http_status(bad).has_value());
    }
}

TEST_CASE("probe: without a path a connection is enough") {
    CHECK(outcome("", "", false) == "ok");
}

TEST_CASE("probe: an answer of 200 to 399 is good, others are not") {
    CHECK(outcome("/", "HTTP/1.1 200 OK\r\n\r\n") == "ok");
    CHECK(outcome("/", "HTTP/1.1 302 Found\r\n\r\n", false) == "ok");
    CHECK(outcome("/x", "HTTP/1.1 404 Not Found\r\n\r\n") == "GET /x: status 404");
    CHECK(outcome("/x", "HTTP/1.1 503 No\r\n\r\n") == "GET /x: status 503");
    CHECK(outcome("/x", "HTTP/1.1 101 Switching\r\n\r\n") == "GET /x: status 101");
}

TEST_CASE("probe: what is no HTTP, or ends before it is one, is said to be none") {
    CHECK(outcome("/", "220 mail.example.org ESMTP\r\n") == "GET /: the answer is not HTTP");
    CHECK(outcome("/", "HTTP/1.1 20") == "GET /: the answer is not HTTP");
    CHECK(outcome("/", std::string(5000, 'x'), false) == "GET /: the answer is not HTTP");
}

TEST_CASE("probe: who answers nothing is given up after the timeout") {
    CHECK(outcome("/", "", false) == "GET /: no answer within 200 ms");
    CHECK(outcome("/", "HTTP/1.1 200", false) == "GET /: no answer within 200 ms");
}

TEST_CASE("probe: a refused connection is told") {
    Server server;
    auto loop = *EventLoop::open();
    server.close();
    Fd client = server.connect();
    std::string found;
    Probe probe(
        loop, client.get(), "", "localhost", Wants::good_status, 1s,
        [&](const Result<ProbeAnswer>& result) { found = result ? "ok" : result.error().text; });
    for (int i = 0; i < 100 && found.empty(); i++) loop.run_once(20ms);
    CHECK(found == "connect: Connection refused");
}

TEST_CASE("probe: a whole answer is read, in whatever pieces it comes") {
    std::string text = "HTTP/1.1 404 Not Found\r\nX: 1\r\ncontent-length: 7\r\n\r\nnothing";
    for (size_t size = 1; size <= text.size(); size++) {
        AnswerReader reader;
        CHECK_FALSE(reader.answer());
        for (size_t at = 0; at < text.size(); at += size) {
            CHECK_FALSE(reader.is_whole());
            reader.take(std::string_view(text).substr(at, size));
        }
        CAPTURE(size);
        CHECK(reader.is_whole());
        auto answer = reader.answer();
        REQUIRE(answer);
        CHECK(answer->status == 404);
        CHECK(answer->line == "HTTP/1.1 404 Not Found");
        CHECK(answer->body_bytes == 7);
        CHECK(answer->body == "nothing");
    }
}

TEST_CASE("probe: of a long body the beginning is kept and the rest counted") {
    AnswerReader reader;
    reader.take("HTTP/1.0 200 OK\n\n");
    CHECK(reader.has_line());
    for (int i = 0; i < 1000; i++) reader.take(std::string(1000, 'x'));
    CHECK_FALSE(reader.is_whole());  // nobody said how long it is
    CHECK(reader.answer()->body_bytes == 1'000'000);
    CHECK(reader.answer()->body == std::string(200, 'x'));
    AnswerReader endless;
    for (int i = 0; i < 100; i++) endless.take(std::string(1000, 'x'));
    CHECK(endless.is_broken());  // it is not waited for
    CHECK_FALSE(endless.answer());
    AnswerReader long_head;
    long_head.take("HTTP/1.0 200 OK\r\n");
    for (int i = 0; i < 100; i++) long_head.take(std::string(1000, 'x'));
    CHECK(long_head.answer()->status == 200);
}

TEST_CASE("probe: who wants any answer gets what others call a failure") {
    Server server;
    auto loop = *EventLoop::open();
    Fd client = server.connect();
    Fd accepted = server.accept();
    std::string text = "HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\nsick";
    REQUIRE(::send(accepted.get(), text.data(), text.size(), 0) > 0);
    std::optional<Result<ProbeAnswer>> found;
    Probe probe(loop, client.get(), "/x", "localhost", Wants::whole_answer, 1s,
                [&](Result<ProbeAnswer> result) { found = std::move(result); });
    for (int i = 0; i < 100 && !found; i++) loop.run_once(20ms);
    REQUIRE(found);
    REQUIRE(*found);
    CHECK((*found)->status == 503);
    CHECK((*found)->body == "sick");
    CHECK((*found)->took.count() > 0);
}

TEST_CASE("probe: the request is one GET that names its host") {
    Server server;
    auto loop = *EventLoop::open();
    Fd client = server.connect();
    Fd accepted = server.accept();
    Probe probe(loop, client.get(), "/health?x=1", "[::1]:80", Wants::good_status, 1s,
                [](const Result<ProbeAnswer>&) {});
    for (int i = 0; i < 5; i++) loop.run_once(1ms);
    char request[512] = {};
    REQUIRE(::recv(accepted.get(), request, sizeof(request) - 1, 0) > 0);
    std::string text = request;
    CHECK(text.starts_with("GET /health?x=1 HTTP/1.0\r\nHost: [::1]:80\r\n"));
    CHECK(text.ends_with("\r\n\r\n"));
}
