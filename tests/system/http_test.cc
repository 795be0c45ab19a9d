// SPDX-License-Identifier: MIT
//
// The admin port (--admin): its pages, read by hand, by promtool and by a real Prometheus; what
// clients that behave badly can do (nothing); and who else gets hold of its sockets (nobody).
#include "http.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <set>
#include <sstream>

#include "harness.h"

namespace drover::test {

namespace {

namespace fs = std::filesystem;

constexpr int kAdmin = 9090;
const Words kTwo = {"-n", "2", "--policy", "round-robin", "--admin", "9090"};

Reply page(const std::string& path, const std::string& client = {}) {
    return get("127.0.0.1", kAdmin, path, kDeadline, client);
}

// The value of a series, as it is written: name and labels. NaN where it is not there.
double metric(const std::string& text, const std::string& series) {
    auto at = text.find("\n" + series + " ");
    return at == std::string::npos ? NAN : std::stod(text.substr(at + series.size() + 2));
}

double metric(const std::string& series) {
    return metric(page("/metrics").body, series);
}

double accepted(int instance) {
    return metric(
        fmt::format("drover_worker_accepted_total{{cluster=\"web\",instance=\"{}\"}}", instance));
}

Fd connect_to(int port) {
    Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)) != 0) fd.reset();
    return fd;
}

void say(const Fd& fd, const std::string& text) {
    CHECK(::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL) ==
          static_cast<ssize_t>(text.size()));
}

// All that comes until the other side closes.
std::string exchange(const std::string& request) {
    Fd fd = connect_to(kAdmin);
    say(fd, request);
    std::string text;
    pollfd waiting{fd.get(), POLLIN, 0};
    while (::poll(&waiting, 1, static_cast<int>(kDeadline.count())) == 1) {
        std::array<char, 4096> bytes{};
        ssize_t got = ::recv(fd.get(), bytes.data(), bytes.size(), 0);
        if (got <= 0) break;
        text.append(bytes.data(), static_cast<size_t>(got));
    }
    return text;
}

bool is_closed(const Fd& fd) {
    char byte = 0;
    return ::recv(fd.get(), &byte, 1, MSG_DONTWAIT) == 0 || (errno != EAGAIN && errno != EINTR);
}

struct Listening {
    std::string address;  // as /proc/net has it
    std::string inode;
};

// The listeners of that port.
std::vector<Listening> listeners(int port) {
    std::vector<Listening> found;
    for (const char* file : {"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"}) {
        std::istringstream lines(read_file(file));
        std::string line, skip, local, state, inode;
        std::getline(lines, line);
        while (std::getline(lines, line)) {
            std::istringstream fields(line);
            fields >> skip >> local >> skip >> state;
            for (int i = 0; i < 6; i++) fields >> inode;
            if (state == "0A" && local.ends_with(fmt::format(":{:04X}", port)))
                found.push_back({local.substr(0, local.find(':')), inode});
        }
    }
    return found;
}

std::set<std::string> descriptors(pid_t pid) {
    std::set<std::string> links;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(fmt::format("/proc/{}/fd", pid), error))
        links.insert(fs::read_symlink(entry.path(), error));
    return links;
}

// Workers, logger, controller: all that the master has started.
std::vector<pid_t> all_children(const Sandbox& sandbox) {
    std::vector<pid_t> pids;
    std::error_code error;
    for (const auto& entry : fs::recursive_directory_iterator(sandbox.cgroup(), error)) {
        if (entry.path().filename() != "cgroup.procs") continue;
        std::istringstream lines(read_file(entry.path()));
        for (pid_t pid = 0; lines >> pid;) pids.push_back(pid);
    }
    return pids;
}

}  // namespace

TEST_SUITE_BEGIN("http");

TEST_CASE("the admin port tells health, readiness, the status and metrics") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", kTwo, hello());
    REQUIRE(cluster.wait_ready(2));
    CHECK(page("/healthz").body == "ok\n");
    CHECK(page("/readyz").body == "2 of 2 workers are ready\n");
    for (int i = 0; i < 6; i++) REQUIRE(get("127.0.0.1", 8080).ok());
    CHECK(eventually([] { return accepted(0) == 3 && accepted(1) == 3; }));
    auto metrics = page("/metrics").body;
    CHECK(metric(metrics, "drover_workers_ready{cluster=\"web\"}") == 2);
    CHECK(metric(metrics,
                 "drover_decisions_total{cluster=\"web\",group=\"tcp 0.0.0.0:8080\","
                 "reason=\"picked\"}") == 6);
    CHECK(metric(metrics, "drover_worker_memory_bytes{cluster=\"web\",instance=\"1\"}") > 0);
    CHECK(metric(metrics, "process_resident_memory_bytes") > 1e6);

    Json told = Json::parse(page("/status").body, nullptr, false), status = cluster.status();
    REQUIRE(told.is_object());
    for (const char* same : {"cluster", "pid", "state", "groups", "decisions_total", "ready"})
        CHECK(told[same] == status[same]);
    REQUIRE(told["workers"].size() == 2);
    CHECK(told["workers"][0]["accepted_total"] == 3);
    CHECK_FALSE(told["workers"][0].contains("reason"));
    // The master's own listener is in no group.
    CHECK(told["groups"].size() == 1);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("the admin port can be read and nothing else") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", kTwo, hello());
    REQUIRE(cluster.wait_ready(2));
    auto missing = page("/nothing");
    CHECK(missing.error == "status 404");
    CHECK(contains(missing.body, "/metrics, /healthz, /readyz and /status"));
    auto posted = exchange(
        "POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nConnection: close\r\n\r\nn=6000");
    INFO(posted);
    CHECK(posted.starts_with("HTTP/1.1 405 "));
    CHECK(contains(posted, "\r\nAllow: GET, HEAD\r\n"));
    auto head = exchange("HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    INFO(head);
    CHECK(head.starts_with("HTTP/1.1 200 "));
    CHECK(contains(head, "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    CHECK(head.ends_with("\r\n\r\n"));
    CHECK(exchange("\x16\x03\x01 nonsense\r\n\r\n").find("200") == std::string::npos);
    exchange("GET /" + std::string(100'000, 'x') + " HTTP/1.1\r\n\r\n");
    CHECK(page("/healthz").ok());
    CHECK(cluster.status()["ready"] == 2);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("promtool finds nothing to say about the metrics") {
    auto promtool = find_program("promtool");
    if (!promtool) return;
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", kTwo, hello());
    REQUIRE(cluster.wait_ready(2));
    write_file(sandbox.path("metrics"), page("/metrics").body);
    auto checked = sandbox.run(
        {.command = {"/bin/sh", "-c", *promtool + " check metrics < " + sandbox.path("metrics")},
         .extra_environment = {},
         .identity = {},
         .cwd = {}});
    CHECK(checked.status == 0);
    CHECK(checked.out + checked.err == "");
    CHECK(cluster.stop() == 0);
}

TEST_CASE("Prometheus scrapes it, and counts go on growing when the workers are replaced") {
    auto prometheus = find_program("prometheus");
    if (!prometheus) return;
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", kTwo, hello());
    REQUIRE(cluster.wait_ready(2));
    write_file(sandbox.path("prometheus.yml"),
               "scrape_configs:\n"
               "  - {job_name: drover, honor_labels: true, scrape_interval: 1s,\n"
               "     static_configs: [{targets: ['127.0.0.1:9090']}]}\n");
    Child server =
        sandbox.start({.command = {*prometheus, "--config.file=" + sandbox.path("prometheus.yml"),
                                   "--storage.tsdb.path=" + sandbox.path("tsdb"),
                                   "--web.listen-address=127.0.0.1:9191"},
                       .extra_environment = {},
                       .identity = {},
                       .cwd = {}});
    // What it has, of the instance; "" where it has nothing.
    auto known = [](const std::string& series) {
        auto reply = get("127.0.0.1", 9191, "/api/v1/query?query=" + series);
        Json answer = Json::parse(reply.body, nullptr, false);
        if (!answer.is_object() || answer["data"]["result"].empty()) return std::string();
        return answer["data"]["result"][0]["value"][1].get<std::string>();
    };
    const std::string taken = "drover_worker_accepted_total%7Binstance=%220%22%7D";
    constexpr milliseconds kPatience{30'000};
    CHECK(eventually([&] { return known(taken) == "0"; }, kPatience));
    for (int i = 0; i < 20; i++) REQUIRE(get("127.0.0.1", 8080).ok());
    CHECK(eventually([&] { return known(taken) == "10"; }, kPatience));
    REQUIRE(cluster.drover({"reload", "web"}).status == 0);
    for (int i = 0; i < 4; i++) REQUIRE(get("127.0.0.1", 8080).ok());
    CHECK(eventually([&] { return known(taken) == "12"; }, kPatience));
    CHECK(known("resets(" + taken + "%5B1m%5D)") == "0");
    CHECK(known("up") == "1");
    CHECK(cluster.stop() == 0);
    CHECK(eventually([&] { return known("up") == "0"; }, kPatience));
}

TEST_CASE("a cluster is ready while somebody can answer") {
    Sandbox sandbox;
    Words options = kTwo;
    options.insert(options.end(), {"--ready", "message", "--drain-timeout", "60s"});
    Cluster cluster(sandbox, "web", options, hello());
    REQUIRE(eventually([&] { return cluster.worker(1)["state"] == "listening"; }));
    CHECK(page("/healthz").ok());
    CHECK(page("/readyz").error == "status 503");
    CHECK(page("/readyz").body == "no worker is ready, of 2\n");
    REQUIRE(cluster.drover({"reload", "web", "--ready", "listening"}).status == 0);
    REQUIRE(cluster.wait_ready(2));
    CHECK(page("/readyz").ok());
    REQUIRE(cluster.drover({"drain", cluster.target(0)}).status == 0);
    CHECK(page("/readyz").ok());
    REQUIRE(cluster.drover({"drain", cluster.target(1)}).status == 0);
    CHECK(page("/readyz").error == "status 503");
    REQUIRE(cluster.drover({"resume", cluster.target(1)}).status == 0);
    CHECK(page("/readyz").ok());
    // While it is being stopped it does what it has left, and wants nothing new.
    Connection last("127.0.0.1", 8080);
    REQUIRE(last.get("/hold").ok());
    cluster.master().send(SIGTERM);
    CHECK(eventually([] { return page("/readyz").body == "the cluster is stopping\n"; }));
    CHECK(page("/healthz").ok());
    last.close();
    CHECK(cluster.master().wait() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("clients that say nothing or read nothing are few, and not for long") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", kTwo, hello());
    REQUIRE(cluster.wait_ready(2));
    size_t before = descriptors(cluster.master().pid()).size();
    std::vector<Fd> idle;
    for (int i = 0; i < 200; i++) idle.push_back(connect_to(kAdmin));
    auto open = [&] {
        return std::count_if(idle.begin(), idle.end(), [](const Fd& fd) { return !is_closed(fd); });
    };
    CHECK(eventually([&] { return open() <= 32; }));
    CHECK(open() > 0);
    CHECK(descriptors(cluster.master().pid()).size() <= before + 40);
    CHECK(cluster.status()["ready"] == 2);
    CHECK(page("/healthz", "127.0.0.2").ok());  // others have their share
    CHECK_FALSE(page("/healthz").ok());
    CHECK(eventually([&] { return open() == 0; }, seconds(20)));
    CHECK(page("/healthz").ok());
    idle.clear();

    std::vector<Fd> slow;
    for (int i = 0; i < 31; i++) {
        slow.push_back(connect_to(kAdmin));
        say(slow.back(), "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    CHECK(cluster.status()["ready"] == 2);
    CHECK(page("/metrics").ok());
    CHECK(metric("process_resident_memory_bytes") < 32e6);
    CHECK(get("127.0.0.1", 8080).ok());
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("nobody but the master has anything of the admin port") {
    Sandbox sandbox;
    Words options = kTwo;
    options.insert(options.end(), {"--controller", "exec cat > /dev/null"});
    Cluster cluster(sandbox, "web", options, hello());
    REQUIRE(cluster.wait_ready(2));
    auto listening = listeners(kAdmin);
    REQUIRE(listening.size() == 1);
    CHECK(listening[0].address == "0100007F");  // 127.0.0.1
    // With a connection open while others are started.
    pid_t master = cluster.master().pid();
    auto before = descriptors(master);
    Fd client = connect_to(kAdmin);
    say(client, "GET /healthz HTTP/1.1\r\n");  // and no more
    REQUIRE(eventually([&] { return descriptors(master).size() > before.size(); }));
    REQUIRE(cluster.drover({"scale", "web", "4"}).status == 0);
    REQUIRE(cluster.wait_ready(4));

    auto owned = descriptors(master);
    CHECK(owned.contains(fmt::format("socket:[{}]", listening[0].inode)));
    auto children = all_children(sandbox);
    CHECK(children.size() >= 6);  // four workers, logger, controller
    for (pid_t child : children)
        for (const std::string& link : descriptors(child)) {
            CAPTURE(link);
            CHECK_FALSE((link.starts_with("socket:") && owned.contains(link)));
        }
    // Nor would somebody have it whom the master starts without closing everything.
    for (const auto& entry : fs::directory_iterator(fmt::format("/proc/{}/fdinfo", master))) {
        auto link = fmt::format("/proc/{}/fd/{}", master, entry.path().filename().string());
        std::error_code gone;
        std::string what = fs::read_symlink(link, gone);
        if (!what.starts_with("socket:") && !what.starts_with("anon_inode:")) continue;
        std::istringstream fields(read_file(entry.path()));
        std::string key, flags;
        while (fields >> key && key != "flags:") {
        }
        if (!(fields >> flags)) continue;  // closed meanwhile
        CAPTURE(link);
        CAPTURE(what);
        CHECK((std::stoul(flags, nullptr, 8) & O_CLOEXEC) != 0);
    }
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("the admin port is where it is told to be, with a warning where others reach it") {
    struct Case {
        std::string option, address, answers_at;
        bool warns;
    };
    for (const Case& one : {Case{":9090", "0100007F", "127.0.0.1", false},
                            Case{"[::1]:9090", "00000000000000000000000001000000", "::1", false},
                            Case{"0.0.0.0:9090", "00000000", "127.0.0.1", true},
                            Case{"[::]:9090", std::string(32, '0'), "127.0.0.1", true}}) {
        CAPTURE(one.option);
        Sandbox sandbox;
        Cluster cluster(sandbox, "web", {"-n", "1", "--admin", one.option}, hello());
        REQUIRE(cluster.wait_ready(1));
        auto listening = listeners(kAdmin);
        REQUIRE(listening.size() == 1);
        CHECK(listening[0].address == one.address);
        CHECK(get(one.answers_at, kAdmin, "/healthz").ok());
        auto said = cluster.master().err();
        INFO(said);
        CHECK(contains(said, "everybody who reaches") == one.warns);
        CHECK(cluster.stop() == 0);
    }
}

TEST_CASE("an admin port that somebody else has is refused, and the other is named") {
    Sandbox sandbox;
    Cluster first(sandbox, "web", kTwo, hello());
    REQUIRE(first.wait_ready(2));
    auto second = sandbox.drover({"run", "--name", "api", "-n", "1", "--admin", "9090", "--",
                                  hello_path(), "--port", "8081"});
    INFO(second.err);
    CHECK(second.status == 1);
    CHECK(contains(second.err,
                   "--admin: port 9090 is taken: pid " + std::to_string(first.master().pid())));
    CHECK(count_lines(second.err) == 1);
    CHECK(page("/healthz").ok());
    // It cannot change while the cluster runs, and is not one of the workers'.
    auto reload = first.drover({"reload", "web", "--admin", "9191"});
    CHECK(reload.status == 2);
    CHECK(contains(reload.err, "--admin"));
    auto both = sandbox.drover(
        {"run", "--name", "api", "--port", "9090", "--admin", "9090", "--", hello_path()});
    CHECK(both.status == 2);
    CHECK(contains(both.err, "--admin needs another one"));
    CHECK(first.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that binds the admin port ends with a sentence that says whose it is") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", kTwo, {hello_path(), "--port", "9090"});
    CHECK(cluster.master().wait() == 1);
    INFO(cluster.master().err());
    CHECK(contains(cluster.master().err(),
                   "port 9090 is taken: this cluster's own --admin listens on 127.0.0.1:9090"));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("the admin port is open through an upgrade, and opened anew after a killed master") {
    Sandbox sandbox;
    Cluster first(sandbox, "web", kTwo, hello());
    REQUIRE(first.wait_ready(2));
    auto socket = [] {
        auto listening = listeners(kAdmin);
        return listening.size() == 1 ? listening[0].inode : "";
    };
    std::string before = socket();
    for (int i = 0; i < 10; i++) REQUIRE(get("127.0.0.1", 8080).ok());
    // A worker that is gone has left its count.
    REQUIRE(first.drover({"restart", first.target(0)}).status == 0);
    REQUIRE(first.wait_ready(2));
    REQUIRE(eventually([] { return accepted(0) == 5 && accepted(1) == 5; }));
    REQUIRE(first.drover({"upgrade", "web"}).status == 0);
    CHECK(page("/healthz").ok());
    CHECK(socket() == before);
    CHECK(accepted(0) == 5);
    CHECK(accepted(1) == 5);
    REQUIRE(first.drover({"upgrade", "web"}).status == 0);
    CHECK(page("/readyz").ok());
    CHECK(socket() == before);

    first.master().send(SIGKILL);
    REQUIRE(first.master().wait() == 128 + SIGKILL);
    // A process that it was just forking has its descriptors until its exec.
    CHECK(eventually([] { return page("/healthz").error == "refused"; }));
    Cluster second(sandbox, "web", kTwo, hello());
    REQUIRE(second.wait_ready(2));
    CHECK(page("/readyz").ok());
    CHECK(accepted(0) == 5);
    CHECK(second.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
