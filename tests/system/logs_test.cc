// SPDX-License-Identifier: MIT
//
// What the workers print: where it is kept, how it is read, and that nobody's printing disturbs
// anybody else.
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <regex>
#include <sstream>

#include "harness.h"
#include "http.h"
#include "mounted.h"
#include "nobody.h"

namespace drover::test {

namespace {

namespace fs = std::filesystem;
using Shares = std::map<int, int>;

Words shell(const std::string& script) {
    return {"/bin/sh", "-c", script};
}

// Numbers each line that it prints, with its ID in front.
const std::string kCounting =
    "i=0; while :; do for _ in 1 2 3 4; do i=$((i+1)); echo \"$DROVER_WORKER_ID-$i\"; done; "
    "sleep 0.02; done";

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return lines;
}

// The last number that the worker printed into these lines, where they are all there, in order,
// once each; -1 where not.
int counted(const std::vector<std::string>& lines, int worker) {
    int last = 0;
    auto mark = fmt::format(" {}-", worker);
    for (const auto& line : lines) {
        auto at = line.rfind(mark);
        if (at == std::string::npos) continue;
        if (std::atoi(line.c_str() + at + mark.size()) != last + 1) {
            std::printf("after %d comes: %s\n", last, line.c_str());
            return -1;
        }
        last++;
    }
    return last;
}

// The log file with its rotated ones, the oldest first.
std::vector<std::string> whole_log(const std::string& path) {
    std::string text;
    for (int n = 1000; n > 0; n--)
        if (auto rotated = fmt::format("{}.{}", path, n); fs::exists(rotated))
            text += read_file(rotated);
    return lines_of(text + read_file(path));
}

std::string logs(Sandbox& sandbox, Words arguments = {}) {
    arguments.insert(arguments.begin(), {"logs", "web"});
    return sandbox.drover(arguments).out;
}

bool logs_have(Sandbox& sandbox, const std::string& text, const Words& arguments = {}) {
    return eventually([&] { return contains(logs(sandbox, arguments), text); });
}

}  // namespace

TEST_SUITE_BEGIN("logs");

TEST_CASE("logs shows what was printed, also of a worker that is gone, and of a cluster that is") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--ready", "exec"},
                    shell("echo hello from $DROVER_INSTANCE; echo oops >&2; exec sleep 1000"));
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(logs_have(sandbox, " [web/0] hello from 0\n"));
    REQUIRE(logs_have(sandbox, " [web/1] oops\n"));
    CHECK(logs_have(sandbox, " drover: web: 2 workers are ready\n"));
    CHECK(cluster.status()["log"] == sandbox.log_folder() + "/web.log");

    auto of_one = logs(sandbox);
    auto only = sandbox.drover({"logs", "web/2"});
    CHECK(contains(only.out, "[web/1] hello from 1"));
    CHECK_FALSE(contains(only.out, "web/0"));
    CHECK_FALSE(contains(only.out, "ready"));
    CHECK(count_lines(logs(sandbox, {"-n", "3"})) == 3);
    CHECK(count_lines(logs(sandbox, {"--since", "1h"})) == count_lines(of_one));
    CHECK(logs(sandbox, {"--since", "2100-01-01T00:00:00Z"}).empty());
    bool has_err = false;
    for (const auto& line : lines_of(logs(sandbox, {"--json"}))) {
        Json json = Json::parse(line, nullptr, false);
        REQUIRE(json.is_object());
        CHECK(json["v"] == 1);
        CHECK(json["cluster"] == "web");
        has_err |= json["worker"] == Json({{"id", 2}, {"instance", 1}}) &&
                   json["stream"] == "err" && json["text"] == "oops";
    }
    CHECK(has_err);

    // The same on the terminal of `run`, as it always was.
    CHECK(contains(cluster.master().out(), "[web/0] hello from 0\n"));
    CHECK(contains(cluster.master().err(), "[web/1] oops\n"));

    REQUIRE(::kill(cluster.pid_of(0), SIGKILL) == 0);
    REQUIRE(eventually([&] { return cluster.worker(0)["id"] == 3; }));
    CHECK(logs_have(sandbox, "worker 1 (pid"));  // "… ended by itself"
    CHECK(contains(sandbox.drover({"logs", "web/1"}).out, "[web/0] hello from 0"));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");

    CHECK(contains(logs(sandbox), "[web/0] hello from 0"));
    CHECK(contains(sandbox.drover({"logs"}).out, "[web/0] hello from 0"));  // the only one
    auto unknown = sandbox.drover({"logs", "other"});
    CHECK(unknown.status == 1);
    CHECK(unknown.err ==
          "drover: no cluster other runs here, and none has left a log (there are logs of: web)\n");
    struct stat info {};
    REQUIRE(::stat((sandbox.log_folder() + "/web.log").c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == 0640);
    CHECK(info.st_uid == 0);
}

TEST_CASE("without a log file logs says so; another file is found, too") {
    Sandbox sandbox;
    auto command = shell("echo hello; exec sleep 1000");
    Cluster none(sandbox, "none", {"-n", "1", "--ready", "exec", "--log-file", "none"}, command);
    auto file = sandbox.path("mine.log");
    Cluster mine(sandbox, "mine", {"-n", "1", "--ready", "exec", "--log-file", file}, command);
    REQUIRE(none.wait_ready(1));
    REQUIRE(mine.wait_ready(1));
    auto nothing = sandbox.drover({"logs", "none"});
    CHECK(nothing.status == 1);
    CHECK(nothing.err == "drover: cluster none keeps no log: it runs with --log-file none\n");
    CHECK(eventually([&] {
        return contains(sandbox.drover({"logs", "mine"}).out, "[mine/0] hello");
    }));
    mine.master().send(SIGKILL);
    mine.master().wait();
    CHECK(contains(sandbox.drover({"logs", "mine"}).out, "[mine/0] hello"));
    CHECK(sandbox.drover({"stop", "mine"}).status == 0);
    CHECK(none.stop() == 0);
    CHECK(contains(read_file(file), " 0/1 out hello\n"));
    CHECK_FALSE(fs::exists(sandbox.log_folder()));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("logs -f shows each line once, in order, over many rotations") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "1", "--ready", "exec", "--log-size", "4K", "--log-keep", "1000"},
                    shell(kCounting));
    REQUIRE(cluster.wait_ready(1));
    Child follower = sandbox.start(
        {.command = {build_folder() + "/drover", "logs", "-f", "--since", "1h", "web/1"},
         .extra_environment = {},
         .identity = {},
         .cwd = {}});
    REQUIRE(eventually([&] { return counted(lines_of(follower.out()), 1) > 500; }));
    CHECK(fs::exists(sandbox.log_folder() + "/web.log.4"));
    CHECK(cluster.stop() == 0);
    CHECK(counted(whole_log(sandbox.log_folder() + "/web.log"), 1) > 500);
}

TEST_CASE("logrotate may rotate the log, in either way, without a word to drover") {
    auto logrotate = find_program("logrotate");
    if (!logrotate) return;
    Sandbox sandbox;
    auto file = sandbox.log_folder() + "/web.log";
    Cluster cluster(sandbox, "web", {"-n", "1", "--ready", "exec"}, shell(kCounting));
    REQUIRE(cluster.wait_ready(1));
    auto rotate = [&](const std::string& how) {
        REQUIRE(eventually([&] { return count_lines(read_file(file)) > 20; }));
        write_file(sandbox.path("conf"), fmt::format("{} {{\n  rotate 9\n  {}\n}}\n", file, how));
        auto outcome = sandbox.run(
            {.command = {*logrotate, "-f", "-s", sandbox.path("state"), sandbox.path("conf")},
             .extra_environment = {},
             .identity = {},
             .cwd = {}});
        INFO(outcome.err);
        REQUIRE(outcome.status == 0);
        CHECK(eventually([&] { return contains(read_file(file), " 0/1 out "); }));
    };
    rotate("create 0640 root root");
    rotate("nocreate");
    CHECK(counted(whole_log(file), 1) > 40);
    rotate("copytruncate");
    CHECK(fs::exists(file + ".3"));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a worker that prints as fast as it can slows neither the others nor the steering") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "3", "--policy", "round-robin"},
                    shell("if [ $DROVER_INSTANCE = 0 ]; then yes & fi; "
                          "if [ $DROVER_INSTANCE = 1 ]; then (" +
                          kCounting + ") & fi; exec " + hello_path() + " --port 8080"));
    REQUIRE(cluster.wait_ready(3));
    REQUIRE(eventually([&] { return cluster.worker(0)["log_dropped_total"] > 0; }));
    auto since = counted(lines_of(cluster.master().out()), 2);
    auto begin = Clock::now();
    CHECK(spread("127.0.0.1", 8080, 300) == Shares{{0, 100}, {1, 100}, {2, 100}});
    CHECK(Clock::now() - begin < slowness() * seconds(5));
    CHECK(eventually([&] { return counted(lines_of(cluster.master().out()), 2) > since + 100; }));
    CHECK(logs_have(sandbox, " were dropped: it printed more than 10000 in 1s\n", {"-n", "40000"}));
    CHECK(cluster.worker(1)["log_dropped_total"] == 0);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
    // No line is in the middle of another one.
    static const std::regex kWhole(R"(\[web/[0-2]\] (y|2-[0-9]+|listening on .* port 8080))");
    int strange = 0;
    for (const auto& line : lines_of(cluster.master().out()))
        strange += std::regex_match(line, kWhole) ? 0 : 1;
    CHECK(strange == 0);
    CHECK(counted(whole_log(sandbox.log_folder() + "/web.log"), 2) > since + 100);
}

TEST_CASE("after a take-over two loggers write to one log and rotate it, and lose nothing") {
    Sandbox sandbox;
    auto file = sandbox.log_folder() + "/web.log";
    Words options = {"-n", "2",          "--ready", "exec",       "--log-size",
                     "4K", "--log-keep", "1000",    "--log-rate", "none"};
    Cluster first(sandbox, "web", options, shell(kCounting));
    REQUIRE(first.wait_ready(2));
    REQUIRE(eventually([&] { return counted(whole_log(file), 2) > 50; }));
    first.master().send(SIGKILL);
    REQUIRE(first.master().wait() == 128 + SIGKILL);
    Cluster second(sandbox, "web", options, shell(kCounting));
    REQUIRE(second.wait_ready(2));
    REQUIRE(second.drover({"restart", "web/2"}).status == 0);  // 3 prints to the new logger
    REQUIRE(eventually([&] { return contains(read_file(file), " 1/3 out "); }));
    auto before = counted(whole_log(file), 1);
    REQUIRE(before > 0);
    REQUIRE(eventually([&] {
        return counted(whole_log(file), 1) > before + 200 && counted(whole_log(file), 3) > 200;
    }));
    CHECK(second.stop() == 0);
    auto lines = whole_log(file);
    for (int worker : {1, 2, 3}) CHECK(counted(lines, worker) > 50);
    CHECK(std::ranges::any_of(lines, [](const auto& line) {
        return contains(line, " - drover web: took over 2 workers");
    }));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("after an upgrade the old and the new workers print to the same log") {
    Sandbox sandbox;
    auto file = sandbox.log_folder() + "/web.log";
    Cluster cluster(sandbox, "web", {"-n", "2", "--ready", "exec"}, shell(kCounting));
    REQUIRE(cluster.wait_ready(2));
    auto upgraded = cluster.drover({"upgrade", "web"});
    INFO(upgraded.err);
    REQUIRE(upgraded.status == 0);
    REQUIRE(cluster.drover({"restart", "web/2"}).status == 0);
    auto before = counted(whole_log(file), 1);
    CHECK(eventually([&] {
        auto lines = whole_log(file);
        return counted(lines, 1) > before + 20 && counted(lines, 3) > 20;
    }));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a full disk costs lines, which are counted, and nothing else") {
    Sandbox sandbox;
    Mounted small(sandbox.log_folder(), "size=256k");
    auto file = sandbox.log_folder() + "/web.log";
    Cluster cluster(sandbox, "web", {"-n", "1", "--ready", "exec"}, shell(kCounting));
    REQUIRE(cluster.wait_ready(1));
    REQUIRE(eventually([&] { return counted(whole_log(file), 1) > 10; }));
    auto logger = read_file(sandbox.cgroup() + "/web/logger/cgroup.procs");
    small.fill();
    REQUIRE(eventually([&] { return contains(cluster.master().err(), "No space left"); }));
    // It prints on, and is heard elsewhere.
    auto heard = counted(lines_of(cluster.master().out()), 1);
    CHECK(eventually([&] { return counted(lines_of(cluster.master().out()), 1) > heard + 50; }));
    small.make_room();
    CHECK(logs_have(sandbox, " lines are missing here: this file could not be written\n"));
    CHECK(logs_have(sandbox, fmt::format("[web/0] 1-{}\n", heard + 100), {"--since", "1h"}));
    CHECK(read_file(sandbox.cgroup() + "/web/logger/cgroup.procs") == logger);
    CHECK(count_lines(cluster.master().err()) < 10);  // told once
    CHECK(cluster.stop() == 0);
}

TEST_CASE("what cannot be written to begin with is told, and the cluster runs all the same") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "1", "--ready", "exec", "--log-file", "/proc/no/web.log"},
                    shell("echo hello; exec sleep 1000"));
    REQUIRE(cluster.wait_ready(1));
    CHECK(eventually([&] {
        return contains(cluster.master().err(),
                        "drover: warning: /proc/no/web.log cannot be written, so lines are missing "
                        "there: No such file or directory\n");
    }));
    CHECK(contains(cluster.master().out(), "[web/0] hello\n"));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("who may not read logs is told so, and what to do") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1", "--ready", "exec"},
                    shell("echo hello; exec sleep 1000"));
    REQUIRE(cluster.wait_ready(1));
    CHECK(cluster.stop() == 0);
    CHECK(contains(sandbox.drover({"logs", "web"}).out, "[web/0] hello"));
    for (const Words& words : {Words{"logs", "web"}, Words{"logs"}}) {
        auto outcome = drover_as_nobody(sandbox, words);
        CHECK(outcome.status == 1);
        CHECK(outcome.err == fmt::format("drover: there is no log that you may read: those in {} "
                                         "and in the journal are root's alone: run it with sudo\n",
                                         sandbox.log_folder()));
    }
}

TEST_CASE("bad options of logs are told in one sentence each") {
    Sandbox sandbox;
    for (const Words& words : {Words{"logs", "web", "-n", "many"}, Words{"logs", "--since", "noon"},
                               Words{"logs", "web/x"}, Words{"logs", "web", "more"},
                               Words{"run", "--log-file", "web.log", "--", "true"},
                               Words{"run", "--log-rate", "fast", "--", "true"}}) {
        auto outcome = sandbox.drover(words);
        CHECK(outcome.status == 2);
        CHECK(count_lines(outcome.err) == 1);
    }
    auto nothing = sandbox.drover({"logs"});
    CHECK(nothing.status == 1);
    CHECK(nothing.err == "drover: no cluster runs here: \"drover run -- CMD\" starts one\n");
}

}  // namespace drover::test
