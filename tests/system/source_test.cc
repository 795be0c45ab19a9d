// SPDX-License-Identifier: MIT
//
// The policy `source`: a client's address has its worker.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "harness.h"
#include "http.h"

namespace drover::test {

namespace {

// Client's address → the instance that answered it; −1: nobody did.
using Answers = std::map<std::string, int>;

// 127.0.N.1, 127.0.N.2, …
Words clients(int count, int network = 0) {
    Words addresses;
    for (int i = 1; i <= count; i++) addresses.push_back(fmt::format("127.0.{}.{}", network, i));
    return addresses;
}

Answers ask_from(const Words& clients, const std::string& server = "127.0.0.1") {
    Answers answers;
    for (const auto& client : clients) {
        auto reply = get(server, 8080, "/", kDeadline, client);
        if (!reply.ok()) std::printf("from %s: %s\n", client.c_str(), reply.error.c_str());
        answers[client] = reply.ok() ? instance_in(reply.body) : -1;
    }
    return answers;
}

std::set<int> instances_in(const Answers& answers) {
    std::set<int> instances;
    for (const auto& [client, instance] : answers) instances.insert(instance);
    return instances;
}

// Answers to those clients whom that instance had before, or to the others.
Answers only(const Answers& answers, const Answers& before, int instance, bool of_instance) {
    Answers some;
    for (const auto& [client, now] : answers)
        if ((before.at(client) == instance) == of_instance) some[client] = now;
    return some;
}

Words source_of(int workers, const Words& more = {}) {
    Words options = {"-n", std::to_string(workers), "--policy", "source"};
    options.insert(options.end(), more.begin(), more.end());
    return options;
}

const std::set<int> kAllFour = {0, 1, 2, 3};

}  // namespace

TEST_SUITE_BEGIN("steering");

TEST_CASE("source: a client always reaches the same worker, and many clients reach all") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", source_of(4), hello());
    REQUIRE(cluster.wait_ready(4));
    auto first = ask_from(clients(60));
    CHECK(instances_in(first) == kAllFour);
    for (int round = 0; round < 5; round++) CHECK(ask_from(clients(60)) == first);
    CHECK(cluster.status()["decisions_total"]["fallback"] == 0);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("source: after a restart of all workers each client has the instance that it had") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", source_of(4), hello());
    REQUIRE(cluster.wait_ready(4));
    auto before = ask_from(clients(60));
    std::set<pid_t> former;
    for (int i = 0; i < 4; i++) former.insert(cluster.pid_of(i));
    REQUIRE(cluster.drover({"restart", "web"}).status == 0);
    REQUIRE(cluster.wait_ready(4));
    for (int i = 0; i < 4; i++) REQUIRE_FALSE(former.contains(cluster.pid_of(i)));
    CHECK(ask_from(clients(60)) == before);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("source: while a worker is drained only its clients move, and then all are back") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", source_of(4), hello());
    REQUIRE(cluster.wait_ready(4));
    auto before = ask_from(clients(100));
    REQUIRE(cluster.drover({"drain", cluster.target(2)}).status == 0);
    auto meanwhile = ask_from(clients(100));
    CHECK(only(meanwhile, before, 2, false) == only(before, before, 2, false));
    // Its own clients are divided among the others.
    CHECK(instances_in(only(meanwhile, before, 2, true)) == std::set{0, 1, 3});
    REQUIRE(cluster.drover({"resume", cluster.target(2)}).status == 0);
    CHECK(ask_from(clients(100)) == before);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("source: a policy that is changed to it holds at once") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "4", "--policy", "round-robin"}, hello());
    REQUIRE(cluster.wait_ready(4));
    CHECK(spread("127.0.0.1", 8080, 8) == std::map<int, int>{{0, 2}, {1, 2}, {2, 2}, {3, 2}});
    REQUIRE(cluster.drover({"policy", "web", "source"}).status == 0);
    auto first = ask_from(clients(60));
    CHECK(instances_in(first) == kAllFour);
    CHECK(ask_from(clients(60)) == first);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("source: --source-prefix 24 keeps the clients of a network together") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", source_of(4, {"--source-prefix", "24"}), hello());
    REQUIRE(cluster.wait_ready(4));
    std::set<int> reached;
    for (int network = 1; network <= 30; network++) {
        auto instances = instances_in(ask_from(clients(5, network)));
        CHECK(instances.size() == 1);
        reached.insert(instances.begin(), instances.end());
    }
    CHECK(reached == kAllFour);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("source: a dual-stack listener treats an IPv4 client as an IPv4 one does") {
    Sandbox sandbox;
    auto answers_at = [&sandbox](const char* address) {
        Cluster cluster(sandbox, "web", source_of(4), hello({"--addr", address}));
        REQUIRE(cluster.wait_ready(4));
        auto answers = ask_from(clients(60));
        CHECK(cluster.stop() == 0);
        return answers;
    };
    auto v4 = answers_at("0.0.0.0");
    CHECK(instances_in(v4) == kAllFour);
    CHECK(answers_at("::") == v4);
}

TEST_CASE("source: the addresses of one IPv6 network are one client") {
    auto ip = find_program("ip");
    if (!ip) return;
    Sandbox sandbox;
    auto network = [](int number) {
        Words addresses;
        for (int i = 1; i <= 3; i++) addresses.push_back(fmt::format("fd00:0:0:{}::{}", number, i));
        return addresses;
    };
    constexpr int kNetworks = 24;
    for (int number = 1; number <= kNetworks; number++)
        for (const auto& address : network(number))
            REQUIRE(sandbox
                        .run({.command = {*ip, "-6", "address", "add", address + "/128", "dev",
                                          "lo", "nodad"},
                              .extra_environment = {},
                              .identity = {},
                              .cwd = {}})
                        .status == 0);
    Cluster cluster(sandbox, "web", source_of(4), hello({"--addr", "::"}));
    REQUIRE(cluster.wait_ready(4));
    std::set<int> reached;
    for (int number = 1; number <= kNetworks; number++) {
        auto instances = instances_in(ask_from(network(number), "::1"));
        CHECK(instances.size() == 1);
        reached.insert(instances.begin(), instances.end());
    }
    CHECK(reached == kAllFour);
    CHECK(cluster.stop() == 0);
}

TEST_SUITE_END();

}  // namespace drover::test
