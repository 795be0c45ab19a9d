// SPDX-License-Identifier: MIT
//
// --listen: the sockets are the master's, passed on as systemd does (LISTEN_FDS). The worker below
// binds nothing: whatever it serves, it was given.
#include <fmt/format.h>
#include <signal.h>

#include "harness.h"
#include "http.h"
#include "messages.h"

namespace drover::test {

namespace {

using Shares = std::map<int, int>;

// The clusters whose exact turns are counted have --stall-after never: Python may take its time to
// start, and a busy machine's slow workers are not stalled.
//
// Answers on each passed socket. With the argument "late" it takes its time before it accepts.
const char* const kServer = R"(
import os, select, socket, sys, time
assert int(os.environ["LISTEN_PID"]) == os.getpid(), "LISTEN_PID is not mine"
count = int(os.environ["LISTEN_FDS"])
names = os.environ["LISTEN_FDNAMES"]
assert len(names.split(":")) == count, names
listeners = [socket.socket(fileno=3 + i) for i in range(count)]
for listener in listeners:
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1, "not listening"
    listener.setblocking(False)
me = f"pid {os.getpid()} instance {os.environ['DROVER_INSTANCE']} names {names}"
if "late" in sys.argv:
    time.sleep(0.3)
while True:
    for listener in select.select(listeners, [], [])[0]:
        try:
            connection = listener.accept()[0]
        except BlockingIOError:
            continue
        connection.setblocking(True)
        request = connection.recv(4096)
        at = listener.getsockname()
        body = f"{me} at {at[0]} {at[1]}\n"
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n"
                           f"Connection: close\r\n\r\n{body}".encode())
        connection.close()
)";

std::optional<Words> server(Sandbox& sandbox, const Words& options = {}) {
    auto python = find_program("python3");
    if (!python) return std::nullopt;
    write_file(sandbox.path("server.py"), kServer);
    Words command = {*python, sandbox.path("server.py")};
    command.insert(command.end(), options.begin(), options.end());
    return command;
}

}  // namespace

TEST_SUITE_BEGIN("activate");

TEST_CASE("workers that are given their socket answer in turn") {
    Sandbox sandbox;
    auto command = server(sandbox);
    if (!command) return;
    Cluster cluster(sandbox, "web",
                    {"-n", "3", "--listen", "tcp://127.0.0.1:8080", "--policy", "round-robin",
                     "--stall-after", "never"},
                    *command);
    REQUIRE(cluster.wait_ready(3));
    CHECK(spread("127.0.0.1", 8080, 12) == Shares{{0, 4}, {1, 4}, {2, 4}});
    CHECK(get("::1", 8080).error == "refused");
    CHECK(contains(get("127.0.0.1", 8080).body, " names 8080 at 127.0.0.1 8080\n"));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("an IPv6 socket is given to the workers") {
    Sandbox sandbox;
    auto command = server(sandbox);
    if (!command) return;
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--listen", "tcp://[::1]:8080", "--policy", "round-robin",
                     "--stall-after", "never"},
                    *command);
    REQUIRE(cluster.wait_ready(2));
    CHECK(spread("::1", 8080, 8) == Shares{{0, 4}, {1, 4}});
    CHECK(get("127.0.0.1", 8080).error == "refused");
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("several sockets are given in the order of the options") {
    Sandbox sandbox;
    auto command = server(sandbox);
    if (!command) return;
    Cluster cluster(
        sandbox, "web",
        {"-n", "2", "--listen", "tcp://127.0.0.1:8081", "--listen", "tcp://127.0.0.1:8080",
         "--listen", "tcp://[::1]:8080", "--policy", "round-robin", "--stall-after", "never"},
        *command);
    REQUIRE(cluster.wait_ready(2));
    CHECK(spread("127.0.0.1", 8080, 8) == Shares{{0, 4}, {1, 4}});
    CHECK(spread("127.0.0.1", 8081, 8) == Shares{{0, 4}, {1, 4}});
    CHECK(spread("::1", 8080, 8) == Shares{{0, 4}, {1, 4}});
    CHECK(contains(get("127.0.0.1", 8081).body, " names 8081:8080:8080 at 127.0.0.1 8081\n"));
    CHECK(cluster.status()["groups"].size() == 3);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("sockets for IPv4 and IPv6 on all addresses stand side by side") {
    Sandbox sandbox;
    auto command = server(sandbox);
    if (!command) return;
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--listen", "tcp://0.0.0.0:8080", "--listen", "tcp://[::]:8080",
                     "--policy", "round-robin", "--stall-after", "never"},
                    *command);
    REQUIRE(cluster.wait_ready(2));
    CHECK(spread("127.0.0.1", 8080, 8) == Shares{{0, 4}, {1, 4}});
    CHECK(spread("::1", 8080, 8) == Shares{{0, 4}, {1, 4}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("an unprivileged worker is given a port below 1024") {
    Sandbox sandbox;
    auto command = server(sandbox);
    if (!command) return;
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--listen", "tcp://0.0.0.0:80", "--user", "nobody", "--policy",
                     "round-robin", "--stall-after", "never"},
                    *command);
    REQUIRE(cluster.wait_ready(2));
    CHECK(spread("127.0.0.1", 80, 8) == Shares{{0, 4}, {1, 4}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a restart of the only activated worker under load refuses nobody") {
    Sandbox sandbox;
    auto command = server(sandbox, {"late"});
    if (!command) return;
    Cluster cluster(sandbox, "web", {"-n", "1", "--listen", "tcp://127.0.0.1:8080"}, *command);
    REQUIRE(cluster.wait_ready(1));
    pid_t former = cluster.pid_of(0);
    Load load("127.0.0.1", 8080, 300);
    REQUIRE(load.wait_answered(100));
    for (int i = 0; i < 2; i++) {
        CHECK(cluster.drover({"restart", "web"}).status == 0);
        REQUIRE(cluster.wait_ready(1));
        CHECK(load.wait_answered(100));
    }
    auto result = load.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
    CHECK(cluster.pid_of(0) != former);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("the killed only activated worker takes with it just what it had accepted") {
    Sandbox sandbox;
    auto command = server(sandbox, {"late"});
    if (!command) return;
    Cluster cluster(sandbox, "web", {"-n", "1", "--listen", "tcp://127.0.0.1:8080"}, *command);
    REQUIRE(cluster.wait_ready(1));
    pid_t former = cluster.pid_of(0);
    Load load("127.0.0.1", 8080, 300);
    REQUIRE(load.wait_answered(400));
    REQUIRE(::kill(former, SIGKILL) == 0);
    CHECK(load.wait_answered(200));
    auto result = load.stop();
    INFO(result.text());
    CHECK(result.failed() <= 1);  // it accepts one at a time
    CHECK(cluster.pid_of(0) != former);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

// A WSGI application and nothing else: gunicorn knows sd_notify and LISTEN_FDS by itself.
const char* const kApplication = R"(
import os
def application(environment, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"pid {os.getpid()} instance {os.environ['DROVER_INSTANCE']}\n".encode()]
)";

std::optional<Words> gunicorn(Sandbox& sandbox) {
    auto program = find_program("gunicorn");
    if (!program) return std::nullopt;
    write_file(sandbox.path("application.py"), kApplication);
    return Words{*program, "--workers", "1", "--chdir", sandbox.path(""), "application"};
}

TEST_CASE("gunicorn, unmodified, serves on the socket it is given, in exact turns") {
    Sandbox sandbox;
    auto command = gunicorn(sandbox);
    if (!command) return;
    Cluster cluster(sandbox, "web",
                    {"-n", "3", "--listen", "tcp://127.0.0.1:8080", "--policy", "round-robin",
                     "--stall-after", "never"},
                    *command);
    REQUIRE(cluster.wait_ready(3));
    CHECK(spread("127.0.0.1", 8080, 12) == Shares{{0, 4}, {1, 4}, {2, 4}});
    CHECK(contains(cluster.master().err(), "Listening at: http://127.0.0.1:8080"));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a restart of gunicorn under load loses no connection") {
    Sandbox sandbox;
    auto command = gunicorn(sandbox);
    if (!command) return;
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--listen", "tcp://127.0.0.1:8080", "--ready", "notify"}, *command);
    REQUIRE(cluster.wait_ready(2));
    pid_t former = cluster.pid_of(0);
    Load load("127.0.0.1", 8080, 200);
    REQUIRE(load.wait_answered(50));
    CHECK(cluster.drover({"restart", "web"}, milliseconds(60'000)).status == 0);
    REQUIRE(cluster.wait_ready(2));
    CHECK(load.wait_answered(50));
    auto result = load.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
    CHECK(cluster.pid_of(0) != former);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("worker.hpp finds the sockets that were passed, and the channel beside them") {
    Sandbox sandbox;
    Cluster cluster(
        sandbox, "web",
        {"-n", "2", "--listen", "tcp://127.0.0.1:8080", "--listen", "tcp://127.0.0.1:8081",
         "--policy", "round-robin", "--stall-after", "never", "--ready", "message"},
        {build_folder() + "/servers/talker"});
    REQUIRE(cluster.wait_ready(2));
    CHECK(spread("127.0.0.1", 8080, 4) == Shares{{0, 2}, {1, 2}});
    CHECK(spread("127.0.0.1", 8081, 4) == Shares{{0, 2}, {1, 2}});
    CHECK(contains(get("127.0.0.1", 8080).body, "fds 8080,8081\n"));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
