// SPDX-License-Identifier: MIT
//
// drover as a systemd service, before a systemd of the test's own: a socket that takes what it is
// told (NOTIFY_SOCKET), and a cgroup that is marked as delegated. scripts/deb-test has the real
// one.
#include <fmt/format.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>

#include "base/fd.h"
#include "harness.h"

namespace drover::test {

namespace {

namespace fs = std::filesystem;

class Systemd {
  public:
    Systemd() : name_(fmt::format("drover-test-systemd-{}", ::getpid())) {
        socket_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::copy(name_.begin(), name_.end(), address.sun_path + 1);  // abstract
        auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name_.size());
        REQUIRE(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), size) == 0);
    }

    [[nodiscard]] std::string variable() const { return "NOTIFY_SOCKET=@" + name_; }

    // All that was told so far, a line each; without those of the watchdog.
    const Words& told() {
        std::array<char, 4096> bytes{};
        for (ssize_t size = 0; (size = ::recv(socket_.get(), bytes.data(), bytes.size(), 0)) > 0;)
            take({bytes.data(), static_cast<size_t>(size)});
        return lines_;
    }
    bool has_told(const std::string& line) {
        return std::ranges::find(told(), line) != told().end();
    }
    int watchdogs() {
        told();
        return watchdogs_;
    }
    void forget() {
        told();
        lines_.clear();
    }
    std::string text() {
        std::string text;
        for (const auto& line : told()) text += line + "\n";
        return text;
    }

  private:
    void take(std::string message) {
        for (size_t begin = 0; begin < message.size();) {
            size_t end = std::min(message.find('\n', begin), message.size());
            auto line = message.substr(begin, end - begin);
            if (line == "WATCHDOG=1") watchdogs_++;
            if (line != "WATCHDOG=1" && !line.starts_with("MONOTONIC_USEC="))
                lines_.push_back(line);
            begin = end + 1;
        }
    }

    std::string name_;
    Fd socket_;
    Words lines_;
    int watchdogs_ = 0;
};

const Words kTwo = {"-n", "2", "--port", "8080"};

std::string environment_of(pid_t pid) {
    return read_file(fmt::format("/proc/{}/environ", pid));
}

// Of the second hierarchy.
std::string cgroup_of(pid_t pid) {
    auto text = read_file(fmt::format("/proc/{}/cgroup", pid));
    auto begin = text.find("0::");
    return begin == std::string::npos ? ""
                                      : text.substr(begin + 3, text.find('\n', begin) - begin - 3);
}

}  // namespace

TEST_SUITE_BEGIN("service");

TEST_CASE("systemd is told of a cluster's start, changes, reload and end") {
    Sandbox sandbox;
    Systemd systemd;
    Cluster cluster(sandbox, "web", kTwo, hello(), {systemd.variable()});
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(eventually([&] { return systemd.has_told("READY=1"); }));
    // Not before all are.
    CHECK(systemd.text().ends_with("READY=1\nSTATUS=2 of 2 ready on 0.0.0.0:8080; generation 1\n"));
    CHECK(!contains(environment_of(cluster.pid_of(0)), "NOTIFY_SOCKET"));

    systemd.forget();
    REQUIRE(cluster.drover({"scale", "web", "3"}).status == 0);
    CHECK(eventually(
        [&] { return systemd.has_told("STATUS=3 of 3 ready on 0.0.0.0:8080; generation 1"); }));
    CHECK(!systemd.has_told("READY=1"));

    systemd.forget();
    cluster.master().send(SIGHUP);
    REQUIRE(eventually([&] { return systemd.has_told("READY=1"); }));
    INFO(systemd.text());
    CHECK(systemd.told().front() == "RELOADING=1");
    CHECK(systemd.told()[1] == "STATUS=3 of 3 ready on 0.0.0.0:8080; generation 1; reloading");
    CHECK(systemd.told().back() == "STATUS=3 of 3 ready on 0.0.0.0:8080; generation 2");

    systemd.forget();
    CHECK(cluster.stop() == 0);
    INFO(systemd.text());
    CHECK(systemd.told().front() == "STOPPING=1");
    CHECK(systemd.told()[1] == "STATUS=stopping; 3 workers are left");
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("systemd is told the end of a reload that failed, too") {
    Sandbox sandbox;
    Systemd systemd;
    Cluster cluster(sandbox, "web", kTwo, hello(), {systemd.variable()});
    REQUIRE(eventually([&] { return systemd.has_told("READY=1"); }));
    systemd.forget();
    CHECK(cluster.drover({"reload", "web", "--", "/bin/false"}).status == 1);
    REQUIRE(eventually([&] { return systemd.has_told("READY=1"); }));
    INFO(systemd.text());
    CHECK(systemd.told().front() == "RELOADING=1");
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a cluster of which one instance is given up is ready all the same") {
    Sandbox sandbox;
    Systemd systemd;
    // The second worker always fails.
    Words half = {"/bin/sh", "-c", "[ $DROVER_INSTANCE = 0 ] || exit 1; exec \"$0\" \"$@\""};
    for (const auto& word : hello()) half.push_back(word);
    Cluster cluster(sandbox, "web", {"-n", "2", "--port", "8080", "--max-restarts", "2/60s"}, half,
                    {systemd.variable()});
    REQUIRE(eventually([&] { return systemd.has_told("READY=1"); }));
    CHECK(systemd.text().ends_with("READY=1\nSTATUS=1 of 2 ready on 0.0.0.0:8080; generation 1\n"));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("the watchdog is fed, and an upgraded master goes on with systemd") {
    Sandbox sandbox;
    Systemd systemd;
    Cluster cluster(sandbox, "web", kTwo, hello(), {systemd.variable(), "WATCHDOG_USEC=400000"});
    REQUIRE(eventually([&] { return systemd.has_told("READY=1"); }));
    CHECK(eventually([&] { return systemd.watchdogs() >= 2; }));
    CHECK(!contains(environment_of(cluster.pid_of(0)), "WATCHDOG_USEC"));

    systemd.forget();
    REQUIRE(cluster.drover({"upgrade", "web"}).status == 0);
    REQUIRE(eventually([&] { return systemd.has_told("READY=1"); }));
    CHECK(systemd.has_told("STATUS=2 of 2 ready on 0.0.0.0:8080; generation 1"));
    int fed = systemd.watchdogs();
    CHECK(eventually([&] { return systemd.watchdogs() >= fed + 2; }));
    CHECK(cluster.stop() == 0);
    CHECK(systemd.has_told("STOPPING=1"));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE(
    "a service's cluster is in the unit's cgroup, where the next master and clients find it") {
    Sandbox sandbox;
    Systemd systemd;
    std::string unit = sandbox.cgroup() + "/unit";
    REQUIRE(fs::create_directories(unit));
    REQUIRE(::setxattr(unit.c_str(), "trusted.delegate", "1", 1, 0) == 0);
    Words command = {"/bin/sh",
                     "-c",
                     "echo $$ >\"$0\" && exec env -u DROVER_CGROUP \"$@\"",
                     unit + "/cgroup.procs",
                     build_folder() + "/drover",
                     "run",
                     "--name",
                     "web"};
    command.insert(command.end(), kTwo.begin(), kTwo.end());
    command.emplace_back("--");
    for (const auto& word : hello()) command.push_back(word);
    auto start = [&] {
        systemd.forget();
        auto master = sandbox.start({.command = command,
                                     .extra_environment = {systemd.variable()},
                                     .identity = {},
                                     .cwd = {}});
        REQUIRE(eventually([&] { return systemd.has_told("READY=1"); }));
        return master;
    };
    auto status = [&] { return Json::parse(sandbox.drover({"status", "--json"}).out); };

    Child first = start();
    CHECK(cgroup_of(first.pid()).ends_with("/unit/_master"));
    Json before = status();
    REQUIRE(before["workers"].size() == 2);
    CHECK(cgroup_of(before["workers"][0]["pid"]).ends_with("/unit/web/w1"));

    // As systemd does it after a kill: the same unit again, with the workers still in it.
    first.send(SIGKILL);
    REQUIRE(first.wait() == 128 + SIGKILL);
    Child second = start();
    CHECK(cgroup_of(second.pid()).ends_with("/unit/_master"));
    CHECK(status()["workers"][0]["pid"] == before["workers"][0]["pid"]);
    CHECK(sandbox.drover({"upgrade", "web"}).status == 0);
    CHECK(status()["workers"][1]["pid"] == before["workers"][1]["pid"]);

    // A client without that master, and with another idea of where cgroups are, finds the workers.
    second.send(SIGKILL);
    REQUIRE(second.wait() == 128 + SIGKILL);
    auto stopped = sandbox.drover({"stop", "web"});
    INFO(stopped.err);
    CHECK(contains(stopped.out, "2 processes"));
    CHECK(!fs::exists(unit + "/web"));
    CHECK(eventually([&] {
        std::error_code none;
        fs::remove(unit + "/_master", none);
        return fs::remove(unit, none);
    }));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("the unit that install would write is one that systemd takes") {
    Sandbox sandbox;
    auto analyze = find_program("systemd-analyze");
    if (!analyze) return;
    auto printed = sandbox.drover({"install", "web", "--print", "-n", "2", "--env",
                                   "ODD=50% of $HOME; \"it's\" \\ ä", "--port", "[::]:8080", "--",
                                   hello_path(), ";", "", "two\nlines"});
    INFO(printed.err);
    REQUIRE(printed.status == 0);
    CHECK(contains(printed.out, "--port \"[::]:8080\""));
    std::string file = sandbox.path("drover-web.service");
    write_file(file, printed.out);
    auto verified = sandbox.run({.command = {*analyze, "verify", "--man=no", file},
                                 .extra_environment = {},
                                 .identity = {},
                                 .cwd = {}});
    INFO(verified.err);
    CHECK(verified.status == 0);
    CHECK(verified.err == "");
}

TEST_CASE("the unit of a cluster in a configuration file leaves to the file what is in it") {
    Sandbox sandbox;
    std::string file = sandbox.path("drover.toml");
    write_file(file, fmt::format("[web]\nport = 8080\ncommand = [\"{}\"]\n", hello_path()));
    auto printed = sandbox.drover({"install", "web", "--print", "--config", file});
    INFO(printed.err);
    REQUIRE(printed.status == 0);
    CHECK(contains(printed.out, " run --name web --config " + file + "\n"));
    CHECK_FALSE(contains(printed.out, "--cwd"));
    auto other = sandbox.drover({"install", "api", "--print", "--config", file});
    CHECK(other.status == 2);
    CHECK(contains(other.err, "api"));
}

TEST_CASE("install refuses what run would refuse, and says why") {
    Sandbox sandbox;
    auto refused = [&](Words arguments, const std::string& text) {
        if (!arguments.empty()) arguments.insert(arguments.begin() + 1, "--print");
        arguments.insert(arguments.begin(), "install");
        auto outcome = sandbox.drover(arguments);
        INFO(outcome.err);
        CHECK(outcome.status == 2);
        CHECK(contains(outcome.err, text));
        CHECK(outcome.out == "");
    };
    refused({}, "install needs a name first");
    refused({"Web", "--", "true"}, "Web");
    refused({"web"}, "no command to run");
    refused({"web", "--nam", "x", "--", "true"}, "unknown option --nam");
    refused({"web", "--name", "x", "--", "true"}, "the name stands behind install already");
    refused({"web", "--", "no-such-program"}, "there is no program no-such-program in PATH");
    refused({"web", "--", "./no-such-program"}, "there is no program ./no-such-program");
    refused({"web", "--user", "nobody-there", "--", "true"}, "there is no such user");
    refused({"web", "--env-file", "/no/such", "--", "true"}, "/no/such");
    refused({"web", "--drain-timeout", "soon", "--", "true"}, "soon");
}

TEST_SUITE_END();

}  // namespace drover::test
