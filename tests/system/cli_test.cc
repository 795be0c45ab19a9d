// SPDX-License-Identifier: MIT
//
// The command line: exit statuses, sentences on bad ground, and the shapes of the JSON, which are
// VOCABULARY's word for word.
#include <signal.h>
#include <sys/stat.h>

#include <memory>
#include <regex>
#include <set>
#include <thread>

#include "harness.h"
#include "http.h"
#include "nobody.h"

namespace drover::test {

namespace {

std::set<std::string> keys_of(const Json& object) {
    std::set<std::string> keys;
    if (object.is_object())
        for (const auto& [key, value] : object.items()) keys.insert(key);
    return keys;
}

bool is_time(const Json& value) {
    static const std::regex kShape(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z)");
    return value.is_string() && std::regex_match(value.get<std::string>(), kShape);
}

using Keys = std::set<std::string>;

// One line that is a sentence of drover's, with no trace of a crash.
void check_one_sentence(const Outcome& outcome) {
    INFO(outcome.err);
    CHECK(count_lines(outcome.err) == 1);
    CHECK(outcome.err.compare(0, 8, "drover: ") == 0);
}

}  // namespace

TEST_SUITE_BEGIN("cli");

TEST_CASE("status --json has exactly the documented shape") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin"}, hello());
    REQUIRE(cluster.wait_ready(2));
    pid_t victim = cluster.pid_of(0);
    REQUIRE(::kill(victim, SIGKILL) == 0);
    REQUIRE(eventually([&] { return cluster.worker(0)["restarts_total"] == 1; }));
    REQUIRE(cluster.wait_ready(2));
    Json status = cluster.status();
    INFO(status.dump(1));
    CHECK(keys_of(status) == Keys{"v", "cluster", "pid", "version", "state", "drained", "policy",
                                  "generation", "wanted", "ready", "log", "groups", "workers",
                                  "decisions_total", "corrections_total", "moved_total"});
    CHECK(status["v"] == 1);
    CHECK(status["cluster"] == "web");
    CHECK(status["pid"] == cluster.master().pid());
    CHECK(status["version"] == DROVER_VERSION);
    CHECK(status["state"] == "running");
    CHECK(status["policy"] == "round-robin");
    CHECK(status["generation"] == 1);
    REQUIRE(status["groups"].size() == 1);
    CHECK(status["groups"][0] == Json{{"proto", "tcp"},
                                      {"addr", "0.0.0.0"},
                                      {"port", 8080},
                                      {"v6only", false},
                                      {"active", {0, 1}},
                                      {"parked", 0}});
    CHECK(keys_of(status["decisions_total"]) ==
          Keys{"picked", "fallback", "keeper", "dropped", "moved", "stray", "pinned"});
    for (const auto& worker : status["workers"]) {
        CHECK(keys_of(worker) == Keys{"id", "instance", "slot", "generation", "pid", "state",
                                      "flags", "reason", "retry_at", "started_at", "restarts_total",
                                      "live", "queued", "accepted_total", "weight", "cpu_ms_total",
                                      "memory_bytes", "log_dropped_total", "last_exit"});
        CHECK(worker["state"] == "ready");
        CHECK(worker["flags"] == Json::array());
        CHECK(worker["retry_at"].is_null());
        CHECK(is_time(worker["started_at"]));
        CHECK(worker["weight"] == 1);
        CHECK(worker["memory_bytes"] > 0);
    }
    Json reborn = cluster.worker(0);
    CHECK(reborn["last_exit"] == Json{{"code", nullptr}, {"signal", "KILL"}, {"reason", "crash"}});
    CHECK(cluster.worker(1)["last_exit"].is_null());
    CHECK(cluster.stop() == 0);
}

TEST_CASE("events --json has exactly the documented shape") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    pid_t victim = cluster.pid_of(0);
    REQUIRE(::kill(victim, SIGKILL) == 0);
    REQUIRE(eventually([&] { return cluster.worker(0)["restarts_total"] == 1; }));
    REQUIRE(cluster.drover({"scale", "web", "2"}).status == 0);
    auto events = cluster.events();
    REQUIRE(events.size() >= 8);
    Keys seen;
    for (const auto& event : events) {
        INFO(event.dump());
        std::string kind = event["event"].get<std::string>();
        seen.insert(kind);
        CHECK(keys_of(event) == Keys{"v", "seq", "time", "cluster", "event", "worker", "data"});
        CHECK(event["v"] == 1);
        CHECK(event["cluster"] == "web");
        CHECK(is_time(event["time"]));
        if (event["worker"].is_object())
            CHECK(keys_of(event["worker"]) == Keys{"id", "instance", "slot", "pid", "generation"});
        else
            CHECK(event["worker"].is_null());
        Keys data = keys_of(event["data"]);
        if (kind == "listening") CHECK(data == Keys{"proto", "addr", "port"});
        if (kind == "exit") CHECK(data == Keys{"code", "signal", "uptime_ms", "reason"});
        if (kind == "state") CHECK(data == Keys{"from", "to", "reason"});
    }
    for (const char* kind : {"fork", "online", "listening", "ready", "exit", "state", "scaled"}) {
        INFO(kind);
        CHECK(seen.count(kind) == 1);
    }
    CHECK(cluster.stop() == 0);
}

TEST_CASE("ls shows each cluster that runs") {
    Sandbox sandbox;
    Cluster first(sandbox, "one", {"-n", "1"}, hello());
    Cluster second(sandbox, "two", {"-n", "1"}, hello({"--port", "8081"}));
    REQUIRE(first.wait_ready(1));
    REQUIRE(second.wait_ready(1));
    auto text = sandbox.drover({"ls"});
    CHECK(text.status == 0);
    CHECK(contains(text.out, "one"));
    CHECK(contains(text.out, "two"));
    auto json = sandbox.drover({"ls", "--json"});
    CHECK(json.status == 0);
    CHECK_FALSE(Json::parse(json.out, nullptr, false).is_discarded());
    CHECK(second.stop() == 0);
    // With one left its name need not be given.
    auto status = sandbox.drover({"status"});
    CHECK(status.status == 0);
    CHECK(contains(status.out, "one"));
    CHECK(first.stop() == 0);
}

TEST_CASE("status for people shows each worker") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(cluster.wait_ready(2));
    auto outcome = cluster.drover({"status", "web"});
    CHECK(outcome.status == 0);
    CHECK(contains(outcome.out, "8080"));
    for (int instance : {0, 1})
        CHECK(contains(outcome.out, std::to_string(cluster.pid_of(instance))));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("without --name the cluster is named after the command") {
    Sandbox sandbox;
    Child master = sandbox.start(
        {.command = {build_folder() + "/drover", "run", "-n", "1", "--", hello_path()},
         .extra_environment = {},
         .identity = {},
         .cwd = {}});
    CHECK(eventually([&] { return sandbox.drover({"status", "hello"}).status == 0; }));
    CHECK(sandbox.drover({"stop", "hello"}).status == 0);
    CHECK(master.wait() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("verbs on what does not exist fail with status 1 and a sentence") {
    Sandbox sandbox;
    auto none = sandbox.drover({"status", "nosuch"});
    CHECK(none.status == 1);
    check_one_sentence(none);
    CHECK(contains(none.err, "nosuch"));
    CHECK(sandbox.drover({"stop", "nosuch"}).status == 1);
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    auto worker = cluster.drover({"drain", "web/99"});
    CHECK(worker.status == 1);
    check_one_sentence(worker);
    CHECK(contains(worker.err, "99"));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("bad usage ends with status 2 and names the nearest right word") {
    Sandbox sandbox;
    struct Case {
        Words words;
        std::string nearest;
    };
    for (const auto& [words, nearest] : std::initializer_list<Case>{
             {{"run", "--polcy", "hash", "--", "true"}, "--policy"},
             {{"run", "--worker", "2", "--", "true"}, "--workers"},
             {{"statu"}, "status"},
             {{"scal", "web", "2"}, "scale"},
             {{"run", "--policy", "rond-robin", "--", "true"}, "round-robin"},
             {{"run", "-n", "many", "--", "true"}, "many"},
             {{"run", "-n", "2"}, "command"},
             {{"run", "--drain-timeout", "10 parsecs", "--", "true"}, "10 parsecs"},
             {{"run", "--port", "70000", "--", "true"}, "70000"},
             {{"run", "--name", "No Name", "--", "true"}, "No Name"},
             {{"run", "--user", "nosuchuser", "--", "true"}, "nosuchuser"}}) {
        auto outcome = sandbox.drover(words);
        INFO(words.back(), " → ", outcome.err);
        CHECK(outcome.status == 2);
        CHECK(contains(outcome.err, nearest));
    }
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("help and version succeed and name the verbs") {
    Sandbox sandbox;
    auto help = sandbox.drover({"help"});
    CHECK(help.status == 0);
    for (const char* verb : {"run", "ls", "status", "events", "stop", "restart", "scale", "drain",
                             "resume", "signal", "policy", "doctor"})
        CHECK(contains(help.out, verb));
    CHECK(sandbox.drover({"help", "run"}).status == 0);
    CHECK(contains(sandbox.drover({"--version"}).out, DROVER_VERSION));
}

TEST_CASE("doctor finds nothing in the way here") {
    Sandbox sandbox;
    auto text = sandbox.drover({"doctor"});
    INFO(text.out, text.err);
    CHECK(text.status == 0);
    auto json = sandbox.drover({"doctor", "--json"});
    CHECK_FALSE(Json::parse(json.out, nullptr, false).is_discarded());
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("run, start and install without root fail with one sentence") {
    Sandbox sandbox;
    for (const Words& words : {Words{"run", "--", "/bin/true"}, Words{"start", "--", "/bin/true"},
                               Words{"install", "web", "--", "/bin/true"}}) {
        INFO(words[0]);
        auto outcome = drover_as_nobody(sandbox, words);
        CHECK(outcome.status == 1);
        check_one_sentence(outcome);
        CHECK(contains(outcome.err, "root"));
        CHECK(contains(outcome.err, "sudo"));
    }
}

TEST_CASE("the logger cannot be started by hand") {
    Sandbox sandbox;
    auto outcome = sandbox.drover({"logger", "web", "{}"});
    CHECK(outcome.status == 2);
    check_one_sentence(outcome);
}

TEST_CASE("a cluster that stops says so to who wants something else of it") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(cluster.wait_ready(2));
    auto held = std::make_unique<Connection>("127.0.0.1", 8080);
    REQUIRE(held->get("/hold").ok());
    std::thread stop([&] { CHECK(cluster.drover({"stop", "web"}).status == 0); });
    CHECK(eventually([&] { return cluster.status()["state"] == "stopping"; }));
    for (const Words& words :
         {Words{"reload", "web"}, Words{"upgrade", "web"}, Words{"scale", "web", "3"},
          Words{"resume", "web"}, Words{"restart", "web"}}) {
        INFO(words[0]);
        auto outcome = cluster.drover(words);
        CHECK(outcome.status == 1);
        CHECK(contains(outcome.err, "the cluster is stopping"));
    }
    held.reset();
    stop.join();
    CHECK(cluster.master().wait() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a command that does not exist fails the start with a sentence and leaves nothing") {
    Sandbox sandbox;
    auto outcome =
        sandbox.drover({"run", "--name", "web", "-n", "2", "--port", "8080", "--", "nosuchcmd"});
    CHECK(outcome.status == 1);
    INFO(outcome.err);
    CHECK(contains(outcome.err, "nosuchcmd"));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a command that is not in sudo's PATH is explained") {
    Sandbox sandbox;
    auto outcome =
        sandbox.run({.command = {build_folder() + "/drover", "run", "-n", "1", "--", "nosuchcmd"},
                     .extra_environment = {"SUDO_USER=nobody"},
                     .identity = {},
                     .cwd = {}});
    CHECK(outcome.status == 1);
    INFO(outcome.err);
    CHECK(contains(outcome.err, "sudo"));
    CHECK(contains(outcome.err, "PATH"));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a command that may not be executed fails the start with a sentence") {
    Sandbox sandbox;
    write_file(sandbox.path("plain.txt"), "no program\n");
    auto outcome =
        sandbox.drover({"run", "--name", "web", "-n", "1", "--", sandbox.path("plain.txt")});
    CHECK(outcome.status == 1);
    INFO(outcome.err);
    CHECK(contains(outcome.err, "plain.txt"));
    CHECK(contains(outcome.err, "not marked executable"));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a folder for --cwd that does not exist fails the start with a sentence") {
    Sandbox sandbox;
    auto outcome = sandbox.drover(
        {"run", "--name", "web", "-n", "1", "--cwd", "/no/such/folder", "--", hello_path()});
    CHECK(outcome.status >= 1);
    INFO(outcome.err);
    CHECK(contains(outcome.err, "/no/such/folder"));
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
