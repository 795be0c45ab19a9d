// SPDX-License-Identifier: MIT
//
// The crowd itself: what it says must be so.
#include <fmt/format.h>
#include <signal.h>

#include "crowd.h"
#include "harness.h"
#include "http.h"

namespace drover::test {

TEST_SUITE_BEGIN("crowd");

namespace {

// Answers each path in its way.
const char* const kOddServer = R"(
import socketserver, time
OK = b"HTTP/1.1 200 OK\r\n"
ANSWERS = {
    "/whole": OK + b"Content-Length: 4\r\n\r\nbody",
    "/chunked": OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n1;x=y\r\n!\r\n0\r\nA: b\r\n\r\n",
    "/to-the-end": OK + b"\r\nbody",
    "/half": OK + b"Content-Length: 10\r\n\r\nhalf",
    "/half-chunked": OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
    "/busy": b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
    "/nonsense": b"SSH-2.0\r\n\r\n",
    "/too-long": OK + b"Content-Length: 4\r\n\r\nbody!",
    "/nothing": b"",
    "/first-only": OK + b"Content-Length: 4\r\n\r\nbody",
}
KEPT = ("/whole", "/chunked", "/first-only")
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for number in range(1000):
            words = self.rfile.readline().decode().split()
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            if not words or (words[1] == "/first-only" and number > 0):
                return
            if words[1] == "/silent":
                time.sleep(3)
                return
            self.wfile.write(ANSWERS[words[1]])
            if words[1] not in KEPT:
                return
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024
server = Server(("127.0.0.1", 8080), Handler)
print("listening", flush=True)
server.serve_forever()
)";

// A short crowd of each class that asks for that path; nothing where there is no Python.
std::optional<Crowd::Result> ask_odd_server(const std::string& path) {
    auto python = find_program("python3");
    if (!python) return std::nullopt;
    Sandbox sandbox;
    write_file(sandbox.path("odd.py"), kOddServer);
    Child server = sandbox.start({.command = {*python, sandbox.path("odd.py")},
                                  .extra_environment = {},
                                  .identity = {},
                                  .cwd = {}});
    REQUIRE(eventually([&] { return contains(server.out(), "listening"); }));
    CrowdOptions options;
    options.rate = 50;
    options.keep_alive = 2;
    options.long_lived = 2;
    options.path = options.long_path = path;
    options.patience = path == "/silent" ? milliseconds(400) : kDeadline;
    Crowd crowd(options);
    CHECK(crowd.wait_started(40));
    return crowd.stop();
}

void check_all_fail(const std::string& path, const std::string& how) {
    auto result = ask_odd_server(path);
    if (!result) return;
    INFO(path, ": ", result->text());
    CHECK(result->answered == 0);
    CHECK(result->retried == 0);
    CHECK(result->failures.size() == 3);
    for (const char* client : {"new", "keep-alive", "long-lived"}) {
        CHECK(result->failures[fmt::format("{}: {}", client, how)] > 0);
        CHECK(result->failed_of(client) == result->failures[fmt::format("{}: {}", client, how)]);
    }
}

}  // namespace

TEST_CASE("a crowd takes each form of a whole answer") {
    for (const char* path : {"/whole", "/chunked", "/to-the-end"}) {
        auto result = ask_odd_server(path);
        if (!result) return;
        INFO(path, ": ", result->text());
        CHECK(result->failed() == 0);
        CHECK(result->answered >= 40);
        CHECK(result->retried == 0);
    }
}

TEST_CASE("a crowd counts each broken answer as a failure, whoever asked") {
    check_all_fail("/half", "broke off, closed");
    check_all_fail("/half-chunked", "broke off, closed");
    check_all_fail("/busy", "status 503");
    check_all_fail("/nonsense", "no proper answer");
    check_all_fail("/too-long", "no proper answer");
    check_all_fail("/nothing", "closed");
    check_all_fail("/silent", "timeout");
}

TEST_CASE("a crowd asks again where a kept connection is closed instead of an answer") {
    auto result = ask_odd_server("/first-only");
    if (!result) return;
    INFO(result->text());
    CHECK(result->failed() == 0);
    CHECK(result->retried > 0);
}

TEST_CASE("a crowd where nobody listens is refused") {
    Sandbox sandbox;
    CrowdOptions options = crowd_options();
    Crowd crowd(options);
    CHECK(crowd.wait_started(200));
    auto result = crowd.stop();
    INFO(result.text());
    CHECK(result.answered == 0);
    CHECK(result.failures["new: refused"] > 0);
    CHECK(result.failures["keep-alive: refused"] >= options.keep_alive);
    CHECK(result.failures["long-lived: refused"] >= options.long_lived);
}

TEST_CASE("a crowd's counts agree with the servers' own") {
    Sandbox sandbox;
    std::string log = sandbox.path("log");
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello({"--log", log}));
    REQUIRE(cluster.wait_ready(2));
    CrowdOptions options = crowd_options();
    options.headers = {"X-Test: crowd"};
    Crowd crowd(options);
    CHECK(crowd.wait_answered(1'000));
    auto result = crowd.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
    CHECK(result.retried == 0);
    CHECK(result.failures.empty());
    CHECK(count_lines(read_file(log)) == static_cast<size_t>(result.answered));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker's death costs a crowd what it had accepted, but no kept connection") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1", "--stall-after", "never"}, hello());
    REQUIRE(cluster.wait_ready(1));
    CrowdOptions options = crowd_options();
    Crowd crowd(options);
    REQUIRE(crowd.wait_answered(options.rate));
    pid_t victim = cluster.pid_of(0);
    REQUIRE(stop_process(victim));
    // By then, some 0.3 s later, each kept connection has a request under way.
    REQUIRE(crowd.wait_started(options.rate / 2));
    REQUIRE(::kill(victim, SIGKILL) == 0);
    REQUIRE(crowd.wait_answered(options.rate));
    auto result = crowd.stop();
    INFO(result.text());
    CHECK(result.retried == options.keep_alive);
    // All try again while the listener is being closed. Whose handshake ends between the kernel's
    // two steps of that (sk_shutdown is set, the state is LISTEN still) gets a FIN with its first
    // packet: the new socket is a copy of the listener. It is one at most, for it takes a
    // microsecond.
    int lost = result.failed_of("keep-alive");
    CHECK(lost <= 1);
    CHECK(lost + result.failed_of("long-lived") <= options.long_lived + 1);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("restart under a crowd loses nothing") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--drain-timeout", "1s"}, hello());
    REQUIRE(cluster.wait_ready(2));
    Crowd crowd(crowd_options());
    REQUIRE(crowd.wait_answered(100));
    CHECK(cluster.drover({"restart", "web"}, milliseconds(60'000)).status == 0);
    check_unharmed(crowd);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
