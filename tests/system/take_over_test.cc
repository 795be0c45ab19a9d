// SPDX-License-Identifier: MIT
//
// After a `kill -9` of the master: the next `run` of that name goes on with the workers that live.
#include <fmt/format.h>
#include <signal.h>

#include <filesystem>
#include <memory>

#include "harness.h"
#include "http.h"
#include "messages.h"
#include "node_programs.h"

namespace drover::test {

namespace {

const Words kFour = {"-n", "4", "--policy", "least-conn", "--port", "8080"};

void kill_master(Cluster& cluster) {
    cluster.master().send(SIGKILL);
    REQUIRE(cluster.master().wait() == 128 + SIGKILL);
}

std::map<int, Json> field_of(Cluster& cluster, const std::string& field) {
    std::map<int, Json> found;
    Json status = cluster.status();
    if (status.is_object())
        for (const auto& worker : status["workers"])
            found[worker["instance"].get<int>()] = worker[field];
    return found;
}

// Opens connections that stay open.
std::vector<std::unique_ptr<Connection>> hold(int count, Shares& shares) {
    std::vector<std::unique_ptr<Connection>> held;
    for (int i = 0; i < count; i++) {
        held.push_back(std::make_unique<Connection>("127.0.0.1", 8080));
        shares[instance_in(held.back()->get("/hold").body)]++;
    }
    return held;
}

// Two workers that take turns, the first of which hangs; and their master, one after the other.
class OneHangs {
  public:
    OneHangs() {
        start();
        REQUIRE(cluster_->wait_ready(2));
        hung_ = cluster_->pid_of(0);
        REQUIRE(stop_process(hung_));
    }

    void replace_master(bool killed) {
        if (!killed) {
            REQUIRE(cluster_->drover({"upgrade", "web"}).status == 0);
            return;
        }
        kill_master(*cluster_);
        start();
        REQUIRE(eventually([&] { return cluster_->status().is_object(); }));
    }

    bool is_seen() { return contains(cluster_->worker(0)["flags"].dump(), "stalled"); }

    void check_recovery() {
        ::kill(hung_, SIGCONT);
        CHECK(eventually([&] { return !is_seen(); }));
        CHECK(spread("127.0.0.1", 8080, 4) == Shares{{0, 2}, {1, 2}});
        CHECK(cluster_->stop() == 0);
        CHECK(sandbox_.leftovers() == "");
    }

  private:
    void start() {
        cluster_ = std::make_unique<Cluster>(sandbox_, "web",
                                             Words{"-n", "2", "--policy", "round-robin"}, hello());
    }

    Sandbox sandbox_;
    std::unique_ptr<Cluster> cluster_;
    pid_t hung_ = 0;
};

}  // namespace

TEST_SUITE_BEGIN("take-over");

TEST_CASE("the next run takes the living workers over, and their counts with them") {
    Sandbox sandbox;
    Cluster first(sandbox, "web", kFour, hello());
    REQUIRE(first.wait_ready(4));
    auto ids = field_of(first, "id"), pids = field_of(first, "pid");
    REQUIRE(first.drover({"weight", first.target(3), "2"}).status == 0);
    Shares shares;
    auto held = hold(50, shares);
    REQUIRE(shares == Shares{{0, 10}, {1, 10}, {2, 10}, {3, 20}});
    Load load("127.0.0.1", 8080, 300);
    REQUIRE(load.wait_answered(100));
    kill_master(first);
    REQUIRE(load.wait_answered(100));
    Cluster second(sandbox, "web", kFour, hello());
    REQUIRE(second.wait_ready(4));
    REQUIRE(load.wait_answered(100));
    auto result = load.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
    CHECK(field_of(second, "id") == ids);
    CHECK(field_of(second, "pid") == pids);
    CHECK(second.worker(3)["weight"] == 2);
    CHECK(second.worker(0)["live"] == 10);
    CHECK(second.worker(3)["live"] == 20);
    CHECK(second.status()["policy"] == "least-conn");
    // They are steered as before, and looked after: one that is killed has a replacement.
    auto more = hold(25, shares);
    CHECK(shares == Shares{{0, 15}, {1, 15}, {2, 15}, {3, 30}});
    REQUIRE(::kill(second.pid_of(0), SIGKILL) == 0);
    REQUIRE(eventually([&] { return second.worker(0)["state"] == "ready"; }));
    CHECK(second.worker(0)["id"] == 5);
    CHECK(second.worker(0)["restarts_total"] == 1);
    held.clear();
    more.clear();
    for (int instance = 0; instance < 4; instance++)
        CHECK(eventually([&] { return second.worker(instance)["live"] == 0; }));
    CHECK(second.status()["corrections_total"] == 0);
    CHECK(second.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that ended while no master lived has a replacement, also as the only one") {
    Sandbox sandbox;
    Words one = {"-n", "2", "--port", "0.0.0.0:8080"};
    Cluster first(sandbox, "web", one, hello());
    REQUIRE(first.wait_ready(2));
    auto pids = field_of(first, "pid");
    kill_master(first);
    pid_t victim = pids[0].get<pid_t>();
    REQUIRE(::kill(victim, SIGKILL) == 0);
    REQUIRE(eventually([&] { return read_file(fmt::format("/proc/{}/cmdline", victim)).empty(); }));
    REQUIRE(get("127.0.0.1", 8080).ok());
    Cluster second(sandbox, "web", one, hello());
    REQUIRE(second.wait_ready(2));
    CHECK(second.pid_of(1) == pids[1]);
    CHECK(second.pid_of(0) != pids[0]);
    CHECK(second.worker(0)["id"] == 3);
    CHECK(spread("127.0.0.1", 8080, 20).count(-1) == 0);
    CHECK(second.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("messages of a worker that was taken over go both ways") {
    Sandbox sandbox;
    Words command = {build_folder() + "/servers/talker", "--port", "8080"};
    Cluster first(sandbox, "web", {"-n", "2"}, command);
    REQUIRE(first.wait_ready(2));
    kill_master(first);
    Cluster second(sandbox, "web", {"-n", "2"}, command);
    REQUIRE(second.wait_ready(2));
    REQUIRE(send(second, "web/1", {{"hi", 1}}) == 0);
    CHECK(wait_said(second, 1, {{"hi", 1}}));
    REQUIRE(send(second, "web/2", {{"do", "tell"}, {"id", 1}, {"say", "psst"}}) == 0);
    CHECK(wait_said(second, 1, {{"got", "psst"}, {"from", 2}}));
    CHECK(second.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

NODE_TEST_CASE("Node workers are taken over with their channels") {
    Sandbox sandbox;
    auto command = express_program<Node>("cluster.js");
    if (!command) return;
    Cluster first = run_express(sandbox, {"-n", "2"}, *command);
    REQUIRE(first.wait_ready(2));
    auto pids = field_of(first, "pid");
    kill_master(first);
    REQUIRE(get("127.0.0.1", 8080).ok());
    Cluster second = run_express(sandbox, {"-n", "2"}, *command);
    REQUIRE(second.wait_ready(2));
    CHECK(field_of(second, "pid") == pids);
    REQUIRE(send(second, "web/1", {{"hi", 1}}) == 0);
    CHECK(wait_said(second, 1, {{"got", {{"hi", 1}}}}));
    // It may close its server and ask for the socket once more.
    REQUIRE(get("127.0.0.1", 8080, "/listen-again").ok());
    CHECK(second.wait_ready(2));
    // And it is told to disconnect.
    REQUIRE(second.drover({"restart", "web/2"}, kDeadline).status == 0);
    CHECK(eventually([&] {
        for (const Json& event : events_of(second, "disconnect"))
            if (event["worker"]["id"] == 2) return true;
        return false;
    }));
    CHECK(spread("127.0.0.1", 8080, 10).count(-1) == 0);
    CHECK(second.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("where the command line differs, the workers are reloaded to it") {
    Sandbox sandbox;
    Cluster first(sandbox, "web", {"-n", "2", "--env", "RELEASE=1"}, hello());
    REQUIRE(first.wait_ready(2));
    kill_master(first);
    Cluster second(sandbox, "web", {"-n", "3", "--env", "RELEASE=2", "--policy", "round-robin"},
                   hello());
    REQUIRE(eventually([&] { return second.status()["generation"] == 2; }));
    REQUIRE(second.wait_ready(3));
    CHECK(contains(get("127.0.0.1", 8080, "/env").body, "RELEASE=2"));
    CHECK(second.status()["policy"] == "round-robin");
    CHECK(second.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("words that are no UTF-8 are the same words after a take-over") {
    Sandbox sandbox;
    // "café", in Latin-1 in the option and the command.
    Words options = {"-n", "1", "--env", "PLACE=caf\xe9"};
    Words command = {"/bin/sh", "-c", ": 'caf\xe9'; exec \"$0\" \"$@\""};
    for (const auto& word : hello()) command.push_back(word);
    Cluster first(sandbox, "web", options, command);
    REQUIRE(first.wait_ready(1));
    auto pids = field_of(first, "pid");
    kill_master(first);
    Cluster second(sandbox, "web", options, command);
    REQUIRE(second.wait_ready(1));
    CHECK(field_of(second, "pid") == pids);
    CHECK(second.status()["generation"] == 1);
    // And a worker that starts later is given them as they were.
    REQUIRE(second.drover({"restart", "web/1"}).status == 0);
    CHECK(contains(get("127.0.0.1", 8080, "/env").body, "PLACE=caf\xe9"));
    CHECK(second.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("what cannot change while the workers live is refused by name, and they serve on") {
    Sandbox sandbox;
    Cluster first(sandbox, "web", kFour, hello());
    REQUIRE(first.wait_ready(4));
    kill_master(first);
    auto refused =
        sandbox.drover({"run", "--name", "web", "-n", "4", "--port", "8081", "--", hello_path()});
    CHECK(refused.status == 2);
    CHECK(contains(refused.err, "--port"));
    CHECK(contains(refused.err, "drover stop web"));
    CHECK(get("127.0.0.1", 8080).ok());
    CHECK(sandbox.drover({"stop", "web"}).status == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("without what the dead master wrote down its workers are not taken over") {
    Sandbox sandbox;
    Cluster first(sandbox, "web", kFour, hello());
    REQUIRE(first.wait_ready(4));
    kill_master(first);
    std::string file = sandbox.run_folder() + "/web/state.json";
    for (const char* content : {"", "{", "{\"v\":1}", "[]", "{\"v\":99,\"maps\":1}"}) {
        write_file(file, content);
        auto refused = sandbox.drover({"run", "--name", "web", "-n", "4", "--", hello_path()});
        CHECK(refused.status == 1);
        CHECK(contains(refused.err, "cannot be taken over"));
        CHECK(contains(refused.err, "drover stop web"));
        CHECK(get("127.0.0.1", 8080).ok());
    }
    CHECK(sandbox.drover({"stop", "web"}).status == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a master that is killed in the middle of a reload is followed by one that undoes it") {
    Sandbox sandbox;
    Cluster first(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(first.wait_ready(2));
    auto pids = field_of(first, "pid");
    Child reload = sandbox.start({.command = {build_folder() + "/drover", "reload", "web",
                                              "--ready", "message", "--", hello_path()},
                                  .extra_environment = {},
                                  .identity = {},
                                  .cwd = {}});
    REQUIRE(eventually([&] { return first.status()["workers"].size() == 3; }));
    kill_master(first);
    CHECK(reload.wait() == 1);
    CHECK(contains(reload.err(), "ended before it answered"));
    Cluster second(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(second.wait_ready(2));  // the third is gone
    CHECK(field_of(second, "pid") == pids);
    CHECK(second.status()["generation"] == 1);
    // The number that it used is not used again.
    REQUIRE(second.drover({"reload", "web"}).status == 0);
    CHECK(second.status()["generation"] == 3);
    CHECK(second.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that was held, and one that was being drained, are so still") {
    Sandbox sandbox;
    Words options = {"-n", "3", "--drain-timeout", "60s"};
    Cluster first(sandbox, "web", options, hello());
    REQUIRE(first.wait_ready(3));
    Shares shares;
    auto held = hold(3, shares);
    REQUIRE(shares == Shares{{0, 1}, {1, 1}, {2, 1}});
    Child drain = sandbox.start({.command = {build_folder() + "/drover", "drain", first.target(0)},
                                 .extra_environment = {},
                                 .identity = {},
                                 .cwd = {}});
    REQUIRE(eventually([&] { return first.worker(0)["flags"] == Json({"held"}); }));
    Child restart =
        sandbox.start({.command = {build_folder() + "/drover", "restart", first.target(1)},
                       .extra_environment = {},
                       .identity = {},
                       .cwd = {}});
    REQUIRE(eventually([&] { return first.worker(1)["state"] == "draining"; }));
    kill_master(first);
    Cluster second(sandbox, "web", options, hello());
    REQUIRE(eventually([&] { return second.status()["ready"] == 3; }));
    CHECK(second.worker(0)["flags"] == Json({"held"}));
    bool drains = false;
    Json status = second.status();
    for (const auto& worker : status["workers"]) drains |= worker["state"] == "draining";
    CHECK(drains);
    CHECK(spread("127.0.0.1", 8080, 10).count(0) == 0);
    REQUIRE(second.drover({"resume", second.target(0)}).status == 0);
    held.clear();
    REQUIRE(second.wait_ready(3));
    CHECK(spread("127.0.0.1", 8080, 30).count(0) == 1);
    CHECK(second.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that hangs when its master is killed or upgraded is relieved by the next one") {
    for (bool killed : {false, true}) {
        INFO(killed);
        OneHangs pair;
        // By these its master begins to look at the queues, and is told of no others meanwhile.
        std::vector<std::unique_ptr<Connection>> waiting;
        for (int i = 0; i < 4; i++) {
            waiting.push_back(std::make_unique<Connection>("127.0.0.1", 8080));
            REQUIRE(waiting.back()->send_request("/", false));
        }
        pair.replace_master(killed);
        for (auto& connection : waiting) CHECK(instance_in(connection->receive().body) == 1);
        CHECK(pair.is_seen());
        pair.check_recovery();
    }
}

TEST_CASE("a worker that is known to hang is known to the next master, and when it is well again") {
    for (bool killed : {false, true}) {
        INFO(killed);
        OneHangs pair;
        for (int i = 0; i < 2; i++) CHECK(instance_in(get("127.0.0.1", 8080).body) == 1);
        REQUIRE(eventually([&] { return pair.is_seen(); }));
        pair.replace_master(killed);
        CHECK(pair.is_seen());
        CHECK(spread("127.0.0.1", 8080, 4) == Shares{{1, 4}});
        pair.check_recovery();
    }
}

TEST_CASE("connections that wait while no worker is there wait through an upgrade") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1", "--port", "0.0.0.0:8080", "--ready", "message"},
                    hello());
    REQUIRE(eventually([&] { return cluster.worker(0)["state"] == "listening"; }));
    std::vector<std::unique_ptr<Connection>> waiting;
    for (int i = 0; i < 20; i++) {
        waiting.push_back(std::make_unique<Connection>("127.0.0.1", 8080));
        REQUIRE(waiting.back()->send_request("/", false));
    }
    REQUIRE(eventually([&] { return cluster.status()["groups"][0]["parked"] == 20; }));
    REQUIRE(cluster.drover({"upgrade", "web"}).status == 0);
    CHECK(cluster.status()["groups"][0]["parked"] == 20);
    // Whoever takes them is ready at once.
    REQUIRE(cluster.drover({"reload", "web", "--ready", "listening"}).status == 0);
    for (auto& connection : waiting) CHECK(connection->receive().ok());
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("an upgrade keeps what was changed since the cluster was started") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "least-conn", "--env", "RELEASE=1"},
                    hello());
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(cluster.drover({"scale", "web", "3"}).status == 0);
    REQUIRE(cluster.drover({"policy", "web", "round-robin"}).status == 0);
    REQUIRE(cluster.drover({"reload", "web", "--env", "RELEASE=2"}).status == 0);
    REQUIRE(cluster.wait_ready(3));
    auto pids = field_of(cluster, "pid");
    REQUIRE(cluster.drover({"upgrade", "web"}).status == 0);
    Json status = cluster.status();
    CHECK(status["wanted"] == 3);
    CHECK(status["policy"] == "round-robin");
    CHECK(status["generation"] == 2);
    CHECK(field_of(cluster, "pid") == pids);
    // Later ones start that way, too.
    REQUIRE(cluster.drover({"restart", "web"}).status == 0);
    CHECK(contains(get("127.0.0.1", 8080, "/env").body, "RELEASE=2"));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("an upgrade that cannot be leaves the master as it is, and says why") {
    Sandbox sandbox;
    std::string program = sandbox.path("drover");
    auto install = [&](const std::string& from) {
        std::filesystem::remove(program);
        std::filesystem::copy_file(from, program);
        std::filesystem::permissions(program, std::filesystem::perms(0755));
    };
    install(build_folder() + "/drover");
    Child master = sandbox.start({.command = {program, "run", "--name", "web", "-n", "2", "--",
                                              hello_path(), "--port", "8080"},
                                  .extra_environment = {},
                                  .identity = {},
                                  .cwd = {}});
    auto ready = [&] {
        Json status = Json::parse(sandbox.drover({"status", "web", "--json"}).out, nullptr, false);
        return status.is_object() && status["ready"] == 2;
    };
    REQUIRE(eventually(ready));
    auto refused_with = [&](const std::string& text) {
        auto upgraded = sandbox.drover({"upgrade", "web"});
        INFO(upgraded.err);
        CHECK(upgraded.status == 1);
        CHECK(contains(upgraded.err, text));
        CHECK(ready());
        CHECK(get("127.0.0.1", 8080).ok());
    };
    install("/bin/true");  // some other program
    refused_with("cannot take the place");
    write_file(sandbox.path("text"), "not a program");
    install(sandbox.path("text"));
    refused_with(program);
    install(build_folder() + "/drover");
    std::filesystem::permissions(program, std::filesystem::perms(0775));
    refused_with("root's alone");
    std::filesystem::remove(program);
    refused_with("No such file");
    // And one that can.
    install(build_folder() + "/drover");
    CHECK(sandbox.drover({"upgrade", "web"}).status == 0);
    CHECK(ready());
    CHECK(sandbox.drover({"stop", "web"}).status == 0);
    CHECK(master.wait() == 0);
    CHECK(sandbox.leftovers() == "");
}

NODE_TEST_CASE("a Node cluster is upgraded, and its messages go on") {
    Sandbox sandbox;
    auto command = express_program<Node>("cluster.js");
    if (!command) return;
    Cluster cluster = run_express(sandbox, {"-n", "2"}, *command);
    REQUIRE(cluster.wait_ready(2));
    auto pids = field_of(cluster, "pid");
    REQUIRE(cluster.drover({"upgrade", "web"}).status == 0);
    CHECK(field_of(cluster, "pid") == pids);
    REQUIRE(send(cluster, "web/1", {{"hi", 1}}) == 0);
    CHECK(wait_said(cluster, 1, {{"got", {{"hi", 1}}}}));
    REQUIRE(cluster.drover({"scale", "web", "3"}).status == 0);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
