// SPDX-License-Identifier: MIT
//
// Least privilege: what the master and its logger may do, what their workers may, and what others
// can do to them by the files they leave.
#include <fmt/format.h>
#include <linux/capability.h>
#include <pwd.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <initializer_list>

#include "harness.h"
#include "http.h"
#include "nginx.h"

namespace drover::test {

namespace {

namespace fs = std::filesystem;

// A field of /proc/PID/status.
std::string field_of(pid_t pid, const std::string& name) {
    std::string status = read_file(fmt::format("/proc/{}/status", pid));
    auto at = status.find("\n" + name + ":\t");
    if (at == std::string::npos) return "no " + name;
    auto begin = at + name.size() + 3;
    return status.substr(begin, status.find('\n', begin) - begin);
}

uint64_t capabilities(pid_t pid, const std::string& set) {
    return std::stoull(field_of(pid, set), nullptr, 16);
}

uint64_t set_of(std::initializer_list<int> capabilities) {
    uint64_t set = 0;
    for (int one : capabilities) set |= uint64_t(1) << one;
    return set;
}

pid_t logger_of(Sandbox& sandbox) {
    return std::atoi(read_file(sandbox.cgroup() + "/web/logger/cgroup.procs").c_str());
}

const std::initializer_list<int> kMasters = {
    CAP_BPF,    CAP_PERFMON, CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, CAP_SYS_PTRACE,   CAP_KILL,
    CAP_SETUID, CAP_SETGID,  CAP_CHOWN,     CAP_SYS_RESOURCE,     CAP_DAC_OVERRIDE, CAP_FOWNER};

}  // namespace

TEST_SUITE_BEGIN("privilege");

TEST_CASE("the master and its logger keep what they need, and their bounding set") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    auto check = [](pid_t pid, uint64_t kept) {
        uint64_t expected = kept & capabilities(::getpid(), "CapPrm");
        // The logger begins while workers become ready.
        CHECK(eventually([&] { return capabilities(pid, "CapPrm") == expected; }));
        for (const char* set : {"CapPrm", "CapEff"}) CHECK(capabilities(pid, set) == expected);
        CHECK(capabilities(pid, "CapBnd") == capabilities(::getpid(), "CapBnd"));
        CHECK(field_of(pid, "Seccomp") == field_of(::getpid(), "Seccomp"));
        CHECK(field_of(pid, "NoNewPrivs") == "0");
    };
    pid_t master = cluster.master().pid();
    check(master, set_of(kMasters));
    check(logger_of(sandbox), set_of({CAP_DAC_OVERRIDE, CAP_FOWNER}));
    // Also as another program.
    REQUIRE(cluster.drover({"upgrade", "web"}).status == 0);
    check(master, set_of(kMasters));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("without the privileges that BPF needs there is one sentence that names them") {
    Sandbox sandbox;
    for (const std::string name : {"bpf", "perfmon", "net_admin"}) {
        INFO(name);
        auto outcome =
            sandbox.run({.command = {"/usr/bin/setpriv", "--bounding-set=-sys_admin,-" + name,
                                     build_folder() + "/drover", "run", "--name", "web", "-n", "1",
                                     "--", hello_path()},
                         .extra_environment = {},
                         .identity = {},
                         .cwd = {}});
        CHECK(outcome.status == 1);
        std::string upper = name;
        for (char& c : upper) c = static_cast<char>(std::toupper(c));
        CHECK(outcome.err ==
              fmt::format(
                  "drover: error: drover lacks CAP_{}: give it to the container or the unit\n",
                  upper));
        CHECK(sandbox.leftovers() == "");
    }
}

TEST_CASE(
    "where CAP_SYS_ADMIN is given instead of CAP_BPF it is kept: policies can be loaded later") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello(), {},
                    {"/usr/bin/setpriv", "--bounding-set=-bpf,-perfmon"});
    REQUIRE(cluster.wait_ready(1));
    uint64_t kept = capabilities(cluster.master().pid(), "CapEff");
    CHECK((kept & set_of({CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN})) == set_of({CAP_SYS_ADMIN}));
    for (const std::string& policy :
         {std::string("least-conn"), build_folder() + "/policies/first.bpf.o"}) {
        auto loaded = cluster.drover({"policy", "web", policy});
        CHECK_MESSAGE(loaded.status == 0, loaded.err);
    }
    CHECK(get("127.0.0.1", 8080, "/").ok());
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a worker of root may do what it may without drover") {
    Sandbox sandbox;
    Child alone = sandbox.start(
        {.command = hello({"--port", "8081"}), .extra_environment = {}, .identity = {}, .cwd = {}});
    REQUIRE(eventually([] { return get("127.0.0.1", 8081).ok(); }));
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    for (const char* field : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs",
                              "Seccomp", "Seccomp_filters", "Uid", "Gid"}) {
        INFO(field);
        CHECK(field_of(cluster.pid_of(0), field) == field_of(alone.pid(), field));
    }
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a worker of another user may do nothing, and cannot come to more") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1", "--user", "nobody", "--port", "80"},
                    hello({"--port", "80"}));
    REQUIRE(cluster.wait_ready(1));
    pid_t worker = cluster.pid_of(0);
    for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapAmb"})
        CHECK(capabilities(worker, set) == 0);
    CHECK(field_of(worker, "NoNewPrivs") == "1");
    CHECK(cluster.stop() == 0);
}

// It opens its logs and its port as root, and gives that up itself.
TEST_CASE("an nginx that begins as root and serves as another user works as without drover") {
    Sandbox sandbox;
    auto command = nginx(sandbox, {.user = "www-data",
                                   .listen = "80",
                                   .access_log = sandbox.path("access.log"),
                                   .error_log = sandbox.path("error.log"),
                                   .locations = ""});
    if (!command) return;
    Cluster cluster(sandbox, "web", {"-n", "2", "--stop-signal", "QUIT"}, *command);
    REQUIRE(cluster.wait_ready(2));
    pid_t answering = pid_in(get("127.0.0.1", 80).body);
    REQUIRE(answering > 0);
    const passwd* user = ::getpwnam("www-data");
    REQUIRE(user != nullptr);
    CHECK(field_of(answering, "Uid") == fmt::format("{0}\t{0}\t{0}\t{0}", user->pw_uid));
    CHECK(field_of(cluster.pid_of(0), "Uid") == "0\t0\t0\t0");
    // All that is done to workers goes with these, too.
    REQUIRE(cluster.drover({"reload", "web"}).status == 0);
    REQUIRE(stop_process(cluster.pid_of(0)));
    CHECK(cluster.drover({"rescue", cluster.target(0)}).status == 0);
    REQUIRE(::kill(cluster.pid_of(0), SIGCONT) == 0);
    CHECK(get("127.0.0.1", 80).ok());
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

// Whatever is done after the privileges were dropped needs no more than what was kept.
TEST_CASE("workers of another user are reloaded, rescued and taken over") {
    Sandbox sandbox;
    Words options = {"-n", "2",     "--user", "nobody",   "--port",
                     "80", "--cwd", "/",      "--nofile", "4096"};
    Cluster first(sandbox, "web", options, hello({"--port", "80"}));
    REQUIRE(first.wait_ready(2));
    REQUIRE(first.drover({"reload", "web"}).status == 0);
    REQUIRE(stop_process(first.pid_of(0)));
    Connection one("127.0.0.1", 80), other("127.0.0.1", 80);
    REQUIRE(one.send_request("/", false));
    REQUIRE(other.send_request("/", false));
    CHECK(first.drover({"rescue", first.target(0)}).status == 0);
    CHECK(instance_in(one.receive().body) == 1);
    CHECK(instance_in(other.receive().body) == 1);
    REQUIRE(::kill(first.pid_of(0), SIGCONT) == 0);
    REQUIRE(first.drover({"policy", "web", build_folder() + "/policies/least_live.bpf.o"}).status ==
            0);
    first.master().send(SIGKILL);
    REQUIRE(first.master().wait() == 128 + SIGKILL);
    Cluster second(sandbox, "web", options, hello({"--port", "80"}));
    REQUIRE(second.wait_ready(2));
    REQUIRE(second.drover({"reload", "web"}).status == 0);
    CHECK(second.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("what a cluster keeps in files is root's alone") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1", "--env", "SECRET=1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    std::string folder = sandbox.run_folder() + "/web";
    int files = 0;
    for (const auto& entry : fs::directory_iterator(folder)) {
        struct stat info {};
        REQUIRE(::lstat(entry.path().c_str(), &info) == 0);
        INFO(entry.path().string());
        CHECK(info.st_uid == 0);
        if (!S_ISLNK(info.st_mode)) CHECK((info.st_mode & 077) == 0);
        files++;
    }
    CHECK(files >= 3);  // the lock, the socket, the state
    struct stat info {};
    for (const auto& path : {folder, sandbox.pins() + "/web"}) {
        REQUIRE(::lstat(path.c_str(), &info) == 0);
        INFO(path);
        CHECK(info.st_uid == 0);
        CHECK((info.st_mode & 077) == 0);
    }
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a link in the place of a file is not followed") {
    Sandbox sandbox;
    std::string folder = sandbox.run_folder() + "/web", elsewhere = sandbox.path("elsewhere");
    write_file(elsewhere, "precious");
    fs::create_directories(folder);
    for (const char* name : {"lock", "state.json.new"}) {
        INFO(name);
        fs::create_symlink(elsewhere, folder + "/" + name);
        auto outcome = sandbox.drover({"run", "--name", "web", "-n", "1", "--", "/bin/true"});
        CHECK(outcome.status == 1);
        CHECK(read_file(elsewhere) == "precious");
        fs::remove(folder + "/" + name);
        fs::create_directories(folder);
    }
}

TEST_SUITE_END();

}  // namespace drover::test
