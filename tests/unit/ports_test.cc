// SPDX-License-Identifier: MIT
//
// Who owns a port: the table of overlapping addresses, locks in a temporary folder, and real
// listeners in a network namespace of the test's own (as root; else skipped, and said).
#include "steer/ports.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

using namespace drover;
using namespace drover::steer;
namespace fs = std::filesystem;

namespace {

Endpoint at(const std::string& address, int port = 80) {
    auto endpoint = Endpoint::parse(address, port);
    REQUIRE(endpoint);
    return *endpoint;
}

bool nobody_is_ours(uint64_t) {
    return false;
}

// A temporary folder that is gone after the test.
class Folder {
  public:
    Folder() {
        std::string name = fs::temp_directory_path() / "drover-unit-ports-XXXXXX";
        REQUIRE(::mkdtemp(name.data()) != nullptr);
        path_ = name;
    }
    ~Folder() {
        std::error_code ignored;
        fs::remove_all(path_, ignored);
    }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    [[nodiscard]] std::string locks() const { return path_ + "/ports"; }
    [[nodiscard]] const std::string& path() const { return path_; }

  private:
    std::string path_;
};

// This thread is in a fresh network namespace, loopback up, until the end of the test.
class Network {
  public:
    Network() : before_(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)) {
        if (::geteuid() != 0 || ::unshare(CLONE_NEWNET) != 0) return;
        Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        ifreq loopback{};
        std::strcpy(loopback.ifr_name, "lo");
        loopback.ifr_flags = IFF_UP;
        usable_ = ::ioctl(socket.get(), SIOCSIFFLAGS, &loopback) == 0;
        moved_ = true;
    }
    ~Network() {
        // Without a way back every later test would be in the wrong place.
        if (moved_ && ::setns(before_.get(), CLONE_NEWNET) != 0) std::abort();
    }
    [[nodiscard]] bool is_usable() const {
        if (!usable_) MESSAGE("skipped: needs root, to make a network namespace");
        return usable_;
    }

  private:
    Fd before_;
    bool usable_ = false;
    bool moved_ = false;
};

Fd listen_on(const Endpoint& endpoint, bool v6only = false) {
    Fd socket(::socket(endpoint.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    int value = v6only ? 1 : 0;
    if (endpoint.family() == AF_INET6)
        REQUIRE(::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &value, sizeof(value)) == 0);
    sockaddr_storage address{};
    socklen_t length = endpoint.to_sockaddr(address);
    REQUIRE(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), length) == 0);
    REQUIRE(::listen(socket.get(), 8) == 0);
    return socket;
}

// Another program that has the listener, and alone.
class Stranger {
  public:
    explicit Stranger(Fd&& listener) {
        int ends[2];
        REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
        Fd running(ends[0]);
        pid_ = ::fork();
        if (pid_ == 0) {
            // A duplicate has no close-on-exec.
            if (::dup(listener.get()) < 0) ::_exit(126);
            ::execlp("sleep", "sleep", "1234", nullptr);
            ::_exit(127);
        }
        ::close(ends[1]);
        pollfd poll{running.get(), POLLIN, 0};
        REQUIRE(::poll(&poll, 1, 5000) == 1);  // end of file: exec closed the other end
        listener.reset();
    }
    ~Stranger() {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
    Stranger(const Stranger&) = delete;
    Stranger& operator=(const Stranger&) = delete;
    [[nodiscard]] int pid() const { return pid_; }

  private:
    int pid_ = -1;
};

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

std::vector<std::string> files_in(const std::string& folder) {
    std::vector<std::string> names;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(folder, ignored))
        names.push_back(entry.path().filename());
    return names;
}

}  // namespace

TEST_CASE("overlaps: who would get connections that are meant for the other") {
    struct Row {
        const char* one;
        const char* other;
        bool overlap;
    };
    const Row table[] = {
        {"127.0.0.1", "127.0.0.1", true},
        {"127.0.0.1", "127.0.0.2", false},
        {"0.0.0.0", "0.0.0.0", true},
        {"0.0.0.0", "127.0.0.1", true},
        {"0.0.0.0", "192.0.2.7", true},
        {"::1", "::1", true},
        {"::1", "2001:db8::1", false},
        {"2001:db8::1", "2001:db8::2", false},
        {"::", "::", true},
        {"::", "::1", true},
        {"::", "0.0.0.0", true},  // unless v6-only, which claim() looks at
        {"::", "127.0.0.1", true},
        {"::1", "127.0.0.1", false},
        {"::1", "0.0.0.0", false},
    };
    for (const Row& row : table) {
        INFO(fmt::format("{} and {}", row.one, row.other));
        CHECK(overlaps(at(row.one), at(row.other)) == row.overlap);
        CHECK(overlaps(at(row.other), at(row.one)) == row.overlap);
        CHECK_FALSE(overlaps(at(row.one, 80), at(row.other, 81)));
        CHECK_FALSE(overlaps(at(row.one, 81), at(row.other, 80)));
    }
}

TEST_CASE("overlaps: an IPv4 address in IPv6 clothes is that IPv4 address") {
    // Java servers listen so: [::ffff:127.0.0.1]:80 gets what is meant for 127.0.0.1:80.
    for (const char* same : {"127.0.0.1", "0.0.0.0", "::"}) {
        INFO(std::string(same));
        CHECK(overlaps(at("::ffff:127.0.0.1"), at(same)));
        CHECK(overlaps(at(same), at("::ffff:127.0.0.1")));
    }
    CHECK_FALSE(overlaps(at("::ffff:127.0.0.1"), at("127.0.0.2")));
    CHECK_FALSE(overlaps(at("::ffff:127.0.0.1"), at("::1")));
}

TEST_CASE("ports: a port belongs to the cluster that locked it first") {
    Folder folder;
    PortOwnership web(folder.locks(), "web");
    PortOwnership api(folder.locks(), "api");
    REQUIRE(web.claim(at("127.0.0.1", 45001), nobody_is_ours));
    CHECK(web.owns(45001));
    auto refused = api.claim(at("127.0.0.1", 45001), nobody_is_ours);
    REQUIRE_FALSE(refused);
    CHECK_FALSE(api.owns(45001));
    CHECK(refused.error().port == 45001);
    CHECK(refused.error().pid == ::getpid());
    CHECK(refused.error().command == "drover run");
    CHECK(contains(refused.error().text, "45001"));
    CHECK(contains(refused.error().text, "\"web\""));
    CHECK(contains(refused.error().text, std::to_string(::getpid())));
    CHECK(contains(refused.error().text, "drover stop web"));
}

TEST_CASE("ports: other ports are free, and a port may be claimed again by its owner") {
    Folder folder;
    PortOwnership web(folder.locks(), "web");
    PortOwnership api(folder.locks(), "api");
    REQUIRE(web.claim(at("127.0.0.1", 45001), nobody_is_ours));
    CHECK(api.claim(at("127.0.0.1", 45002), nobody_is_ours));
    CHECK(web.claim(at("::1", 45001), nobody_is_ours));
    CHECK(files_in(folder.locks()).size() == 2);
    // The whole port is owned, not the address: a group's address may change with a reload.
    CHECK_FALSE(api.claim(at("127.0.0.9", 45001), nobody_is_ours));
}

TEST_CASE("ports: what is given up can be claimed, and nothing is left behind") {
    Folder folder;
    PortOwnership web(folder.locks(), "web");
    PortOwnership api(folder.locks(), "api");
    REQUIRE(web.claim(at("127.0.0.1", 45001), nobody_is_ours));
    REQUIRE(web.claim(at("127.0.0.1", 45003), nobody_is_ours));
    web.release();
    CHECK_FALSE(web.owns(45001));
    CHECK_FALSE(fs::exists(folder.locks()));
    CHECK(api.claim(at("127.0.0.1", 45001), nobody_is_ours));
    // And web's end leaves what is api's now alone.
    web.release();
    CHECK(files_in(folder.locks()).size() == 1);
    CHECK_FALSE(web.claim(at("127.0.0.1", 45001), nobody_is_ours));
}

TEST_CASE("ports: the end of the object gives its ports up") {
    Folder folder;
    {
        PortOwnership web(folder.locks(), "web");
        REQUIRE(web.claim(at("127.0.0.1", 45001), nobody_is_ours));
    }
    CHECK_FALSE(fs::exists(folder.locks()));
}

TEST_CASE("ports: a lock that a killed master left behind is nobody's") {
    Folder folder;
    PortOwnership other(folder.locks(), "other");
    REQUIRE(other.claim(at("127.0.0.1", 45002), nobody_is_ours));
    std::string stale;
    {
        PortOwnership killed(folder.locks(), "killed");
        REQUIRE(killed.claim(at("127.0.0.1", 45001), nobody_is_ours));
        for (const auto& name : files_in(folder.locks()))
            if (name.ends_with("45001")) stale = folder.locks() + "/" + name;
    }
    std::ofstream(stale) << "4194303 killed";
    SUBCASE("it does not stop anybody") {
        PortOwnership web(folder.locks(), "web");
        CHECK(web.claim(at("127.0.0.1", 45001), nobody_is_ours));
        std::stringstream content;
        content << std::ifstream(stale).rdbuf();
        CHECK(content.str() == fmt::format("{} web", ::getpid()));
    }
    SUBCASE("it can be removed, without touching those that are held") {
        remove_stale_locks(folder.locks());
        CHECK_FALSE(fs::exists(stale));
        CHECK(files_in(folder.locks()).size() == 1);
        PortOwnership web(folder.locks(), "web");
        CHECK_FALSE(web.claim(at("127.0.0.1", 45002), nobody_is_ours));
    }
}

TEST_CASE("ports: where the lock cannot be made the claim is refused with the reason") {
    Folder folder;
    std::ofstream(folder.path() + "/file") << "";
    PortOwnership web(folder.path() + "/file/ports", "web");
    auto refused = web.claim(at("127.0.0.1", 45001), nobody_is_ours);
    REQUIRE_FALSE(refused);
    CHECK(contains(refused.error().text, "45001"));
    CHECK(contains(refused.error().text, folder.path()));
}

TEST_CASE("ports: a folder that cannot be made is an error, not an endless attempt") {
    // In a child, because it would not come back. /proc takes no new folders, not even root's.
    int pid = ::fork();
    if (pid == 0) {
        ::alarm(3);
        PortOwnership web("/proc/drover-unit/ports", "web");
        ::_exit(web.claim(at("127.0.0.1", 45001), nobody_is_ours) ? 1 : 0);
    }
    int status = 0;
    REQUIRE(::waitpid(pid, &status, 0) == pid);
    CHECK_MESSAGE(WIFEXITED(status), "it was still trying after 3 s");
    if (WIFEXITED(status)) CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("ports: a foreign listener is named by port, pid and command, and the lock is given up") {
    Network network;
    if (!network.is_usable()) return;
    Folder folder;
    Stranger stranger(listen_on(at("127.0.0.1", 8080)));
    PortOwnership web(folder.locks(), "web");
    for (const char* address : {"127.0.0.1", "0.0.0.0", "::"}) {
        INFO(std::string(address));
        auto refused = web.claim(at(address, 8080), nobody_is_ours);
        REQUIRE_FALSE(refused);
        CHECK(refused.error().port == 8080);
        CHECK(refused.error().pid == stranger.pid());
        CHECK(refused.error().command == "sleep 1234");
        CHECK(contains(refused.error().text, "port 8080"));
        CHECK(contains(refused.error().text, fmt::format("pid {}", stranger.pid())));
        CHECK(contains(refused.error().text, "\"sleep 1234\""));
        CHECK(contains(refused.error().text, "127.0.0.1:8080"));
        CHECK_FALSE(web.owns(8080));
        CHECK(files_in(folder.locks()).empty());
    }
    CHECK(web.claim(at("127.0.0.2", 8080), nobody_is_ours));  // not its address
    CHECK(web.claim(at("127.0.0.1", 8081), nobody_is_ours));  // not its port
}

TEST_CASE("ports: a foreign listener that comes later does not take an owned port's lock away") {
    Network network;
    if (!network.is_usable()) return;
    Folder folder;
    PortOwnership web(folder.locks(), "web");
    REQUIRE(web.claim(at("127.0.0.1", 8080), nobody_is_ours));
    Stranger stranger(listen_on(at("127.0.0.2", 8080)));
    CHECK_FALSE(web.claim(at("127.0.0.2", 8080), nobody_is_ours));
    CHECK(web.owns(8080));
    PortOwnership api(folder.locks(), "api");
    CHECK_FALSE(api.claim(at("127.0.0.1", 8080), nobody_is_ours));
}

TEST_CASE("ports: the cluster's own listeners do not count against it") {
    Network network;
    if (!network.is_usable()) return;
    Folder folder;
    Fd own = listen_on(at("127.0.0.1", 8080));
    PortOwnership web(folder.locks(), "web");
    int asked = 0;
    CHECK(web.claim(at("0.0.0.0", 8080), [&asked](uint64_t) {
        asked++;
        return true;
    }));
    CHECK(asked == 1);
    CHECK(web.owns(8080));
}

TEST_CASE("ports: a v6-only listener takes no IPv4 connections, a dual-stack one does") {
    Network network;
    if (!network.is_usable()) return;
    Folder folder;
    PortOwnership web(folder.locks(), "web");
    {
        Stranger stranger(listen_on(at("::", 8080), true));
        CHECK(web.claim(at("0.0.0.0", 8080), nobody_is_ours));
        CHECK_FALSE(web.claim(at("::", 8080), nobody_is_ours));
        CHECK_FALSE(web.claim(at("::1", 8080), nobody_is_ours));
    }
    web.release();
    Stranger stranger(listen_on(at("::", 8080), false));
    auto refused = web.claim(at("0.0.0.0", 8080), nobody_is_ours);
    REQUIRE_FALSE(refused);
    CHECK(contains(refused.error().text, "[::]:8080"));
}

TEST_CASE("ports: the same port in another network namespace is another port") {
    Folder folder;
    PortOwnership here(folder.locks(), "here");
    REQUIRE(here.claim(at("127.0.0.1", 45001), nobody_is_ours));
    Network network;
    if (!network.is_usable()) return;
    PortOwnership there(folder.locks(), "there");
    CHECK(there.claim(at("127.0.0.1", 45001), nobody_is_ours));
    CHECK(files_in(folder.locks()).size() == 2);
}

TEST_CASE("endpoint: text and key are the same address") {
    struct Row {
        const char* address;
        const char* text;
        int family;
    };
    for (const Row& row : {Row{"0.0.0.0", "0.0.0.0:80", AF_INET},
                           {"::1", "[::1]:80", AF_INET6},
                           {"2001:db8::5", "[2001:db8::5]:80", AF_INET6}}) {
        Endpoint endpoint = at(row.address);
        CHECK(endpoint.family() == row.family);
        CHECK(endpoint.port() == 80);
        CHECK(endpoint.address() == row.address);
        CHECK(endpoint.text() == row.text);
    }
    CHECK_FALSE(Endpoint::parse("localhost", 80));
    CHECK_FALSE(Endpoint::parse("", 80));
    CHECK(at("127.0.0.1").key.addr[1] == 0);
}
