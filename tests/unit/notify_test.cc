// SPDX-License-Identifier: MIT
//
// sd_notify: the parser on its own, then the socket with real senders. Who the sender is counts by
// its cgroup; where there is no cgroup to be made, the test's own stands for a worker's.
#include "worker/notify.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "base/cgroup.h"
#include "base/sys.h"
#include "worker/spawn.h"

using namespace drover;
using namespace drover::worker;
using namespace std::chrono_literals;
using namespace std::string_literals;

namespace {

class Told final : public NotifyObserver {
  public:
    std::vector<std::string> calls;

    void on_notify_ready(uint64_t worker) override { note("ready", worker); }
    void on_notify_stopping(uint64_t worker) override { note("stopping", worker); }
    void on_notify_status(uint64_t worker, const std::string& text) override {
        note("status", worker, text);
    }
    void on_notify_watchdog(uint64_t worker) override { note("watchdog", worker); }
    void on_notify_watchdog_interval(uint64_t worker, std::chrono::microseconds wish) override {
        note("interval", worker, std::to_string(wish.count()));
    }

  private:
    void note(const char* what, uint64_t worker, const std::string& text = "") {
        calls.push_back(fmt::format("{} {}{}{}", what, worker, text.empty() ? "" : " ", text));
    }
};

// What a process does that notifies. -1 where the socket takes no more at once.
ssize_t notify(const std::string& address, std::string_view datagram, int fd_along = -1) {
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::memcpy(name.sun_path, address.data(), address.size());
    name.sun_path[0] = '\0';
    Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    iovec buffer{const_cast<char*>(datagram.data()), datagram.size()};
    msghdr message{};
    message.msg_name = &name;
    message.msg_namelen = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address.size());
    message.msg_iov = &buffer;
    message.msg_iovlen = 1;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    if (fd_along >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        cmsghdr* part = CMSG_FIRSTHDR(&message);
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(sizeof(int));
        std::memcpy(CMSG_DATA(part), &fd_along, sizeof(fd_along));
    }
    return ::sendmsg(socket.get(), &message, MSG_DONTWAIT);
}

struct Fixture {
    EventLoop loop = std::move(*EventLoop::open());
    Told told;
    std::vector<std::string> asked_for;  // the cgroups that were looked up
    std::optional<uint64_t> answer = 7;
    std::unique_ptr<NotifySocket> socket = [this] {
        auto find = [this](const std::string& cgroup) {
            asked_for.push_back(cgroup);
            return answer;
        };
        return std::move(*NotifySocket::open(loop, *NotifySocket::make_address("web"), find, told));
    }();

    // Serves all that has arrived.
    void serve() {
        for (size_t before = 0;;) {
            loop.run_once(0us);
            auto now = asked_for.size() + socket->gone_total();
            if (now == before) return;
            before = now;
        }
    }

    template <class Condition>
    bool until(Condition condition) {
        auto deadline = std::chrono::steady_clock::now() + 10s;
        while (!condition()) {
            if (std::chrono::steady_clock::now() > deadline) return false;
            loop.run_once(5ms);
        }
        return true;
    }
};

size_t open_fds() {
    namespace fs = std::filesystem;
    return static_cast<size_t>(std::distance(fs::directory_iterator("/proc/self/fd"), {}));
}

Notification parsed(std::string_view datagram) {
    auto notification = parse_notification(datagram);
    REQUIRE(notification);
    return *notification;
}

std::string status(std::string_view text) {
    return parsed(fmt::format("STATUS={}", text)).status.value_or("none");
}

std::vector<std::string> calls(std::initializer_list<std::string> list) {
    return list;
}

}  // namespace

// --- The parser --------------------------------------------------------------------------------

TEST_CASE("a notification is understood, line by line") {
    auto all = parsed("READY=1\nSTATUS=up and running\nWATCHDOG=1\nWATCHDOG_USEC=2500000\n");
    CHECK(all.is_ready);
    CHECK(all.is_alive);
    CHECK_FALSE(all.is_stopping);
    CHECK(all.status == "up and running");
    CHECK(all.watchdog_interval == 2500ms);
    CHECK(parsed("STOPPING=1").is_stopping);
    CHECK(parsed("READY=1\0"s).is_ready);
}

TEST_CASE("what a notification says beside that is passed over") {
    for (auto datagram :
         {"", "\n\n", "READY", "=", "=1", "READY=0", "READY=11", "ready=1", " READY=1", "READY=1\r",
          "MAINPID=1", "FDSTORE=1", "X_READY=1", "WATCHDOG=trigger", "WATCHDOG_USEC=0",
          "WATCHDOG_USEC=-1", "WATCHDOG_USEC=1s", "WATCHDOG_USEC=99999999999999999999"}) {
        CAPTURE(datagram);
        CHECK(parsed(datagram) == Notification{});
    }
    CHECK(parsed("MAINPID=1\nREADY=1").is_ready);
}

TEST_CASE("of a status that stands there twice the first counts") {
    CHECK(parsed("STATUS=a\nSTATUS=b").status == "a");
    CHECK(parsed("STATUS=\nSTATUS=b").status == "");
}

TEST_CASE("a notification that is too long or has a NUL byte is refused") {
    std::string longest = "STATUS=" + std::string(kMaxNotification - 7, 'x');
    CHECK(parse_notification(longest));
    auto oversized = parse_notification(longest + "x");
    REQUIRE_FALSE(oversized);
    CHECK(oversized.error().code == "oversized");
    auto malformed = parse_notification("READY=1\0\n"s);
    REQUIRE_FALSE(malformed);
    CHECK(malformed.error().code == "malformed");
}

TEST_CASE("a status is cut between characters") {
    CHECK(status(std::string(300, 'x')) == std::string(200, 'x'));
    CHECK(status(std::string(199, 'x') + "\u00e9") == std::string(199, 'x'));
    CHECK(status(std::string(198, 'x') + "\u00e9") == std::string(198, 'x') + "\u00e9");
    CHECK(status(std::string(197, 'x') + "\xF0\x9F\x98\x80") == std::string(197, 'x'));
}

TEST_CASE("a status is made valid UTF-8") {
    const std::string bad = "\uFFFD";
    CHECK(status("gr\u00fcn \U0001F600") == "gr\u00fcn \U0001F600");
    CHECK(status("a\xFFz") == "a" + bad + "z");
    CHECK(status("\xC3") == bad);                                // cut short
    CHECK(status("\xC0\x80") == bad + bad);                      // overlong
    CHECK(status("\xED\xA0\x80") == bad + bad + bad);            // a surrogate
    CHECK(status("\xF4\x90\x80\x80") == bad + bad + bad + bad);  // past U+10FFFF
    CHECK(status("\xE2\x82z") == bad + bad + "z");
    CHECK(status(std::string(100, '\xFF')).size() == 198);
}

TEST_CASE("the line of cgroup v2 is found beside those of v1") {
    CHECK(unified_cgroup("0::/drover/web/w7\n") == "/drover/web/w7");
    CHECK(unified_cgroup("9:name=systemd:/\n1:cpu:/a::b\n0::/drover/web/w7\n") == "/drover/web/w7");
    CHECK(unified_cgroup("0::/a:b\n") == "/a:b");
    CHECK(unified_cgroup("1:cpu:/\n") == std::nullopt);
    CHECK(unified_cgroup("") == std::nullopt);
}

// --- The socket --------------------------------------------------------------------------------

TEST_CASE("a worker's notifications are told, the status before the readiness") {
    Fixture f;
    CHECK(f.socket->address().rfind("@drover/web/", 0) == 0);
    REQUIRE(notify(f.socket->address(), "READY=1\nSTATUS=warm\nWATCHDOG_USEC=5") > 0);
    REQUIRE(notify(f.socket->address(), "WATCHDOG=1\nWHATEVER=1") > 0);
    REQUIRE(notify(f.socket->address(), "STOPPING=1") > 0);
    f.serve();
    CHECK(f.told.calls ==
          calls({"status 7 warm", "interval 7 5", "ready 7", "watchdog 7", "stopping 7"}));
    std::ifstream file("/proc/self/cgroup");
    std::string content{std::istreambuf_iterator<char>(file), {}};
    CHECK(f.asked_for.front() == unified_cgroup(content));
}

TEST_CASE("a notification of no worker is counted and ignored") {
    Fixture f;
    f.answer = std::nullopt;
    notify(f.socket->address(), "READY=1");
    notify(f.socket->address(), std::string(5000, 'x'));
    f.serve();
    CHECK(f.told.calls.empty());
    CHECK(f.socket->foreign_total() == 2);
    CHECK(f.socket->malformed_total() == 0);
}

TEST_CASE("a worker's notification that is not understood is counted") {
    Fixture f;
    notify(f.socket->address(), "READY=1\n" + std::string(kMaxNotification - 7, 'x'));
    notify(f.socket->address(), "READY=1\0\n"s);
    notify(f.socket->address(), "");
    f.serve();
    CHECK(f.told.calls.empty());
    CHECK(f.socket->malformed_total() == 2);
}

TEST_CASE("a sender that is gone is no worker") {
    Fixture f;
    int child = ::fork();
    if (child == 0) {
        notify(f.socket->address(), "READY=1");
        ::_exit(0);
    }
    REQUIRE(::waitpid(child, nullptr, 0) == child);
    f.serve();
    CHECK(f.told.calls.empty());
    CHECK(f.asked_for.empty());
    CHECK(f.socket->gone_total() == 1);
}

TEST_CASE("a descriptor that comes along is closed") {
    Fixture f;
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    Fd read_end(ends[0]);
    Fd write_end(ends[1]);
    auto before = open_fds();
    REQUIRE(notify(f.socket->address(), "READY=1\nFDSTORE=1", write_end.get()) > 0);
    f.serve();
    CHECK(f.told.calls == calls({"ready 7"}));
    CHECK(open_fds() == before);
    write_end.reset();
    pollfd poll{read_end.get(), POLLIN, 0};
    REQUIRE(::poll(&poll, 1, 0) == 1);
    CHECK((poll.revents & POLLHUP) != 0);
}

TEST_CASE("one turn takes a bounded number of notifications") {
    Fixture f;
    size_t sent = 0;
    while (sent < 3 * NotifySocket::kMaxPerTurn && notify(f.socket->address(), "WATCHDOG=1") > 0)
        ++sent;
    if (sent <= NotifySocket::kMaxPerTurn) {
        MESSAGE("skipped: net.unix.max_dgram_qlen is below what one turn takes");
        return;
    }
    f.loop.run_once(0us);
    CHECK(f.told.calls.size() == NotifySocket::kMaxPerTurn);
    f.serve();
    CHECK(f.told.calls.size() == sent);
}

TEST_CASE("an address that is taken, too long or a path is refused") {
    Fixture f;
    auto open = [&](const std::string& address) {
        return NotifySocket::open(
            f.loop, address, [](const auto&) { return std::nullopt; }, f.told);
    };
    auto taken = open(f.socket->address());
    REQUIRE_FALSE(taken);
    CHECK(taken.error().number == EADDRINUSE);
    CHECK_FALSE(open("@" + std::string(108, 'x')));
    CHECK(open("@drover-unit/" + std::string(95, 'x')));
    CHECK_FALSE(open("/tmp/notify"));
    CHECK_FALSE(open("@"));
    CHECK_FALSE(open(""));
}

TEST_CASE("a notification is attributed by the cgroup of its sender") {
    auto mount = Cgroup::mount_point();
    if (::geteuid() != 0 || !mount) {
        MESSAGE("skipped: needs root and a cgroup v2 that can be written");
        return;
    }
    auto path = fmt::format("{}/drover-unit-notify-{}", *mount, ::getpid());
    auto cgroup = Cgroup::create_anew(path);
    REQUIRE(cgroup);
    Fixture f;
    int pidfd = -1;
    bool is_late = sys::must_enter_late(cgroup->fd());
    int child = sys::fork_into_cgroup({cgroup->fd(), is_late}, &pidfd, 0);
    if (child == 0) {
        notify(f.socket->address(), "READY=1");
        while (true) ::pause();
    }
    Fd ends_it(pidfd);
    CHECK(f.until([&] { return !f.told.calls.empty(); }));
    REQUIRE(f.asked_for.size() == 1);
    auto suffix = path.substr(path.rfind('/'));
    CHECK(f.asked_for.front().substr(f.asked_for.front().rfind('/')) == suffix);
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    CHECK(cgroup->remove());
}

TEST_CASE("systemd-notify is understood, and does not wait in vain") {
    if (!std::filesystem::exists("/usr/bin/systemd-notify")) {
        MESSAGE("skipped: needs systemd-notify");
        return;
    }
    Fixture f;
    SpawnRequest request;
    request.command = {"/usr/bin/systemd-notify", "--ready", "--status=as they do"};
    request.environment = {"NOTIFY_SOCKET=" + f.socket->address()};
    auto process = spawn(request);
    REQUIRE(process);
    std::optional<Ended> ended;
    CHECK(f.until([&] { return (ended = reap(process->pidfd.get())).has_value(); }));
    REQUIRE(ended);
    CHECK(ended->code == 0);
    CHECK(f.told.calls == calls({"status 7 as they do", "ready 7"}));
}
