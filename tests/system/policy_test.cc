// SPDX-License-Identifier: MIT
//
// A policy of the user's own: what it is asked, what becomes of its answer, and which objects are
// refused. The policies are those in tests/policies.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "harness.h"
#include "http.h"

namespace drover::test {

namespace {

using Shares = std::map<int, int>;
using Connections = std::vector<std::unique_ptr<Connection>>;

// A copy of tests/policies/NAME.bpf.c's object in the sandbox, as a policy must be: root's alone.
std::string policy(const Sandbox& sandbox, const std::string& name,
                   const std::string& as = "my.bpf.o") {
    auto path = sandbox.path(as);
    std::filesystem::copy_file(build_folder() + "/policies/" + name + ".bpf.o", path,
                               std::filesystem::copy_options::overwrite_existing);
    REQUIRE(::chmod(path.c_str(), 0644) == 0);
    return path;
}

std::string client(int number) {
    return fmt::format("127.0.0.{}", number);
}

// Who answers requests from 127.0.0.N, N from 1 on.
std::vector<int> answers_to_clients(int clients) {
    std::vector<int> instances;
    for (int n = 1; n <= clients; n++) {
        auto reply = get("127.0.0.1", 8080, "/", kDeadline, client(n));
        if (!reply.ok()) MESSAGE("from " << client(n) << ": " << reply.error);
        instances.push_back(reply.ok() ? instance_in(reply.body) : -1);
    }
    return instances;
}

// Opens connections that stay open, and counts by instance who answered on them.
Shares hold(Connections& held, int connections) {
    Shares counts;
    for (int i = 0; i < connections; i++) {
        held.push_back(std::make_unique<Connection>("127.0.0.1", 8080));
        auto reply = held.back()->get("/hold");
        counts[reply.ok() ? instance_in(reply.body) : -1]++;
    }
    return counts;
}

// Kills instance 3 of four with connections from 127.0.0.3 in its queue. Who answered those?
Shares answers_after_kill(
    Cluster& cluster, int connections, const std::function<void()>& before = [] {}) {
    pid_t victim = cluster.pid_of(3);
    REQUIRE(stop_process(victim));
    Connections waiting;
    for (int i = 0; i < connections; i++) {
        waiting.push_back(std::make_unique<Connection>("127.0.0.1", 8080, kDeadline, client(3)));
        REQUIRE(waiting.back()->send_request("/", false));
    }
    REQUIRE(eventually([&] { return cluster.worker(3)["queued"] == connections; }));
    before();
    REQUIRE(::kill(victim, SIGKILL) == 0);
    Shares counts;
    for (auto& connection : waiting) {
        auto reply = connection->receive();
        if (!reply.ok()) MESSAGE("lost: " << reply.error);
        counts[reply.ok() ? instance_in(reply.body) : -1]++;
    }
    return counts;
}

// The fourth worker's clients are moved to the third.
void move_by_own_policy(const std::string& address) {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "4", "--policy", policy(sandbox, "by_client"), "--stall-after", "never"},
                    hello({"--addr", address}));
    REQUIRE(cluster.wait_ready(4));
    CHECK(answers_after_kill(cluster, 50) == Shares{{2, 50}});
    auto status = cluster.status();
    CHECK(status["decisions_total"]["moved"] == 50);
    CHECK(status["decisions_total"]["fallback"] == 0);
    CHECK(eventually([&] {
        auto workers = cluster.status()["workers"];
        return std::ranges::all_of(workers, [](const Json& one) { return one["live"] == 0; });
    }));
    CHECK(cluster.status()["corrections_total"] == 0);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

int lines_in(const std::string& text) {
    return static_cast<int>(std::ranges::count(text, '\n'));
}

// An object that is not usable: its file, the exit status, and what the sentence says.
struct Refusal {
    std::string path;
    int status;
    std::string says;
};

std::vector<Refusal> refusals(const Sandbox& sandbox) {
    auto garbage = sandbox.path("garbage.o");
    write_file(garbage, "#include <drover/policy.bpf.h>\n");
    auto writable = policy(sandbox, "first", "writable.o");
    REQUIRE(::chmod(writable.c_str(), 0664) == 0);
    auto foreign = policy(sandbox, "first", "foreign.o");
    REQUIRE(::chown(foreign.c_str(), 65534, 0) == 0);
    return {
        {sandbox.path("missing.o"), 2, "cannot read the policy"},
        {sandbox.path(""), 1, "is no file with a policy"},
        {garbage, 1, "is no BPF object"},
        {writable, 1, "must be root's and writable by nobody else"},
        {foreign, 1, "must be root's and writable by nobody else"},
        {policy(sandbox, "no_policy", "no_policy.o"), 1, "there is no policy in"},
        {policy(sandbox, "other_section", "other_section.o"), 1, "in the section \"xdp\" instead"},
        {policy(sandbox, "other_version", "other_version.o"), 1, "with version 999 of"},
        {policy(sandbox, "endless", "endless.o"), 1, "verifier refuses the policy"},
    };
}

// One sentence that names the file; the verifier's is followed by lines of the source and of its
// own.
void check_refusal(const Refusal& refusal, const Outcome& outcome) {
    CAPTURE(outcome.err);
    CHECK(outcome.status == refusal.status);
    CHECK(contains(outcome.err, refusal.says));
    CHECK(contains(outcome.err, refusal.path));
    if (!contains(refusal.path, "endless.o")) {
        CHECK(lines_in(outcome.err) == 1);
        return;
    }
    CHECK(contains(outcome.err, "; while (index >= view->count);"));
    CHECK(lines_in(outcome.err) <= 10);
}

}  // namespace

TEST_SUITE_BEGIN("policy");

TEST_CASE("own policy: the example gives to the worker with the fewest connections") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", policy(sandbox, "least_live")},
                    hello());
    REQUIRE(cluster.wait_ready(4));
    Connections held;
    CHECK(hold(held, 100) == Shares{{0, 25}, {1, 25}, {2, 25}, {3, 25}});
    auto status = cluster.status();
    CHECK(status["policy"] == "my.bpf.o");
    CHECK(status["decisions_total"]["picked"] == 100);
    CHECK(status["decisions_total"]["fallback"] == 0);
    held.clear();
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("own policy: it sees weights") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", policy(sandbox, "least_live")},
                    hello());
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(cluster.drover({"weight", cluster.target(1), "3"}).status == 0);
    Connections held;
    CHECK(hold(held, 80) == Shares{{0, 20}, {1, 60}});
    held.clear();
    CHECK(cluster.stop() == 0);
}

TEST_CASE("own policy: it sees the client's address and each candidate's instance") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", policy(sandbox, "by_client")}, hello());
    REQUIRE(cluster.wait_ready(4));
    CHECK(answers_to_clients(3) == std::vector{1, 2, 3});
    // A replacement has its instance.
    REQUIRE(cluster.drover({"restart", cluster.target(2)}).status == 0);
    CHECK(answers_to_clients(3) == std::vector{1, 2, 3});
    CHECK(cluster.status()["decisions_total"]["fallback"] == 0);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("own policy: to a dual-stack listener an IPv4 client is one, too") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", policy(sandbox, "by_client")},
                    hello({"--addr", "::"}));
    REQUIRE(cluster.wait_ready(4));
    CHECK(answers_to_clients(3) == std::vector{1, 2, 3});
    CHECK(get("::1", 8080).ok());
    // That client has no instance, and the policy gives no index.
    CHECK(cluster.status()["decisions_total"]["fallback"] == 1);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("own policy: it decides where the queue of a killed worker goes") {
    move_by_own_policy("0.0.0.0");
}

TEST_CASE(
    "own policy: it decides where the queue of a killed worker goes, with dual-stack listeners") {
    move_by_own_policy("::");
}

TEST_CASE("own policy: an index that no candidate has loses nobody and is counted as fallback") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "4", "--policy", policy(sandbox, "beyond"), "--stall-after", "never"},
                    hello());
    REQUIRE(cluster.wait_ready(4));
    Connections held;
    // As least-busy would.
    CHECK(hold(held, 40) == Shares{{0, 10}, {1, 10}, {2, 10}, {3, 10}});
    auto decisions = cluster.status()["decisions_total"];
    CHECK(decisions["fallback"] == 40);
    CHECK(decisions["picked"] == 0);
    CHECK(decisions["dropped"] == 0);
    held.clear();
    CHECK(cluster.stop() == 0);
}

TEST_CASE("own policy: nor is the queue of a killed worker lost by such an index") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web",
                    {"-n", "4", "--policy", policy(sandbox, "by_client"), "--stall-after", "never"},
                    hello());
    REQUIRE(cluster.wait_ready(4));
    auto counts = answers_after_kill(cluster, 50, [&] {
        auto beyond = policy(sandbox, "beyond", "beyond.o");
        REQUIRE(cluster.drover({"policy", "web", beyond}).status == 0);
    });
    CHECK(counts.count(-1) == 0);
    CHECK(counts[0] + counts[1] + counts[2] + counts[3] == 50);
    CHECK(cluster.status()["decisions_total"]["moved"] == 50);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("own policy: it may keep state in maps of its own") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", policy(sandbox, "own_map")}, hello());
    REQUIRE(cluster.wait_ready(4));
    CHECK(spread("127.0.0.1", 8080, 40) == Shares{{0, 10}, {1, 10}, {2, 10}, {3, 10}});
    CHECK(cluster.stop() == 0);
}

TEST_CASE("own policy: with an object that cannot be used run ends with one sentence") {
    Sandbox sandbox;
    for (const auto& refusal : refusals(sandbox)) {
        CAPTURE(refusal.path);
        check_refusal(refusal, sandbox.drover({"run", "-n", "1", "--policy", refusal.path, "--name",
                                               "web", "--", hello_path(), "--port", "8080"}));
        CHECK(sandbox.leftovers() == "");
    }
}

TEST_CASE("own policy: a running cluster refuses such an object and keeps the policy it has") {
    Sandbox sandbox;
    auto mine = policy(sandbox, "by_client");
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", mine}, hello());
    REQUIRE(cluster.wait_ready(4));
    for (const auto& refusal : refusals(sandbox)) {
        CAPTURE(refusal.path);
        check_refusal(refusal, cluster.drover({"policy", "web", refusal.path}));
        CHECK(cluster.status()["policy"] == "my.bpf.o");
        CHECK(answers_to_clients(3) == std::vector{1, 2, 3});
    }
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("own policy: a changed object is taken by `drover policy`, from the caller's folder") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", policy(sandbox, "first")}, hello());
    REQUIRE(cluster.wait_ready(4));
    CHECK(spread("127.0.0.1", 8080, 20).size() == 1);
    policy(sandbox, "own_map");
    CHECK(spread("127.0.0.1", 8080, 20).size() == 1);  // a file alone changes nothing
    auto changed = sandbox.run({.command = {build_folder() + "/drover", "policy", "my.bpf.o"},
                                .extra_environment = {},
                                .identity = {},
                                .cwd = sandbox.path("")});
    INFO(changed.err);
    CHECK(changed.status == 0);
    CHECK(spread("127.0.0.1", 8080, 20) == Shares{{0, 5}, {1, 5}, {2, 5}, {3, 5}});
    CHECK(cluster.stop() == 0);
}

TEST_CASE("own policy: it is changed while connections come, and none is lost") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", "hash"}, hello());
    REQUIRE(cluster.wait_ready(4));
    auto example = policy(sandbox, "least_live", "example.o");
    auto first = policy(sandbox, "first", "first.o");
    auto beyond = policy(sandbox, "beyond", "beyond.o");
    Load load("127.0.0.1", 8080, 300);
    for (const auto& wanted : {example, first, std::string("source"), beyond, beyond,
                               std::string("least-busy"), example, std::string("round-robin")}) {
        REQUIRE(load.wait_answered(30));
        CHECK(cluster.drover({"policy", "web", wanted}).status == 0);
        CHECK(cluster.status()["policy"] == std::filesystem::path(wanted).filename().string());
    }
    auto result = load.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
    CHECK(spread("127.0.0.1", 8080, 20) == Shares{{0, 5}, {1, 5}, {2, 5}, {3, 5}});
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("own policy: workers are drained, restarted and scaled under it, and none is lost") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "3", "--policy", policy(sandbox, "least_live")},
                    hello());
    REQUIRE(cluster.wait_ready(3));
    Load load("127.0.0.1", 8080, 300);
    REQUIRE(load.wait_answered(30));
    CHECK(cluster.drover({"drain", cluster.target(1)}).status == 0);
    CHECK(cluster.drover({"resume", cluster.target(1)}).status == 0);
    CHECK(cluster.drover({"scale", "web", "6"}).status == 0);
    CHECK(cluster.drover({"restart", "web"}).status == 0);
    CHECK(cluster.drover({"scale", "web", "1"}).status == 0);
    CHECK(cluster.drover({"restart", "web"}).status == 0);  // the keeper holds them meanwhile
    REQUIRE(load.wait_answered(30));
    auto result = load.stop();
    INFO(result.text());
    CHECK(result.failed() == 0);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("own policy: it goes on when the master is killed") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", policy(sandbox, "by_client")}, hello());
    REQUIRE(cluster.wait_ready(4));
    cluster.master().send(SIGKILL);
    cluster.master().wait();
    for (int round = 0; round < 3; round++) CHECK(answers_to_clients(3) == std::vector{1, 2, 3});
    CHECK(cluster.drover({"stop", "web"}).status == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
