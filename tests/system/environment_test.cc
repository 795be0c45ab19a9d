// SPDX-License-Identifier: MIT
//
// What a worker sees of its surroundings: environment, descriptors, limits, and where its output
// goes.
#include <algorithm>
#include <sstream>

#include "harness.h"
#include "http.h"

namespace drover::test {

namespace {

std::map<std::string, std::string> environment_of_worker() {
    std::map<std::string, std::string> variables;
    std::istringstream lines(get("127.0.0.1", 8080, "/env").body);
    for (std::string line; std::getline(lines, line);) {
        auto equals = line.find('=');
        if (equals != std::string::npos)
            variables[line.substr(0, equals)] = line.substr(equals + 1);
    }
    return variables;
}

}  // namespace

TEST_SUITE_BEGIN("environment");

TEST_CASE("a worker is told who it is") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    auto variables = environment_of_worker();
    CHECK(variables["DROVER_NAME"] == "web");
    CHECK(variables["DROVER_WORKER_ID"] == "1");
    CHECK(variables["DROVER_INSTANCE"] == "0");
    CHECK(variables["DROVER_WORKERS"] == "1");
    CHECK(variables["DROVER_GENERATION"] == "1");
    CHECK(variables["NODE_APP_INSTANCE"] == "0");
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a worker inherits the master's environment less what is not its own") {
    Sandbox sandbox;
    Cluster cluster(
        sandbox, "web", {"-n", "1"}, hello(),
        {"KEPT=yes", "SUDO_USER=somebody", "SUDO_UID=1000", "LISTEN_FDS=1", "LISTEN_PID=1",
         "NOTIFY_SOCKET=@nothing", "NODE_CHANNEL_FD=3", "NODE_CHANNEL_SERIALIZATION_MODE=json",
         "NODE_UNIQUE_ID=9", "DROVER_SECRET=foreign"});
    REQUIRE(cluster.wait_ready(1));
    auto variables = environment_of_worker();
    CHECK(variables["KEPT"] == "yes");
    CHECK(variables.count("PATH") == 1);
    for (const char* name :
         {"SUDO_USER", "SUDO_UID", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "NODE_CHANNEL_FD",
          "NODE_CHANNEL_SERIALIZATION_MODE", "NODE_UNIQUE_ID", "DROVER_SECRET", "DROVER_RUN_DIR",
          "DROVER_CGROUP", "DROVER_BPFFS", "DROVER_LOG_ROOT"}) {
        INFO(name);
        CHECK(variables.count(name) == 0);
    }
    CHECK(cluster.stop() == 0);
}

// What /process says of the descriptors that a worker had at its start.
std::string descriptors() {
    std::istringstream lines(get("127.0.0.1", 8080, "/process").body);
    for (std::string line; std::getline(lines, line);)
        if (line.compare(0, 4, "fds ") == 0) return line;
    return "";
}

TEST_CASE("without a channel a worker has standard input, output and error, and nothing else") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1", "--ipc", "none"}, hello());
    REQUIRE(cluster.wait_ready(1));
    std::string fds = descriptors();
    INFO(fds);
    CHECK(contains(fds, "0=/dev/null 1=pipe:"));
    CHECK(contains(fds, " 2=pipe:"));
    CHECK(std::count(fds.begin(), fds.end(), '=') == 3);
    CHECK_FALSE(contains(get("127.0.0.1", 8080, "/env").body, "DROVER_IPC"));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a worker inherits both ends of its two message pipes, and no other descriptor") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    std::string fds = descriptors();
    INFO(fds);
    for (const char* pipe : {" 3=pipe:", " 4=pipe:", " 5=pipe:", " 6=pipe:"})
        CHECK(contains(fds, pipe));
    CHECK(std::count(fds.begin(), fds.end(), '=') == 7);
    std::string environment = get("127.0.0.1", 8080, "/env").body;
    CHECK(contains(environment, "DROVER_IPC_READ_FD=3"));
    CHECK(contains(environment, "DROVER_IPC_WRITE_FD=4"));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("each line of a worker's output carries the cluster's name and the instance") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin"}, hello());
    REQUIRE(cluster.wait_ready(2));
    for (int i = 0; i < 2; i++) {
        CHECK(get("127.0.0.1", 8080, "/out?to-stdout").ok());
        CHECK(get("127.0.0.1", 8080, "/err?to-stderr").ok());
    }
    auto all = [&] { return cluster.master().out() + cluster.master().err(); };
    CHECK(eventually([&] { return contains(all(), "[web/0] to-stdout\n"); }));
    CHECK(eventually([&] { return contains(all(), "[web/1] to-stderr\n"); }));
    CHECK(contains(all(), "[web/0] listening on 0.0.0.0 port 8080\n"));
    CHECK(contains(all(), "[web/1] listening on 0.0.0.0 port 8080\n"));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a last line without its end is printed when the worker exits") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "job", {"-n", "1", "--restart", "never", "--ready", "exec"},
                    {"printf", "no end"});
    CHECK(cluster.master().wait() >= 0);
    CHECK(contains(cluster.master().out(), "[job/0] no end"));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("--cwd, --env, --env-file, --umask and --nofile are what the worker sees") {
    Sandbox sandbox;
    write_file(sandbox.path("settings.env"), "# a comment\nFROM_FILE=file\nBOTH=file\n\n");
    Cluster cluster(
        sandbox, "web",
        {"-n", "1", "--cwd", "/usr", "--env-file", sandbox.path("settings.env"), "--env",
         "FROM_OPTION=a b", "--env", "BOTH=option", "--umask", "0027", "--nofile", "1234"},
        hello());
    REQUIRE(cluster.wait_ready(1));
    auto process = get("127.0.0.1", 8080, "/process").body;
    INFO(process);
    CHECK(contains(process, "\ncwd /usr\n"));
    CHECK(contains(process, "\numask 0027\n"));
    CHECK(contains(process, "\nnofile 1234 1234\n"));
    auto variables = environment_of_worker();
    CHECK(variables["FROM_FILE"] == "file");
    CHECK(variables["FROM_OPTION"] == "a b");
    CHECK(variables["BOTH"] == "option");
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a worker of --user has that user's ids and home, and none of root's groups") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1", "--user", "nobody"}, hello());
    REQUIRE(cluster.wait_ready(1));
    auto process = get("127.0.0.1", 8080, "/process").body;
    INFO(process);
    CHECK(contains(process, "\nuid 65534\ngid 65534\n"));
    auto variables = environment_of_worker();
    CHECK(variables["USER"] == "nobody");
    CHECK(variables["LOGNAME"] == "nobody");
    CHECK(variables["HOME"] == "/nonexistent");
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a worker has a session of its own") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    std::istringstream lines(get("127.0.0.1", 8080, "/process").body);
    std::string word;
    int pid = 0, session = 0;
    lines >> word >> pid >> word >> session;
    CHECK(pid > 0);
    CHECK(pid == session);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a run as root without --user warns once and names the option") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(cluster.wait_ready(2));
    CHECK(contains(cluster.master().err(), "--user"));
    CHECK(cluster.stop() == 0);
}

TEST_SUITE_END();

}  // namespace drover::test
