// SPDX-License-Identifier: MIT
//
// Cgroup with real folders and a real process in them. Needs root and cgroup v2; skips say so.
#include "base/cgroup.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>

#include "base/sys.h"

using namespace drover;
using namespace std::chrono_literals;

namespace {

// A folder below the mount point that is gone when the test is over, whatever happened.
class Place {
  public:
    Place() {
        auto mount = Cgroup::mount_point();
        if (::geteuid() != 0 || !mount) return;
        path_ = fmt::format("{}/drover-unit-{}", *mount, ::getpid());
        usable_ = Cgroup::create(path_).has_value();
    }
    ~Place() {
        auto left = Cgroup::open(path_);
        if (!left) return;
        left->kill();
        wait_until([&] { return !left->is_populated(); });
        [[maybe_unused]] auto removed = left->remove();
    }
    [[nodiscard]] bool is_usable() const {
        if (!usable_) MESSAGE("skipped: needs root and a cgroup v2 that can be written");
        return usable_;
    }
    [[nodiscard]] const std::string& path() const { return path_; }

    static bool wait_until(const std::function<bool()>& reached) {
        auto deadline = std::chrono::steady_clock::now() + 5s;
        while (!reached()) {
            if (std::chrono::steady_clock::now() > deadline) return false;
            ::poll(nullptr, 0, 1);  // the kernel gives no event for it to this process
        }
        return true;
    }

  private:
    std::string path_;
    bool usable_ = false;
};

// A child that waits for its end, born in the cgroup.
class Child {
  public:
    explicit Child(const Cgroup& cgroup) {
        int pidfd = -1;
        pid_ = sys::fork_into_cgroup({cgroup.fd()}, &pidfd, 0);
        if (pid_ == 0)
            while (true) ::pause();
        pidfd_.reset(pidfd);
    }
    ~Child() {
        if (pid_ <= 0 || reaped_) return;
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;

    [[nodiscard]] int pid() const { return pid_; }
    // The signal that ended it; 0 where it has not ended in time.
    int wait() {
        pollfd poll{pidfd_.get(), POLLIN, 0};
        if (::poll(&poll, 1, 5000) != 1) return 0;
        int status = 0;
        reaped_ = ::waitpid(pid_, &status, 0) == pid_;
        return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    }

  private:
    int pid_ = -1;
    Fd pidfd_;
    bool reaped_ = false;
};

}  // namespace

TEST_CASE("cgroup: where none is there, open says so by its number") {
    auto missing = Cgroup::open("/sys/fs/cgroup/drover-unit-no-such-cgroup");
    REQUIRE_FALSE(missing);
    CHECK(missing.error().number == ENOENT);
    CHECK(missing.error().code == "system");
    CHECK(missing.error().text.find("drover-unit-no-such-cgroup") != std::string::npos);
}

TEST_CASE("cgroup: a link in the place of the folder is not followed") {
    auto link = std::filesystem::temp_directory_path() / fmt::format("drover-unit-{}", ::getpid());
    std::filesystem::create_directory_symlink("/", link);
    auto opened = Cgroup::open(link);
    std::filesystem::remove(link);
    CHECK_FALSE(opened);
}

TEST_CASE("cgroup: the mount point is a cgroup2 file system") {
    auto mount = Cgroup::mount_point();
    if (!mount) {
        MESSAGE("skipped: ", mount.error().text);
        return;
    }
    CHECK(std::filesystem::exists(*mount + "/cgroup.procs"));
}

TEST_CASE("cgroup: created with its parents, opened again, the same one") {
    Place place;
    if (!place.is_usable()) return;
    auto made = Cgroup::create(place.path() + "/a/b");
    REQUIRE(made);
    CHECK(made->path() == place.path() + "/a/b");
    CHECK((::fcntl(made->fd(), F_GETFD) & FD_CLOEXEC) != 0);
    auto again = Cgroup::create(place.path() + "/a/b");
    REQUIRE(again);
    auto opened = Cgroup::open(place.path() + "/a/b");
    REQUIRE(opened);
    CHECK(opened->id() == made->id());
    CHECK(again->id() == made->id());
    auto parent = Cgroup::open(place.path() + "/a");
    REQUIRE(parent);
    CHECK(parent->id() != made->id());
    CHECK(parent->children() == std::vector<std::string>{"b"});
    CHECK(made->children().empty());
    CHECK(parent->ids() == std::vector<uint64_t>{parent->id(), made->id()});
    CHECK(made->ids() == std::vector<uint64_t>{made->id()});
}

TEST_CASE("cgroup: an empty one has no processes") {
    Place place;
    if (!place.is_usable()) return;
    auto cgroup = Cgroup::create(place.path() + "/w1");
    REQUIRE(cgroup);
    CHECK(cgroup->pids().empty());
    CHECK_FALSE(cgroup->is_populated());
    CHECK(cgroup->memory_bytes() == 0);
}

TEST_CASE("cgroup: a process in it is seen, from the cgroup above it too") {
    Place place;
    if (!place.is_usable()) return;
    auto parent = Cgroup::open(place.path());
    auto cgroup = Cgroup::create(place.path() + "/w1");
    REQUIRE(parent);
    REQUIRE(cgroup);
    Child child(*cgroup);
    REQUIRE(child.pid() > 0);
    CHECK(cgroup->pids() == std::vector<int>{child.pid()});
    CHECK(cgroup->is_populated());
    CHECK(parent->pids() == std::vector<int>{child.pid()});
    CHECK(parent->is_populated());
    CHECK(cgroup->memory_bytes() > 0);
}

TEST_CASE("cgroup: one that has a process cannot be removed") {
    Place place;
    if (!place.is_usable()) return;
    auto cgroup = Cgroup::create(place.path() + "/w1");
    REQUIRE(cgroup);
    Child child(*cgroup);
    REQUIRE(child.pid() > 0);
    auto removed = cgroup->remove();
    REQUIRE_FALSE(removed);
    CHECK(removed.error().number == EBUSY);
    CHECK(std::filesystem::exists(cgroup->path()));
}

TEST_CASE("cgroup: kill ends every process, those of its children too, and remove takes all away") {
    Place place;
    if (!place.is_usable()) return;
    auto parent = Cgroup::open(place.path());
    auto one = Cgroup::create(place.path() + "/w1");
    auto two = Cgroup::create(place.path() + "/w2/deep");
    REQUIRE(parent);
    REQUIRE(one);
    REQUIRE(two);
    Child first(*one);
    Child second(*two);
    REQUIRE(first.pid() > 0);
    REQUIRE(second.pid() > 0);
    parent->kill();
    CHECK(first.wait() == SIGKILL);
    CHECK(second.wait() == SIGKILL);
    CHECK(Place::wait_until([&] { return !parent->is_populated(); }));
    auto removed = parent->remove();
    CHECK_MESSAGE(removed, (removed ? "" : removed.error().text));
    CHECK_FALSE(std::filesystem::exists(place.path()));
}

TEST_CASE("cgroup: kill ends no process beside it") {
    Place place;
    if (!place.is_usable()) return;
    auto one = Cgroup::create(place.path() + "/w1");
    auto two = Cgroup::create(place.path() + "/w2");
    REQUIRE(one);
    REQUIRE(two);
    Child first(*one);
    Child second(*two);
    one->kill();
    CHECK(first.wait() == SIGKILL);
    CHECK(two->pids() == std::vector<int>{second.pid()});
}

TEST_CASE("cgroup: removing what is gone already is no error") {
    Place place;
    if (!place.is_usable()) return;
    auto cgroup = Cgroup::create(place.path() + "/w1");
    REQUIRE(cgroup);
    REQUIRE(cgroup->remove());
    CHECK(cgroup->remove());
}
