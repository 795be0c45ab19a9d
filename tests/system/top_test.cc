// SPDX-License-Identifier: MIT
//
// drover top, at a terminal: what it shows, what its keys do, and how it leaves.
#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <memory>
#include <sstream>

#include "harness.h"
#include "http.h"
#include "tmux.h"

namespace drover::test {

namespace {

std::string top(const std::string& cluster = "") {
    return build_folder() + "/drover top " + cluster;
}

// The words of a worker's row, from its pid on: PID STATE [FLAGS] UP LIVE QUEUED NEW/S CPU% MEM
// RESTARTS SPARK. Empty where it has none.
Words row_of(const std::string& screen, pid_t pid) {
    std::istringstream lines(screen);
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        Words row;
        for (std::string word; words >> word;)
            if (!row.empty() || word == std::to_string(pid)) row.push_back(word);
        if (row.size() >= 9) return row;
    }
    return {};
}

enum Column : size_t { kState = 1, kLive = 3, kQueued = 4, kRate = 5, kRestarts = 8, kSpark = 9 };

// Of a worker without flags.
std::string in_row(const std::string& screen, pid_t pid, Column column) {
    auto row = row_of(screen, pid);
    return column < row.size() ? row[column] : "";
}

std::vector<std::unique_ptr<Connection>> hold(int count) {
    std::vector<std::unique_ptr<Connection>> held;
    for (int i = 0; i < count; i++) {
        held.push_back(std::make_unique<Connection>("127.0.0.1", 8080));
        CHECK(held.back()->get("/").ok());
    }
    return held;
}

size_t longest_line(const std::string& text) {
    size_t longest = 0, length = 0;
    for (char c : text) {
        length = c == '\n' ? 0 : length + ((c & 0xc0) != 0x80 ? 1 : 0);
        longest = std::max(longest, length);
    }
    return longest;
}

}  // namespace

TEST_SUITE_BEGIN("top");

TEST_CASE("top at 80x24 shows each worker, and its connections as they come and go") {
    if (!find_program("tmux")) return;
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "3", "--policy", "round-robin"}, hello());
    REQUIRE(cluster.wait_ready(3));
    pid_t pids[] = {cluster.pid_of(0), cluster.pid_of(1), cluster.pid_of(2)};
    Tmux terminal(sandbox, 80, 24, top());
    REQUIRE(terminal.shows("q quit"));
    CHECK(terminal.shows("web  running  3 of 3 ready  round-robin"));
    CHECK(terminal.shows("tcp 0.0.0.0:8080: 3 active, 0 parked"));
    auto screen = terminal.screen();
    INFO(screen);
    CHECK(count_lines(screen) == 24);
    CHECK(longest_line(screen) <= 80);
    for (pid_t pid : pids) {
        CHECK(in_row(screen, pid, kState) == "ready");
        CHECK(in_row(screen, pid, kLive) == "0");
        CHECK(in_row(screen, pid, kRestarts) == "0");
    }
    {
        auto held = hold(6);
        for (pid_t pid : pids)
            CHECK(terminal.shows(
                [&](const std::string& now) { return in_row(now, pid, kLive) == "2"; }));
        CHECK(terminal.shows("total  live 6  queued 0"));
    }
    CHECK(terminal.shows("total  live 0  queued 0"));
    CHECK(terminal.shows("new/s 0  "));
    Load load("127.0.0.1", 8080, 60);
    CHECK(terminal.shows([&](const std::string& now) {
        auto row = row_of(now, pids[1]);
        return row.size() > kSpark && std::atof(row[kRate].c_str()) * slowness() >= 10 &&
               contains(row.back(), "▇") | contains(row.back(), "█");
    }));
    CHECK(load.stop().failed() == 0);
    terminal.type("q");
    CHECK(terminal.ended(0));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("top's keys drain, resume and restart the selected worker without waiting for it") {
    if (!find_program("tmux")) return;
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin"}, hello());
    REQUIRE(cluster.wait_ready(2));
    pid_t second = cluster.pid_of(1);
    Tmux terminal(sandbox, 80, 24, top("web"));
    REQUIRE(terminal.shows("q quit"));
    auto held = hold(2);
    REQUIRE(terminal.shows("total  live 2"));

    terminal.type("Down");
    REQUIRE(terminal.shows("\n>    1"));
    terminal.type("d");
    CHECK(terminal.shows("draining worker 2..."));
    CHECK(terminal.shows("ready held"));
    CHECK(cluster.worker(1)["flags"] == Json({"held"}));
    CHECK(cluster.worker(0)["flags"] == Json::array());
    // It waits for its connection, and the screen goes on.
    auto others = hold(3);
    CHECK(terminal.shows("total  live 5"));
    CHECK_FALSE(contains(terminal.screen(), "drained worker 2"));
    held.clear();
    CHECK(terminal.shows("drained worker 2: r gives it connections again"));
    terminal.type("r");
    CHECK(terminal.shows("resumed worker 2"));
    CHECK(terminal.shows([](const std::string& now) { return !contains(now, "ready held"); }));
    CHECK(cluster.worker(1)["flags"] == Json::array());
    terminal.type("r");
    CHECK(terminal.shows("resume worker 2: worker 2 is not held: nothing to resume"));
    others.clear();
    REQUIRE(terminal.shows("total  live 0"));

    terminal.type("R");
    CHECK(terminal.shows("restart worker 2? y/n"));
    terminal.type("n");
    CHECK(terminal.shows([](const std::string& now) { return !contains(now, "y/n"); }));
    CHECK(cluster.pid_of(1) == second);
    terminal.type("R");
    CHECK(terminal.shows("restart worker 2? y/n"));
    terminal.type("y");
    CHECK(terminal.shows("restarted worker 2"));
    pid_t successor = cluster.pid_of(1);
    CHECK(successor != second);
    // The selection has gone over to its successor.
    CHECK(terminal.shows("\n>    1   3"));
    // What is restarted by hand does not count as a restart; a crash does.
    REQUIRE(::kill(successor, SIGKILL) == 0);
    CHECK(terminal.shows("\n>    1   4"));
    CHECK(terminal.shows("; the one before it: killed by SIGKILL (crash)"));
    pid_t last = cluster.pid_of(1);
    CHECK(terminal.shows(
        [&](const std::string& now) { return in_row(now, last, kRestarts) == "1"; }));
    terminal.type("C-c");
    CHECK(terminal.ended(0));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("top's rescue gives what waits for a worker to another") {
    if (!find_program("tmux")) return;
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "2", "--policy", "round-robin", "--stall-after", "never"}, hello());
    REQUIRE(cluster.wait_ready(2));
    pid_t first = cluster.pid_of(0), second = cluster.pid_of(1);
    Tmux terminal(sandbox, 80, 24, top());
    REQUIRE(terminal.shows("q quit"));
    REQUIRE(stop_process(first));
    std::vector<std::unique_ptr<Connection>> waiting;
    for (int i = 0; i < 6; i++) {
        waiting.push_back(std::make_unique<Connection>("127.0.0.1", 8080));
        CHECK(waiting.back()->send_request("/", false));
    }
    CHECK(terminal.shows([&](const std::string& now) {
        return std::atoi(in_row(now, first, kQueued).c_str()) > 0;
    }));
    terminal.type("u");
    CHECK(terminal.shows("moved what waited for worker 1"));
    CHECK(
        terminal.shows([&](const std::string& now) { return in_row(now, first, kQueued) == "0"; }));
    int answered_by_second = 0;
    for (auto& connection : waiting)
        answered_by_second += pid_in(connection->receive().body) == second ? 1 : 0;
    CHECK(answered_by_second >= 5);  // it may have taken one before it stood still
    REQUIRE(::kill(first, SIGCONT) == 0);
    terminal.type("q");
    CHECK(terminal.ended(0));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("top follows the size of its terminal, and helps") {
    if (!find_program("tmux")) return;
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(cluster.wait_ready(2));
    Tmux terminal(sandbox, 132, 40, top());
    REQUIRE(terminal.shows("ACCEPTED"));
    CHECK(count_lines(terminal.screen()) == 40);
    CHECK(terminal.shows([](const std::string& now) {
        return contains(now, "pid ") && contains(now, "drover 0.");
    }));
    terminal.resize(80, 24);
    CHECK(terminal.shows([](const std::string& now) {
        return !contains(now, "ACCEPTED") && contains(now, "RESTARTS") && longest_line(now) <= 80;
    }));
    terminal.resize(50, 8);
    CHECK(terminal.shows("50x8 is too small: 60x10 needed"));
    terminal.resize(60, 10);
    CHECK(terminal.shows([](const std::string& now) {
        return contains(now, "STATE") && contains(now, "LIVE") && contains(now, "q quit");
    }));
    terminal.resize(80, 24);
    terminal.type("h");
    CHECK(terminal.shows("no new connections for the selected worker"));
    terminal.type("x");
    CHECK(terminal.shows("q quit"));
    terminal.type("s");
    CHECK(terminal.shows("s by live"));
    terminal.type("q");
    CHECK(terminal.ended(0));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("top leaves when the master ends, with status 1, and stays when it is upgraded") {
    if (!find_program("tmux")) return;
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    pid_t worker = cluster.pid_of(0);
    Tmux terminal(sandbox, 80, 24, top("web"));
    REQUIRE(terminal.shows("q quit"));
    CHECK(cluster.drover({"upgrade", "web"}).status == 0);
    CHECK(terminal.shows("the master goes on as another program"));
    CHECK(terminal.shows(
        [&](const std::string& now) { return in_row(now, worker, kState) == "ready"; }));
    cluster.master().send(SIGKILL);
    CHECK(terminal.ended(1));
    CHECK(terminal.shows("drover: the master of cluster web has ended"));
    CHECK(cluster.drover({"stop", "web"}).status == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("top gives the terminal back when it is terminated") {
    if (!find_program("tmux")) return;
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    // The shell writes its pid down and becomes it.
    auto file = sandbox.path("top.pid");
    Tmux terminal(sandbox, 80, 24, fmt::format("sh -c 'echo $$ > {}; exec {}'", file, top()));
    REQUIRE(terminal.shows("q quit"));
    REQUIRE(::kill(std::atoi(read_file(file).c_str()), SIGTERM) == 0);
    CHECK(terminal.ended(0));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("top goes from one cluster to another") {
    if (!find_program("tmux")) return;
    Sandbox sandbox;
    Cluster api(sandbox, "api", {"-n", "1"}, hello({"--port", "8081"}));
    Cluster web(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(api.wait_ready(1));
    REQUIRE(web.wait_ready(2));
    Tmux terminal(sandbox, 80, 24, top());
    CHECK(terminal.shows("api  running  1 of 1 ready"));
    CHECK(terminal.shows("1 of 2 clusters (Tab)"));
    terminal.type("Tab");
    CHECK(terminal.shows("web  running  2 of 2 ready"));
    terminal.type("1");
    CHECK(terminal.shows("api  running  1 of 1 ready"));
    terminal.type("5");
    CHECK(terminal.shows("no cluster 5: 2 run here"));
    terminal.type("q");
    CHECK(terminal.ended(0));
    CHECK(api.stop() == 0);
    CHECK(web.stop() == 0);
}

TEST_CASE("top has colours where they are wanted, and plain letters where nothing else is known") {
    if (!find_program("tmux")) return;
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    const std::string green = "\033[32m";
    {
        Tmux terminal(sandbox, 80, 24, top());
        REQUIRE(terminal.shows("q quit"));
        CHECK(eventually([&] { return contains(terminal.colored_screen(), green); }));
        CHECK(terminal.shows("▁"));
    }
    {
        Tmux terminal(sandbox, 80, 24, "NO_COLOR=1 LC_ALL=C " + top());
        REQUIRE(terminal.shows("q quit"));
        CHECK(terminal.shows([](const std::string& now) { return contains(now, " __"); }));
        CHECK_FALSE(contains(terminal.colored_screen(), green));
        auto screen = terminal.screen();
        CHECK(std::ranges::all_of(screen,
                                  [](char c) { return static_cast<unsigned char>(c) < 0x80; }));
    }
    {
        Tmux terminal(sandbox, 80, 24, "TERM=nosuch " + top());
        CHECK(terminal.shows("the terminal \"nosuch\" is not known here"));
        CHECK(terminal.ended(2));
    }
    CHECK(cluster.stop() == 0);
}

TEST_CASE("top without a terminal says what to use instead") {
    Sandbox sandbox;
    auto outcome = sandbox.drover({"top"});
    CHECK(outcome.status == 2);
    CHECK(outcome.err == "drover: drover top needs a terminal: use drover status --json\n");
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    CHECK(cluster.drover({"top"}).status == 2);
    CHECK(Json::parse(cluster.drover({"top", "--json"}).out, nullptr, false)["ready"] == 1);
    CHECK(cluster.stop() == 0);
}

TEST_SUITE_END();

}  // namespace drover::test
