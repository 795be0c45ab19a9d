// SPDX-License-Identifier: MIT
//
// --ready notify and --watchdog: what a worker says by sd_notify, and who is believed. Most workers
// here are tests/servers/notifier.c, static, which speaks the protocol by hand.
#include <fmt/format.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <cstring>
#include <sstream>

#include "harness.h"
#include "http.h"
#include "messages.h"

namespace drover::test {

namespace {

using Shares = std::map<int, int>;

Words notifier(const Words& options = {}) {
    Words command = {build_folder() + "/servers/notifier"};
    command.insert(command.end(), options.begin(), options.end());
    return command;
}

// A variable of a running process; nothing where it has none of that name.
std::optional<std::string> variable_of(pid_t pid, const std::string& name) {
    std::istringstream entries(read_file(fmt::format("/proc/{}/environ", pid)));
    for (std::string entry; std::getline(entries, entry, '\0');)
        if (entry.compare(0, name.size() + 1, name + "=") == 0)
            return entry.substr(name.size() + 1);
    return std::nullopt;
}

// Sends a datagram from the test itself, which is in none of the cluster's cgroups.
bool notify_from_outside(const std::string& notify_socket, const std::string& text) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    REQUIRE(notify_socket.size() < sizeof(address.sun_path));
    std::memcpy(address.sun_path, notify_socket.data(), notify_socket.size());
    if (notify_socket[0] == '@') address.sun_path[0] = '\0';
    auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + notify_socket.size());
    Fd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    return ::sendto(fd.get(), text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&address),
                    size) == static_cast<ssize_t>(text.size());
}

bool wait_state(Cluster& cluster, int instance, const std::string& state) {
    return eventually([&] {
        Json worker = cluster.worker(instance);
        return worker.is_object() && worker["state"] == state;
    });
}

// Waits until the worker's own words are these.
bool wait_status(Cluster& cluster, int instance, const std::string& text) {
    return eventually([&] {
        Json worker = cluster.worker(instance);
        return worker.is_object() && worker["status"] == text;
    });
}

// Waits until the instance has another worker, which is ready.
bool wait_replaced(Cluster& cluster, int instance, int former_id) {
    return eventually([&] {
        Json worker = cluster.worker(instance);
        return worker.is_object() && worker["id"] != former_id && worker["state"] == "ready";
    });
}

}  // namespace

TEST_SUITE_BEGIN("notify");

TEST_CASE("a worker that listens gets no connection before it says READY=1") {
    auto python = find_program("python3");
    if (!python) return;
    Sandbox sandbox;
    write_file(sandbox.path("server.py"), R"(
import os, signal, socket
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
server = socket.create_server(("127.0.0.1", 8080))
signal.sigwait({signal.SIGUSR1})
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1\nMAINPID=1\n", os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))
body = f"instance {os.environ['DROVER_INSTANCE']}\n"
while True:
    connection = server.accept()[0]
    connection.recv(4096)
    connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    connection.close()
)");
    Cluster cluster(sandbox, "web", {"-n", "2", "--ready", "notify", "--policy", "round-robin"},
                    {*python, sandbox.path("server.py")});
    REQUIRE(wait_state(cluster, 0, "listening"));
    REQUIRE(wait_state(cluster, 1, "listening"));
    CHECK(cluster.status()["ready"] == 0);
    Connection early("127.0.0.1", 8080);
    REQUIRE(early.send_request("/", false));
    REQUIRE(eventually([&] { return cluster.status()["groups"][0]["parked"] == 1; }));

    REQUIRE(cluster.drover({"signal", "web/2", "USR1"}).status == 0);
    REQUIRE(wait_state(cluster, 1, "ready"));
    CHECK(instance_in(early.receive().body) == 1);
    CHECK(spread("127.0.0.1", 8080, 6) == Shares{{1, 6}});
    CHECK(cluster.worker(0)["state"] == "listening");

    REQUIRE(cluster.drover({"signal", "web/1", "USR1"}).status == 0);
    REQUIRE(cluster.wait_ready(2));
    CHECK(spread("127.0.0.1", 8080, 6) == Shares{{0, 3}, {1, 3}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a static server of an unprivileged user says READY=1") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--ready", "notify", "--user", "nobody", "--policy", "round-robin"},
                    notifier());
    REQUIRE(cluster.wait_ready(2));
    CHECK(spread("127.0.0.1", 8080, 6) == Shares{{0, 3}, {1, 3}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("READY=1 from a child of the worker counts for the worker") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--ready", "notify", "--policy", "round-robin"},
                    notifier({"--by-child"}));
    REQUIRE(cluster.wait_ready(2));
    CHECK(spread("127.0.0.1", 8080, 6) == Shares{{0, 3}, {1, 3}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a shell script is ready when systemd-notify says so") {
    auto systemd_notify = find_program("systemd-notify");
    if (!systemd_notify) return;
    Sandbox sandbox;
    Cluster cluster(
        sandbox, "web",
        {"-n", "2", "--ready", "notify", "--port", "0.0.0.0:8080", "--policy", "round-robin"},
        {"/bin/sh", "-c",
         fmt::format("{} --ready --status 'warm and ready'; exec {}", *systemd_notify,
                     hello_path())});
    REQUIRE(cluster.wait_ready(2));
    CHECK(cluster.worker(0)["status"] == "warm and ready");
    REQUIRE(eventually([&] { return events_of(cluster, "listening").size() == 2; }));
    CHECK(spread("127.0.0.1", 8080, 6) == Shares{{0, 3}, {1, 3}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a process outside of the cluster makes no worker ready") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1", "--ready", "notify"}, notifier({"--wait"}));
    REQUIRE(wait_state(cluster, 0, "listening"));
    auto socket = variable_of(cluster.pid_of(0), "NOTIFY_SOCKET");
    REQUIRE(socket.has_value());
    for (const char* text : {"READY=1", "READY=1\nSTATUS=mine", "WATCHDOG=1", "STOPPING=1"})
        REQUIRE(notify_from_outside(*socket, text));
    // They are taken in order: when the worker's own words are there, these were heard before.
    REQUIRE(cluster.drover({"signal", "web/1", "USR2"}).status == 0);
    REQUIRE(wait_status(cluster, 0, "got USR2"));
    CHECK(cluster.worker(0)["state"] == "listening");
    CHECK(events_of(cluster, "ready").empty());
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a worker's STATUS= is shown, and its escape sequences reach no terminal") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1", "--ready", "notify"}, notifier());
    REQUIRE(cluster.wait_ready(1));
    CHECK_FALSE(cluster.worker(0).contains("status"));
    REQUIRE(get("127.0.0.1", 8080, "/notify?STATUS=serving%20%C3%BCber%20all").ok());
    REQUIRE(wait_status(cluster, 0, "serving über all"));
    CHECK(contains(cluster.drover({"status", "web"}).out, "serving über all"));

    // Colour, the window's title, and a C1 control character that is an escape of its own.
    REQUIRE(get("127.0.0.1", 8080,
                "/notify?STATUS=%1B[31mred%1B]0;title%07%C2%9B2J%0DREADY=1%0ASTATUS=second")
                .ok());
    REQUIRE(wait_status(cluster, 0,
                        "\x1b[31mred\x1b]0;title\x07\xc2\x9b"
                        "2J\rREADY=1"));
    auto human = cluster.drover({"status", "web"}).out;
    INFO(human);
    CHECK(contains(human, R"(\x1b[31mred\x1b]0;title\x07\x9b2J\rREADY=1)"));
    auto json = cluster.drover({"status", "web", "--json"}).out;
    for (const char* bad : {"\x1b", "\x07", "\r"}) {
        CHECK_FALSE(contains(human, bad));
        CHECK_FALSE(contains(json, bad));
    }
    CHECK_FALSE(contains(human, "\xc2\x9b"));

    REQUIRE(get("127.0.0.1", 8080, "/notify?STATUS=").ok());
    CHECK(eventually([&] { return !cluster.worker(0).contains("status"); }));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a worker that never says READY=1 is ended at --ready-timeout, as a failed start") {
    Sandbox sandbox;
    Cluster cluster(
        sandbox, "web",
        {"-n", "2", "--ready", "notify", "--ready-timeout", patient(2'000), "--max-restarts",
         "2/60s"},
        {"/bin/sh", "-c",
         fmt::format("[ $DROVER_INSTANCE = 0 ] || exec {0} --wait; exec {0}", notifier()[0])});
    REQUIRE(wait_state(cluster, 1, "failed"));
    auto exits = events_of(cluster, "exit");
    REQUIRE(exits.size() == 2);
    for (const auto& exit : exits) {
        CHECK(exit["worker"]["instance"] == 1);
        CHECK(exit["data"]["reason"] == "timeout");
        CHECK(exit["data"]["uptime_ms"].get<int>() >= 2'000);
    }
    CHECK(events_of(cluster, "restart-limit").size() == 1);
    CHECK(cluster.worker(0)["state"] == "ready");
    CHECK(instance_in(get("127.0.0.1", 8080).body) == 0);
    cluster.stop();
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that gives signs of life lives, and is killed and replaced when they end") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--watchdog", patient(1'500), "--policy", "round-robin"},
                    notifier({"--ping-ms", "50"}));
    REQUIRE(cluster.wait_ready(2));
    // Longer than the watchdog waits, and than a start that may fail takes.
    auto ready = Clock::now();
    REQUIRE(eventually([&] { return Clock::now() - ready > slowness() * milliseconds(1'600); }));
    CHECK(events_of(cluster, "exit").empty());

    int silent = instance_in(get("127.0.0.1", 8080, "/mute").body);
    REQUIRE(silent >= 0);
    int id = cluster.worker(silent)["id"].get<int>();
    pid_t other = cluster.pid_of(1 - silent);
    REQUIRE(wait_replaced(cluster, silent, id));
    auto exits = events_of(cluster, "exit");
    REQUIRE(exits.size() == 1);
    CHECK(exits[0]["worker"]["id"] == id);
    CHECK(exits[0]["data"]["reason"] == "unhealthy");
    CHECK(exits[0]["data"]["signal"] == "KILL");
    CHECK(cluster.worker(silent)["last_exit"]["reason"] == "unhealthy");
    CHECK(cluster.pid_of(1 - silent) == other);
    CHECK(spread("127.0.0.1", 8080, 6) == Shares{{0, 3}, {1, 3}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that hangs is replaced by the watchdog, and what waited for it is answered") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "1", "--watchdog", patient(1'500), "--port", "127.0.0.1:8080"},
                    notifier({"--ping-ms", "50"}));
    REQUIRE(cluster.wait_ready(1));
    pid_t hung = cluster.pid_of(0);
    REQUIRE(hung > 0);
    REQUIRE(stop_process(hung));
    auto reply = get("127.0.0.1", 8080);
    CHECK(reply.ok());
    CHECK(pid_in(reply.body) != hung);
    CHECK(events_of(cluster, "exit").at(0)["data"]["reason"] == "unhealthy");
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that says STOPPING=1 gets no new connection and is left to end by itself") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--ready", "notify", "--policy", "round-robin"},
                    notifier());
    REQUIRE(cluster.wait_ready(2));
    int leaving = instance_in(get("127.0.0.1", 8080, "/notify?STOPPING=1").body);
    REQUIRE(wait_state(cluster, leaving, "draining"));
    pid_t pid = cluster.pid_of(leaving);
    int id = cluster.worker(leaving)["id"].get<int>();
    CHECK(spread("127.0.0.1", 8080, 6) == Shares{{1 - leaving, 6}});
    REQUIRE(cluster.pid_of(leaving) == pid);
    REQUIRE(pid > 0);
    REQUIRE(::kill(pid, SIGTERM) == 0);
    REQUIRE(wait_replaced(cluster, leaving, id));
    CHECK(spread("127.0.0.1", 8080, 6) == Shares{{0, 3}, {1, 3}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("only with --ready notify or --watchdog is there a NOTIFY_SOCKET") {
    Sandbox sandbox;
    for (const Words& options : {Words{"--ready", "notify"}, Words{"--watchdog", "20s"}}) {
        Words all = {"-n", "1"};
        all.insert(all.end(), options.begin(), options.end());
        Cluster cluster(sandbox, "with", all, notifier());
        REQUIRE(cluster.wait_ready(1));
        auto socket = variable_of(cluster.pid_of(0), "NOTIFY_SOCKET");
        REQUIRE(socket.has_value());
        CHECK(socket->compare(0, 13, "@drover/with/") == 0);
        auto interval = variable_of(cluster.pid_of(0), "WATCHDOG_USEC");
        CHECK(interval.value_or("") == (options[0] == "--watchdog" ? "20000000" : ""));
        CHECK(cluster.stop() == 0);
    }
    Cluster cluster(sandbox, "without", {"-n", "1"}, notifier(),
                    {"NOTIFY_SOCKET=@not/ours", "WATCHDOG_USEC=1"});
    REQUIRE(cluster.wait_ready(1));
    CHECK(variable_of(cluster.pid_of(0), "DROVER_NAME") == "without");
    CHECK(variable_of(cluster.pid_of(0), "NOTIFY_SOCKET") == std::nullopt);
    CHECK(variable_of(cluster.pid_of(0), "WATCHDOG_USEC") == std::nullopt);
    CHECK(cluster.stop() == 0);
}

TEST_SUITE_END();

}  // namespace drover::test
