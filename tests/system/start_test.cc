// SPDX-License-Identifier: MIT
//
// `drover start`: the same as `run`, in the background.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>

#include "harness.h"
#include "http.h"

namespace drover::test {

namespace {

const Words kWeb = {"start", "--name", "web", "-n", "2", "--port", "8080"};

Words web(const Words& more) {
    Words words = kWeb;
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

Json status_of(Sandbox& sandbox) {
    Json json = Json::parse(sandbox.drover({"status", "web", "--json"}).out, nullptr, false);
    return json.is_discarded() ? Json() : json;
}

// A zombie is gone, too: whose child it is is not ours to say.
bool is_gone(pid_t pid) {
    auto stat = read_file(fmt::format("/proc/{}/stat", pid));
    auto bracket = stat.rfind(')');
    return bracket == std::string::npos || stat.compare(bracket + 2, 1, "Z") == 0;
}

std::string log_of(Sandbox& sandbox) {
    return read_file(sandbox.log_folder() + "/web.log");
}

}  // namespace

TEST_SUITE_BEGIN("start");

TEST_CASE("start returns when the workers are ready, and the master has nothing of the starter") {
    Sandbox sandbox;
    auto start = sandbox.drover(web({"--", hello_path()}));
    INFO(start.err);
    REQUIRE(start.status == 0);
    CHECK(start.out == "drover: web: 2 workers are ready on 0.0.0.0:8080\n");
    // At once, without waiting.
    CHECK(get("127.0.0.1", 8080).ok());
    Json status = status_of(sandbox);
    REQUIRE(status.is_object());
    CHECK(status["ready"] == 2);
    auto pid = status["pid"].get<pid_t>();
    CHECK(::getsid(pid) == pid);
    std::string fds = fmt::format("/proc/{}/fd/", pid);
    CHECK(std::filesystem::read_symlink(fds + "0") == "/dev/null");
    CHECK(eventually([&] { return std::filesystem::read_symlink(fds + "1") == "/dev/null"; }));
    CHECK(eventually([&] { return std::filesystem::read_symlink(fds + "2") == "/dev/null"; }));
    CHECK(eventually([&] { return contains(log_of(sandbox), "2 workers are ready"); }));
    auto perms = std::filesystem::status(sandbox.log_folder()).permissions();
    CHECK((static_cast<unsigned>(perms) & 0777U) == 0750);
    auto again = sandbox.drover(web({"--", hello_path()}));
    CHECK(again.status == 1);
    CHECK(contains(again.err, "runs already"));
    CHECK(get("127.0.0.1", 8080).ok());
    CHECK(sandbox.drover({"stop", "web"}).status == 0);
    CHECK(eventually([&] { return is_gone(pid); }));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a start that fails says why, with what was printed, and leaves nothing") {
    Sandbox sandbox;
    auto none = sandbox.drover(web({"--", "nosuchcmd"}));
    CHECK(none.status == 1);
    CHECK(contains(none.err, "nosuchcmd"));
    CHECK(sandbox.leftovers() == "");
    auto crash = sandbox.drover(
        web({"--max-restarts", "1/60s", "--", "/bin/sh", "-c", "echo no database; exit 3"}));
    CHECK(crash.status == 1);
    INFO(crash.err);
    CHECK(contains(crash.err, "no database"));
    CHECK(contains(crash.err, "exit status 3"));
    CHECK(sandbox.leftovers() == "");
    auto user = sandbox.drover(web({"--user", "nosuchuser", "--", hello_path()}));
    CHECK(user.status == 2);
    CHECK(contains(user.err, "nosuchuser"));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("where one worker is given up before all are ready, the others are stopped, too") {
    Sandbox sandbox;
    auto start = sandbox.drover(
        web({"--max-restarts", "1/60s", "--", "/bin/sh", "-c",
             fmt::format("[ $DROVER_INSTANCE = 0 ] || exit 3; exec {}", hello_path())}));
    CHECK(start.status == 1);
    INFO(start.err);
    CHECK(contains(start.err, "given up"));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a start that is interrupted leaves nothing") {
    Sandbox sandbox;
    Words command = web({"--ready", "message", "--", hello_path()});
    command.insert(command.begin(), build_folder() + "/drover");
    Child starter =
        sandbox.start({.command = command, .extra_environment = {}, .identity = {}, .cwd = {}});
    REQUIRE(eventually([&] {
        Json status = status_of(sandbox);
        return status.is_object() && status["workers"].size() == 2;
    }));
    CHECK(starter.runs());
    starter.send(SIGINT);
    CHECK(starter.wait() == 128 + SIGINT);
    CHECK(eventually([&] { return status_of(sandbox).is_null(); }));
    CHECK(eventually([&] { return contains(log_of(sandbox), "interrupted"); }));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("start takes the workers of a killed master over") {
    Sandbox sandbox;
    REQUIRE(sandbox.drover(web({"--", hello_path()})).status == 0);
    Json before = status_of(sandbox);
    REQUIRE(::kill(before["pid"].get<pid_t>(), SIGKILL) == 0);
    REQUIRE(eventually([&] { return is_gone(before["pid"].get<pid_t>()); }));
    auto start = sandbox.drover(web({"--", hello_path()}));
    INFO(start.err);
    REQUIRE(start.status == 0);
    CHECK(contains(start.out, "took over 2 workers"));
    Json after = status_of(sandbox);
    REQUIRE(after.is_object());
    CHECK(after["pid"] != before["pid"]);
    for (int i : {0, 1}) CHECK(after["workers"][i]["pid"] == before["workers"][i]["pid"]);
    CHECK(sandbox.drover({"stop", "web"}).status == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
