// SPDX-License-Identifier: MIT
//
// A new release without a gap: reload, canary, rollback, and workers that are replaced because they
// are old, big or much used. Mostly under a crowd (crowd.h), none of whose requests may fail.
// Reload after reload, in front of each kind of server: unharmed_test.cc.
//
// Long, because it is one feature with many ways to go wrong: reloads that go well, releases that
// are broken, what happens meanwhile, canaries, recycling.
#include <fmt/format.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>

#include "crowd.h"
#include "harness.h"
#include "http.h"
#include "messages.h"
#include "node_programs.h"

namespace drover::test {

namespace {

constexpr milliseconds kReloadDeadline{60'000};

Words joined(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

Outcome reload(Cluster& cluster, const Words& arguments = {}) {
    return cluster.drover(joined({"reload", cluster.name()}, arguments), kReloadDeadline);
}

// The same, not waited for.
Child begin_reload(Sandbox& sandbox, const Words& arguments) {
    return sandbox.start(
        {.command = joined({build_folder() + "/drover", "reload", "web"}, arguments),
         .extra_environment = {},
         .identity = {},
         .cwd = {}});
}

// The workers that are ready, by instance: their `field`.
std::map<int, Json> of_ready(Cluster& cluster, const std::string& field) {
    std::map<int, Json> found;
    Json status = cluster.status();
    for (const auto& worker : status["workers"])
        if (worker["state"] == "ready") found[worker["instance"].get<int>()] = worker[field];
    return found;
}

std::map<int, Json> ready_pids(Cluster& cluster) {
    return of_ready(cluster, "pid");
}

// How many workers are ready in each generation.
std::map<int, int> ready_by_generation(Cluster& cluster) {
    std::map<int, int> counts;
    for (const auto& [instance, generation] : of_ready(cluster, "generation"))
        counts[generation.get<int>()]++;
    return counts;
}

size_t count_workers(Cluster& cluster) {
    return cluster.status()["workers"].size();
}

// The phases of the reload events, oldest first.
std::vector<std::string> phases_of(Cluster& cluster) {
    std::vector<std::string> phases;
    for (const auto& event : events_of(cluster, "reload"))
        phases.push_back(event["data"]["phase"].get<std::string>());
    return phases;
}

bool has_phase(Cluster& cluster, const std::string& phase) {
    auto phases = phases_of(cluster);
    return std::find(phases.begin(), phases.end(), phase) != phases.end();
}

// How many workers have exited for that reason.
int exits_for(Cluster& cluster, const std::string& reason) {
    int count = 0;
    for (const auto& event : events_of(cluster, "exit"))
        count += event["data"]["reason"] == reason ? 1 : 0;
    return count;
}

// How many workers there were at the same time, by the events since `wanted` were ready first.
struct Course {
    int fewest_ready = 0;
    int most_starting = 0;  // started and not ready yet
};

Course course_of(Cluster& cluster, int wanted) {
    Course course{wanted, 0};
    std::set<int> ready, starting;
    bool begun = false;
    for (const auto& event : cluster.events()) {
        if (!event["worker"].is_object()) continue;
        int id = event["worker"]["id"].get<int>();
        if (event["event"] == "fork") starting.insert(id);
        if (event["event"] == "exit") starting.erase(id);
        if (event["event"] == "state" && event["data"]["to"] == "ready") {
            starting.erase(id);
            ready.insert(id);
        } else if (event["event"] == "state" && event["data"]["from"] == "ready") {
            ready.erase(id);
        }
        begun |= static_cast<int>(ready.size()) == wanted;
        if (!begun) continue;
        course.fewest_ready = std::min(course.fewest_ready, static_cast<int>(ready.size()));
        course.most_starting = std::max(course.most_starting, static_cast<int>(starting.size()));
    }
    return course;
}

// Of so many requests for `path`, the answers that contain `text`.
int count_answers(const std::string& path, const std::string& text, int requests) {
    int count = 0;
    for (int i = 0; i < requests; i++)
        count += contains(get("127.0.0.1", 8080, path).body, text) ? 1 : 0;
    return count;
}

// True when all `workers` are ready, of this generation, and no others are there any more.
bool wait_generation(Cluster& cluster, int workers, int generation) {
    bool reached = eventually([&] {
        return ready_by_generation(cluster) == std::map<int, int>{{generation, workers}} &&
               cluster.status()["generation"] == generation;
    });
    if (!reached)
        std::printf("not all of generation %d: %s\n", generation, cluster.status().dump(1).c_str());
    return reached && cluster.wait_ready(workers);
}

// The command line of each ready worker has this word.
bool all_run_with(Cluster& cluster, const std::string& word) {
    auto pids = ready_pids(cluster);
    for (const auto& [instance, pid] : pids) {
        auto command = read_file(fmt::format("/proc/{}/cmdline", pid.get<int>()));
        if (!contains(command, std::string(1, '\0') + word + std::string(1, '\0'))) return false;
    }
    return !pids.empty();
}

// A request on the control socket, and its reply; null where there is none.
Json ask(Sandbox& sandbox, const std::string& verb, const Json& args) {
    Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::snprintf(address.sun_path, sizeof(address.sun_path), "%s/web/control.sock",
                  sandbox.run_folder().c_str());
    timeval limit{};
    limit.tv_sec = kDeadline.count() / 1000;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) return {};
    std::string line = Json{{"v", 1}, {"id", 1}, {"verb", verb}, {"args", args}}.dump() + "\n";
    if (::send(fd.get(), line.data(), line.size(), MSG_NOSIGNAL) < 0) return {};
    std::string text;
    while (!text.ends_with("\n")) {
        char bytes[4096];
        ssize_t got = ::recv(fd.get(), bytes, sizeof(bytes), 0);
        if (got <= 0) return {};
        text.append(bytes, static_cast<size_t>(got));
    }
    Json reply = Json::parse(text, nullptr, false);
    return reply.is_discarded() ? Json() : reply;
}

}  // namespace

TEST_SUITE_BEGIN("reload");

// --- Reloads that go well
// -------------------------------------------------------------------------

TEST_CASE("a reload gives every instance a worker of the next generation") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin"}, hello());
    REQUIRE(cluster.wait_ready(2));
    CHECK(cluster.status()["generation"] == 1);
    CHECK(count_answers("/env", "DROVER_GENERATION=1\n", 2) == 2);
    auto before = ready_pids(cluster);
    auto outcome = reload(cluster);
    INFO(outcome.err);
    CHECK(outcome.status == 0);
    CHECK(ready_by_generation(cluster) == std::map<int, int>{{2, 2}});
    REQUIRE(wait_generation(cluster, 2, 2));
    for (const auto& [instance, pid] : ready_pids(cluster)) CHECK(before[instance] != pid);
    CHECK(count_answers("/env", "DROVER_GENERATION=2\n", 4) == 4);
    CHECK(spread("127.0.0.1", 8080, 10) == Shares{{0, 5}, {1, 5}});
    CHECK(exits_for(cluster, "reload") == 2);
    CHECK(exits_for(cluster, "crash") == 0);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a reload tells how far it is") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(reload(cluster).status == 0);
    std::vector<std::string> told;
    for (const auto& event : events_of(cluster, "reload")) {
        const auto& data = event["data"];
        CHECK(data["error"].is_null());
        told.push_back(fmt::format("{} {}/{}", data["phase"].get<std::string>(),
                                   data["done"].get<int>(), data["total"].get<int>()));
    }
    CHECK(told == std::vector<std::string>{"started 0/2", "worker 1/2", "worker 2/2", "done 2/2"});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("while a reload runs never fewer than wanted serve, and one is replaced at a time") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "3"}, hello({"--delay-listen-ms", "200"}));
    REQUIRE(cluster.wait_ready(3));
    Child running = begin_reload(sandbox, {});
    int fewest_ready = 3;
    size_t fewest_active = 3;
    bool done = eventually(
        [&] {
            Json status = cluster.status();
            fewest_ready = std::min(fewest_ready, status["ready"].get<int>());
            fewest_active = std::min(fewest_active, status["groups"][0]["active"].size());
            return !running.runs();
        },
        kReloadDeadline);
    CHECK(done);
    CHECK(running.wait() == 0);
    CHECK(fewest_ready == 3);
    CHECK(fewest_active == 3);
    REQUIRE(wait_generation(cluster, 3, 2));
    auto course = course_of(cluster, 3);
    CHECK(course.fewest_ready == 3);
    CHECK(course.most_starting == 1);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("with --parallel N so many are replaced at a time") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "4"}, hello({"--delay-listen-ms", "400"}));
    REQUIRE(cluster.wait_ready(4));
    REQUIRE(reload(cluster, {"--parallel", "2"}).status == 0);
    REQUIRE(wait_generation(cluster, 4, 2));
    auto course = course_of(cluster, 4);
    CHECK(course.fewest_ready == 4);
    CHECK(course.most_starting == 2);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a reload is done while former workers still have connections") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    pid_t former = cluster.pid_of(0);
    Connection held("127.0.0.1", 8080);
    REQUIRE(held.get("/hold").ok());
    REQUIRE(reload(cluster).status == 0);
    Json draining;
    Json status = cluster.status();
    for (const auto& worker : status["workers"])
        if (worker["state"] == "draining") draining = worker;
    INFO(status.dump(1));
    REQUIRE(draining.is_object());
    CHECK(draining["pid"] == former);
    CHECK(draining["instance"] == 0);
    CHECK(draining["generation"] == 1);
    CHECK(draining["live"] == 1);
    CHECK(ready_by_generation(cluster) == std::map<int, int>{{2, 1}});
    CHECK(pid_in(held.get("/").body) == former);
    CHECK(pid_in(get("127.0.0.1", 8080).body) != former);
    held.close();
    CHECK(cluster.wait_ready(1));
    CHECK(exits_for(cluster, "reload") == 1);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a reload changes environment and options") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--env", "A=1", "--umask", "0022"}, hello());
    REQUIRE(cluster.wait_ready(2));
    CHECK(count_answers("/env", "\nA=1\n", 4) == 4);
    CHECK(count_answers("/process", "umask 0022", 4) == 4);
    REQUIRE(reload(cluster, {"--env", "A=2", "--umask", "0077"}).status == 0);
    CHECK(count_answers("/env", "\nA=2\n", 4) == 4);
    CHECK(count_answers("/process", "umask 0077", 4) == 4);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a reload changes the command, and the next one keeps it") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello({"--backlog", "1001"}));
    REQUIRE(cluster.wait_ready(2));
    CHECK(all_run_with(cluster, "1001"));
    REQUIRE(reload(cluster, joined({"--"}, hello({"--backlog", "1002"}))).status == 0);
    CHECK(all_run_with(cluster, "1002"));
    REQUIRE(reload(cluster).status == 0);
    CHECK(all_run_with(cluster, "1002"));
    CHECK(wait_generation(cluster, 2, 3));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that dies after a reload is replaced by one of the new generation") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello({"--backlog", "1001"}));
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(reload(cluster, joined({"--"}, hello({"--backlog", "1002"}))).status == 0);
    REQUIRE(wait_generation(cluster, 2, 2));
    pid_t victim = cluster.pid_of(0);
    REQUIRE(::kill(victim, SIGKILL) == 0);
    REQUIRE(eventually([&] {
        auto pids = ready_pids(cluster);
        return pids.size() == 2 && pids[0] != victim;
    }));
    CHECK(ready_by_generation(cluster) == std::map<int, int>{{2, 2}});
    CHECK(all_run_with(cluster, "1002"));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a reload resolves the symbolic link of --cwd anew") {
    namespace fs = std::filesystem;
    Sandbox sandbox;
    fs::create_directory(sandbox.path("release-1"));
    fs::create_directory(sandbox.path("release-2"));
    fs::create_directory_symlink("release-1", sandbox.path("current"));
    Cluster cluster(sandbox, "web", {"-n", "2", "--cwd", sandbox.path("current")}, hello());
    REQUIRE(cluster.wait_ready(2));
    CHECK(count_answers("/process", "cwd " + sandbox.path("release-1") + "\n", 4) == 4);
    fs::create_directory_symlink("release-2", sandbox.path("next"));
    fs::rename(sandbox.path("next"), sandbox.path("current"));
    REQUIRE(reload(cluster).status == 0);
    CHECK(count_answers("/process", "cwd " + sandbox.path("release-2") + "\n", 4) == 4);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("SIGHUP to the master is a reload that reads --env-file anew") {
    Sandbox sandbox;
    write_file(sandbox.path("env"), "A=1\n");
    Cluster cluster(sandbox, "web", {"-n", "2", "--env-file", sandbox.path("env")}, hello());
    REQUIRE(cluster.wait_ready(2));
    CHECK(count_answers("/env", "\nA=1\n", 4) == 4);
    write_file(sandbox.path("env"), "A=2\n");
    cluster.master().send(SIGHUP);
    REQUIRE(wait_generation(cluster, 2, 2));
    CHECK(count_answers("/env", "\nA=2\n", 4) == 4);
    CHECK(has_phase(cluster, "done"));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("an instance that has failed gets well by a reload with a good command") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--max-restarts", "2/60s"},
                    hello({"--fail-instance", "1"}));
    REQUIRE(eventually([&] { return cluster.worker(1)["state"] == "failed"; }));
    auto outcome = reload(cluster, joined({"--"}, hello()));
    INFO(outcome.err);
    CHECK(outcome.status == 0);
    CHECK(wait_generation(cluster, 2, 2));
    CHECK(cluster.status()["state"] == "running");
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("an instance that is backing off gets well by a reload with a good command") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--max-restarts", "100/60s"},
                    hello({"--fail-instance", "1"}));
    REQUIRE(eventually([&] { return cluster.worker(1)["state"] == "backoff"; }));
    auto outcome = reload(cluster, joined({"--"}, hello()));
    INFO(outcome.err);
    CHECK(outcome.status == 0);
    CHECK(wait_generation(cluster, 2, 2));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

// --- Broken releases
// ------------------------------------------------------------------------------

namespace {

// Names the instance that it stopped at.
bool names_instance(const std::string& text, int instance) {
    return contains(text, fmt::format("instance {}", instance)) ||
           contains(text, fmt::format("web/{}", instance));
}

// A reload that fails under a crowd, which does not notice; `told` is what its stderr says.
// Returns that.
std::string check_broken(const Words& arguments, const Words& told) {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--drain-timeout", "1s"}, hello());
    REQUIRE(cluster.wait_ready(2));
    auto before = ready_pids(cluster);
    Crowd crowd(crowd_options());
    REQUIRE(crowd.wait_answered(100));
    auto outcome = reload(cluster, arguments);
    INFO(outcome.err);
    CHECK(outcome.status == 1);
    CHECK((names_instance(outcome.err, 0) || names_instance(outcome.err, 1)));
    for (const auto& part : told) CHECK_MESSAGE(contains(outcome.err, part), part);
    check_unharmed(crowd);
    REQUIRE(cluster.wait_ready(2));
    CHECK(ready_pids(cluster) == before);
    CHECK(cluster.status()["generation"] == 1);
    CHECK(ready_by_generation(cluster) == std::map<int, int>{{1, 2}});
    auto events = events_of(cluster, "reload");
    CHECK_FALSE(events.empty());
    if (!events.empty()) {
        CHECK(events.back()["data"]["phase"] == "failed");
        CHECK(events.back()["data"]["error"].is_string());
    }
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
    return outcome.err;
}

}  // namespace

TEST_CASE("a release that ends at once stops the reload, which shows its last 20 lines") {
    auto text = check_broken(
        {"--", "/bin/sh", "-c",
         "for i in $(seq 101 129); do echo \"line $i\"; done; echo 'no such table' >&2; exit 3"},
        {"exit status 3", "line 111", "line 129", "no such table"});
    CHECK_FALSE(contains(text, "line 110"));
}

TEST_CASE("what a broken release has printed reaches the terminal without its control characters") {
    auto text = check_broken({"--", "/bin/sh", "-c", "printf '\\033[2Jred\\n'; exit 3"}, {"red"});
    CHECK_FALSE(contains(text, "\033"));
}

TEST_CASE("a release whose program does not exist stops the reload") {
    check_broken({"--", "/no/such/program"}, {"/no/such/program"});
}

TEST_CASE("a release that never listens stops the reload") {
    check_broken(joined({"--ready-timeout", "700ms", "--"}, hello({"--delay-listen-ms", "600000"})),
                 {"not ready within 700 ms"});
}

TEST_CASE("a release that listens on another port stops the reload") {
    check_broken(joined({"--ready-timeout", "3s", "--"}, hello({"--port", "8081"})),
                 {"not ready within 3000 ms", "listening on 0.0.0.0 port 8081"});
}

TEST_CASE("a release that listens and is never ready stops the reload") {
    check_broken({"--ready", "message", "--ready-timeout", "3s"},
                 {"not ready within 3000 ms", "listening on 0.0.0.0 port 8080"});
}

TEST_CASE("a release that crashes soon after it was ready stops the reload") {
    check_broken(joined({"--"}, hello({"--exit-after-ms", "600"})),
                 {"exit status 3", "ends as it was told"});
}

TEST_CASE("a release that is broken in one instance stops the reload there") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--drain-timeout", "1s"}, hello());
    REQUIRE(cluster.wait_ready(2));
    auto before = ready_pids(cluster);
    Crowd crowd(crowd_options());
    REQUIRE(crowd.wait_answered(100));
    auto outcome = reload(cluster, joined({"--"}, hello({"--fail-instance", "1"})));
    INFO(outcome.err);
    CHECK(outcome.status == 1);
    CHECK(names_instance(outcome.err, 1));
    CHECK(contains(outcome.err, "exit status 3"));
    check_unharmed(crowd);
    REQUIRE(cluster.wait_ready(2));
    CHECK(ready_pids(cluster)[1] == before[1]);
    CHECK(of_ready(cluster, "generation")[1] == 1);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("after a failed reload a good one succeeds") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello({"--backlog", "1001"}));
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(reload(cluster, joined({"--"}, hello({"--exit", "3"}))).status == 1);
    // What failed is forgotten, its command too.
    auto outcome = reload(cluster);
    INFO(outcome.err);
    CHECK(outcome.status == 0);
    CHECK(all_run_with(cluster, "1001"));
    REQUIRE(cluster.wait_ready(2));
    CHECK(cluster.status()["generation"] > 1);
    CHECK(ready_by_generation(cluster).size() == 1);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a reload refuses options that cannot change, by name") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(cluster.wait_ready(2));
    auto before = ready_pids(cluster);
    for (const Words& option :
         {Words{"--name", "other"}, Words{"--port", "8081"},
          Words{"--listen", "tcp://127.0.0.1:8081"}, Words{"--user", "nobody"},
          Words{"--group", "nogroup"}, Words{"--workers", "3"}, Words{"-n", "3"}}) {
        auto outcome = reload(cluster, option);
        INFO(option[0], ": ", outcome.err);
        CHECK(outcome.status == 2);
        CHECK((contains(outcome.err, option[0]) ||
               (option[0] == "-n" && contains(outcome.err, "--workers"))));
    }
    CHECK(ready_pids(cluster) == before);
    CHECK(cluster.status()["generation"] == 1);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a reload refuses what it does not understand") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(cluster.wait_ready(2));
    auto before = ready_pids(cluster);
    for (const Words& option :
         {Words{"--parallel", "0"}, Words{"--canary", "0"}, Words{"--canary", "101%"},
          Words{"--canary", "some"}, Words{"--fly"}, Words{"--drain-timeout", "soon"}}) {
        auto outcome = reload(cluster, option);
        INFO(option[0], ": ", outcome.err);
        CHECK(outcome.status == 2);
        CHECK(contains(outcome.err, option[0]));
    }
    CHECK(ready_pids(cluster) == before);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

// --- What happens meanwhile
// -----------------------------------------------------------------------

namespace {

// A command whose workers take 1.5 s to listen: time for something to happen.
Words slow() {
    return joined({"--"}, hello({"--delay-listen-ms", "1500"}));
}

}  // namespace

TEST_CASE("a second reload is refused while one runs") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(cluster.wait_ready(2));
    Child first = begin_reload(sandbox, slow());
    REQUIRE(eventually([&] { return count_workers(cluster) == 3; }));
    auto second = reload(cluster);
    INFO(second.err);
    CHECK(second.status == 1);
    CHECK(second.err != "");
    Json reply = ask(sandbox, "reload", Json::object());
    INFO(reply.dump());
    CHECK(reply["ok"] == false);
    CHECK(reply["error"]["code"] == "bad-state");
    CHECK(first.runs());
    CHECK(first.wait(kReloadDeadline) == 0);
    CHECK(wait_generation(cluster, 2, 2));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("an old worker that is killed during a reload does not stop it") {
    // The one that is being replaced, or the other one.
    for (bool replaced : {true, false}) {
        Sandbox sandbox;
        Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
        REQUIRE(cluster.wait_ready(2));
        Child running = begin_reload(sandbox, slow());
        REQUIRE(eventually([&] { return count_workers(cluster) == 3; }));
        int instance = -1;
        Json status = cluster.status();
        for (const auto& worker : status["workers"])
            if (worker["generation"] == 2) instance = worker["instance"].get<int>();
        REQUIRE(instance >= 0);
        if (!replaced) instance = 1 - instance;
        auto victim = ready_pids(cluster)[instance].get<pid_t>();
        REQUIRE(::kill(victim, SIGKILL) == 0);
        CHECK(get("127.0.0.1", 8080).error == "");
        CHECK(running.wait(kReloadDeadline) == 0);
        INFO(running.err());
        CHECK(wait_generation(cluster, 2, 2));
        CHECK(cluster.stop() == 0);
        CHECK(sandbox.leftovers() == "");
    }
}

TEST_CASE("a replacement that is killed stops the reload") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(cluster.wait_ready(2));
    auto before = ready_pids(cluster);
    Child running = begin_reload(sandbox, slow());
    pid_t victim = 0;
    REQUIRE(eventually([&] {
        Json status = cluster.status();
        for (const auto& worker : status["workers"])
            if (worker["generation"] == 2 && worker["pid"].is_number())
                victim = worker["pid"].get<pid_t>();
        return victim > 0;
    }));
    REQUIRE(::kill(victim, SIGKILL) == 0);
    CHECK(running.wait(kReloadDeadline) == 1);
    CHECK(contains(running.err(), "KILL"));
    REQUIRE(cluster.wait_ready(2));
    CHECK(ready_pids(cluster) == before);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("instances that scale adds or takes away during a reload are reloaded with the others") {
    for (int workers : {1, 3}) {
        Sandbox sandbox;
        Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
        REQUIRE(cluster.wait_ready(2));
        Child running = begin_reload(sandbox, slow());
        REQUIRE(eventually([&] { return count_workers(cluster) == 3; }));
        CHECK(cluster.drover({"scale", "web", std::to_string(workers)}, kReloadDeadline).status ==
              0);
        CHECK(running.wait(kReloadDeadline) == 0);
        INFO(workers, ": ", running.err());
        CHECK(wait_generation(cluster, workers, 2));
        CHECK(cluster.stop() == 0);
        CHECK(sandbox.leftovers() == "");
    }
}

TEST_CASE("stop during a reload ends both cleanly") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(cluster.wait_ready(2));
    Child running = begin_reload(sandbox, slow());
    REQUIRE(eventually([&] { return count_workers(cluster) == 3; }));
    CHECK(cluster.stop() == 0);
    CHECK(running.wait() == 1);
    CHECK(running.err() != "");
    CHECK(sandbox.leftovers() == "");
}

// --- Canaries, and the way back
// -------------------------------------------------------------------

namespace {

// Four workers of which one is a canary with A=2, under a crowd.
struct Canary {
    Sandbox sandbox;
    Cluster cluster{sandbox,
                    "web",
                    {"-n", "4", "--drain-timeout", "1s", "--env", "A=1"},
                    hello({"--backlog", "1001"})};
    std::map<int, Json> before;
    std::optional<Crowd> crowd;

    Canary() {
        REQUIRE(cluster.wait_ready(4));
        before = ready_pids(cluster);
        crowd.emplace(crowd_options());
        REQUIRE(crowd->wait_answered(100));
        auto outcome = reload(cluster, joined({"--canary", "25%", "--env", "A=2", "--"},
                                              hello({"--backlog", "1002"})));
        INFO(outcome.err);
        REQUIRE(outcome.status == 0);
        REQUIRE(cluster.wait_ready(4));
    }

    // How many of the first workers are still there.
    int unchanged() {
        int count = 0;
        for (const auto& [instance, pid] : ready_pids(cluster)) count += before[instance] == pid;
        return count;
    }
};

}  // namespace

TEST_CASE("a canary replaces its part of the instances and leaves the others alone") {
    Canary canary;
    CHECK(ready_by_generation(canary.cluster) == std::map<int, int>{{1, 3}, {2, 1}});
    CHECK(canary.unchanged() == 3);
    CHECK(phases_of(canary.cluster).back() == "canary");
    CHECK_FALSE(has_phase(canary.cluster, "done"));
    check_unharmed(*canary.crowd);
    CHECK(canary.cluster.stop() == 0);
    CHECK(canary.sandbox.leftovers() == "");
}

TEST_CASE("a canary of N replaces N instances") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "3"}, hello());
    REQUIRE(cluster.wait_ready(3));
    CHECK(reload(cluster, {"--canary", "2"}).status == 0);
    REQUIRE(cluster.wait_ready(3));
    CHECK(ready_by_generation(cluster) == std::map<int, int>{{1, 1}, {2, 2}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("what a canary has replaced before it failed can be rolled back") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "3"}, hello());
    REQUIRE(cluster.wait_ready(3));
    auto outcome =
        reload(cluster, joined({"--canary", "2", "--"}, hello({"--fail-instance", "1"})));
    INFO(outcome.err);
    CHECK(outcome.status == 1);
    REQUIRE(cluster.wait_ready(3));
    // Whether it goes back by itself or not: afterwards all are of the first generation.
    if (ready_by_generation(cluster) != std::map<int, int>{{1, 3}}) {
        auto back = cluster.drover({"rollback", "web"}, kReloadDeadline);
        INFO(back.err);
        CHECK(back.status == 0);
    }
    CHECK(wait_generation(cluster, 3, 1));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("another reload is refused while a canary waits") {
    Canary canary;
    auto outcome = reload(canary.cluster);
    INFO(outcome.err);
    CHECK(outcome.status == 1);
    CHECK(contains(outcome.err, "promote"));
    CHECK(contains(outcome.err, "rollback"));
    CHECK(ask(canary.sandbox, "reload", Json::object())["error"]["code"] == "bad-state");
    CHECK(ready_by_generation(canary.cluster) == std::map<int, int>{{1, 3}, {2, 1}});
    check_unharmed(*canary.crowd);
    CHECK(canary.cluster.stop() == 0);
    CHECK(canary.sandbox.leftovers() == "");
}

TEST_CASE("promote takes a canary to all instances") {
    Canary canary;
    auto outcome = canary.cluster.drover({"promote", "web"}, kReloadDeadline);
    INFO(outcome.err);
    CHECK(outcome.status == 0);
    CHECK(wait_generation(canary.cluster, 4, 2));
    CHECK(canary.unchanged() == 0);
    CHECK(all_run_with(canary.cluster, "1002"));
    CHECK(count_answers("/env", "\nA=2\n", 8) == 8);
    CHECK(has_phase(canary.cluster, "promoted"));
    check_unharmed(*canary.crowd);
    CHECK(canary.cluster.stop() == 0);
    CHECK(canary.sandbox.leftovers() == "");
}

TEST_CASE("rollback takes a canary back, and a new reload is possible") {
    Canary canary;
    auto outcome = canary.cluster.drover({"rollback", "web"}, kReloadDeadline);
    INFO(outcome.err);
    CHECK(outcome.status == 0);
    CHECK(wait_generation(canary.cluster, 4, 1));
    CHECK(canary.unchanged() == 3);
    CHECK(all_run_with(canary.cluster, "1001"));
    CHECK(count_answers("/env", "\nA=1\n", 8) == 8);
    CHECK(has_phase(canary.cluster, "rolled-back"));
    CHECK(reload(canary.cluster).status == 0);
    check_unharmed(*canary.crowd);
    CHECK(canary.cluster.stop() == 0);
    CHECK(canary.sandbox.leftovers() == "");
}

TEST_CASE("rollback after a reload brings the former command and environment back") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--drain-timeout", "1s", "--env", "A=1"},
                    hello({"--backlog", "1001"}));
    REQUIRE(cluster.wait_ready(2));
    Crowd crowd(crowd_options());
    REQUIRE(reload(cluster, joined({"--env", "A=2", "--"}, hello({"--backlog", "1002"}))).status ==
            0);
    REQUIRE(wait_generation(cluster, 2, 2));
    auto outcome = cluster.drover({"rollback", "web"}, kReloadDeadline);
    INFO(outcome.err);
    CHECK(outcome.status == 0);
    CHECK(wait_generation(cluster, 2, 1));
    CHECK(all_run_with(cluster, "1001"));
    CHECK(count_answers("/env", "\nA=1\n", 4) == 4);
    CHECK(count_answers("/env", "DROVER_GENERATION=1\n", 4) == 4);
    CHECK(phases_of(cluster).back() == "rolled-back");
    check_unharmed(crowd);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("promote without a canary and rollback without a former generation are refused") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    pid_t pid = cluster.pid_of(0);
    for (const char* verb : {"promote", "rollback"}) {
        auto outcome = cluster.drover({verb, "web"});
        INFO(verb, ": ", outcome.err);
        CHECK(outcome.status == 1);
        CHECK(ask(sandbox, verb, Json::object())["error"]["code"] == "bad-state");
    }
    CHECK(cluster.pid_of(0) == pid);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

// --- Workers that are replaced because of their age, size or use
// -----------------------------------

namespace {

// Three workers are recycled under a crowd, with overlap and one at a time.
void check_recycled(const Words& options, const CrowdOptions& crowd_options) {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", joined({"-n", "2", "--drain-timeout", "1s"}, options), hello());
    REQUIRE(cluster.wait_ready(2));
    Crowd crowd(crowd_options);
    CHECK(eventually([&] { return exits_for(cluster, "recycle") >= 3; }, kReloadDeadline));
    check_unharmed(crowd);
    auto course = course_of(cluster, 2);
    CHECK(course.fewest_ready == 2);
    CHECK(course.most_starting == 1);
    CHECK(exits_for(cluster, "crash") == 0);
    CHECK(cluster.status()["generation"] == 1);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

// Each request for /grow makes it 16 MiB bigger.
const char* const kGrowingServer = R"(
import http.server
kept = []
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/grow":
            kept.append(b"x" * (16 << 20))
        body = b"%d\n" % len(kept)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
)";

}  // namespace

TEST_CASE("workers over --max-connections are replaced under a crowd, which loses nothing") {
    CrowdOptions options = crowd_options();
    check_recycled({"--max-connections", std::to_string(options.rate)}, options);
}

TEST_CASE("workers over --max-lifetime are replaced under a crowd, which loses nothing") {
    check_recycled({"--max-lifetime", "2s"}, crowd_options());
}

TEST_CASE("a worker over --max-memory is replaced, and nobody is refused meanwhile") {
    auto python = find_program("python3");
    if (!python) return;
    Sandbox sandbox;
    write_file(sandbox.path("growing.py"), kGrowingServer);
    Cluster cluster(sandbox, "web", {"-n", "1", "--max-memory", "128M"},
                    {*python, sandbox.path("growing.py")});
    REQUIRE(cluster.wait_ready(1));
    pid_t former = cluster.pid_of(0);
    for (int i = 0; i < 9; i++) CHECK(get("127.0.0.1", 8080, "/grow").error == "");
    CHECK(eventually([&] {
        CHECK(get("127.0.0.1", 8080).error == "");
        return exits_for(cluster, "memory") == 1;
    }));
    CHECK(cluster.wait_ready(1));
    CHECK(cluster.pid_of(0) != former);
    CHECK(course_of(cluster, 1).fewest_ready == 1);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
