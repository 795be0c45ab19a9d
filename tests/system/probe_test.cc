// SPDX-License-Identifier: MIT
//
// Readiness that drover finds out itself (--ready http:PATH, tcp), by connections that reach one
// given worker through the port that all share.
#include <fmt/format.h>

#include <filesystem>

#include "harness.h"
#include "http.h"

namespace drover::test {

namespace {

// Says 503 at /health until a file "well-INSTANCE" is there; counts those requests in a file
// "asked-INSTANCE", a byte each.
const char* const kServer = R"(
import http.server, os, socket, sys
instance = os.environ["DROVER_INSTANCE"]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = 200
        if self.path == "/health":
            with open("asked-" + instance, "a") as asked:
                asked.write("x")
            status = 200 if os.path.exists("well-" + instance) else 503
        body = f"pid {os.getpid()} instance {instance}\n".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
Server((sys.argv[1], 8080), Handler).serve_forever()
)";

std::optional<Words> server(Sandbox& sandbox, const std::string& address) {
    auto python = find_program("python3");
    if (!python) return std::nullopt;
    write_file(sandbox.path("server.py"), kServer);
    return Words{*python, sandbox.path("server.py"), address};
}

size_t asked(Sandbox& sandbox, int instance) {
    return read_file(sandbox.path(fmt::format("asked-{}", instance))).size();
}

// Two workers of which first the second becomes well, then the first.
void check_health(const std::string& address, const std::string& client) {
    Sandbox sandbox;
    auto command = server(sandbox, address);
    if (!command) return;
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--ready", "http:/health", "--cwd", sandbox.path(".")}, *command);
    // Each is asked again and again, so none was answered by the other.
    REQUIRE(eventually([&] { return asked(sandbox, 0) >= 3 && asked(sandbox, 1) >= 3; }));
    CHECK(cluster.status()["ready"] == 0);
    write_file(sandbox.path("well-1"), "");
    REQUIRE(eventually([&] { return cluster.worker(1)["state"] == "ready"; }));
    CHECK(cluster.worker(0)["state"] == "listening");
    CHECK(eventually(
        [&] { return cluster.worker(0)["reason"] == "not ready: GET /health: status 503"; }));
    CHECK(spread(client, 8080, 10) == std::map<int, int>{{1, 10}});
    // Who is ready is not asked any more.
    auto before = asked(sandbox, 1);
    auto others = asked(sandbox, 0);
    CHECK(eventually([&] { return asked(sandbox, 0) > others + 1; }));
    CHECK(asked(sandbox, 1) == before);
    write_file(sandbox.path("well-0"), "");
    REQUIRE(cluster.wait_ready(2));
    // Every question was pinned, and nobody else's connection.
    auto decisions = cluster.status()["decisions_total"];
    CHECK(decisions["pinned"] == asked(sandbox, 0) + asked(sandbox, 1));
    CHECK(decisions["picked"] == 10);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

}  // namespace

TEST_SUITE_BEGIN("probe");

TEST_CASE("with --ready http a worker gets traffic when it answers for itself") {
    check_health("0.0.0.0", "127.0.0.1");
}

TEST_CASE("with --ready http a worker that listens on IPv6 and IPv4 is asked, too") {
    check_health("::", "127.0.0.1");
}

TEST_CASE("with --ready http a worker that listens on one address is asked there") {
    check_health("127.0.0.1", "127.0.0.1");
}

TEST_CASE("with --ready tcp a worker is ready when it takes a connection") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "3", "--ready", "tcp"}, hello({"--addr", "::1"}));
    REQUIRE(cluster.wait_ready(3));
    CHECK(cluster.status()["decisions_total"]["pinned"] == 3);
    for (int instance = 0; instance < 3; instance++)
        CHECK(cluster.worker(instance)["accepted_total"] == 1);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("of several ports the first that --port names is the one that is asked") {
    Sandbox sandbox;
    Cluster cluster(
        sandbox, "web",
        {"-n", "2", "--ready", "http:/", "--port", "8081", "--port", "8080", "--policy", "hash"},
        hello({"--extra-port", "8081"}));
    REQUIRE(cluster.wait_ready(2));
    CHECK(cluster.status()["decisions_total"]["pinned"] == 2);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that answers 503 for ever is a failed start that says so") {
    Sandbox sandbox;
    auto command = server(sandbox, "0.0.0.0");
    if (!command) return;
    Cluster cluster(sandbox, "web",
                    {"-n", "1", "--ready", "http:/health", "--cwd", sandbox.path("."),
                     "--ready-timeout", patient(3'000), "--max-restarts", "1/60s"},
                    *command);
    CHECK(cluster.master().wait() == 1);
    CHECK(contains(cluster.master().err(),
                   fmt::format("not ready within {} ms (not ready: GET /health: status 503)",
                               3'000 * slowness())));
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

TEST_SUITE_BEGIN("shared");

TEST_CASE(
    "with the policy shared all workers accept from one socket, and its queue outlives them") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--policy", "shared", "--listen", "tcp://0.0.0.0:8080"},
                    {build_folder() + "/servers/talker"});
    REQUIRE(cluster.wait_ready(2));
    auto status = cluster.status();
    CHECK(status["policy"] == "shared");
    CHECK(status["workers"][0]["live"].is_null());
    CHECK(status["groups"].size() == 1);
    CHECK(status["groups"][0]["active"] == Json({0, 1}));
    // Nobody accepts: what comes waits in the common socket, whoever dies.
    for (int instance = 0; instance < 2; instance++)
        REQUIRE(cluster.drover({"signal", cluster.target(instance), "STOP"}).status == 0);
    Connection waiting("127.0.0.1", 8080);
    REQUIRE(waiting.send_request("/", false));
    CHECK(eventually([&] { return cluster.status()["groups"][0]["parked"] == 1; }));
    REQUIRE(cluster.drover({"signal", cluster.name(), "KILL"}).status == 0);
    CHECK(waiting.receive().ok());
    REQUIRE(cluster.wait_ready(2));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a restart of Node workers that have one socket loses no connection") {
    auto node = find_program("node");
    if (!node) return;
    Sandbox sandbox;
    write_file(
        sandbox.path("server.js"),
        "require('http').createServer((request, response) => setTimeout(() => response.end("
        "`pid ${process.pid} instance ${process.env.DROVER_INSTANCE}\\n`), 20)).listen(8080);");
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "shared"},
                    {*node, sandbox.path("server.js")});
    REQUIRE(cluster.wait_ready(2));
    Load load("127.0.0.1", 8080, 200);
    REQUIRE(load.wait_answered(50));
    CHECK(cluster.drover({"restart", "web"}).status == 0);
    CHECK(load.wait_answered(50));
    auto result = load.stop();
    CHECK_MESSAGE(result.failed() == 0, result.text());
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("the policy shared is refused where nobody can be given the socket") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "shared"}, hello());
    CHECK(cluster.master().wait() != 0);
    CHECK(contains(cluster.master().err(), "give --listen"));
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
