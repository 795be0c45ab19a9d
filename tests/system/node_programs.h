// SPDX-License-Identifier: MIT
//
// Node programs for the tests, each of them run with two versions of Node, which differ in how they
// speak with their primary: Debian 12's own and a newer one. scripts/node-versions fetches both
// into the build folder, and Express; the machine's own `node` is not used.
//
//     NODE_TEST_CASE("a Node program may …") {
//         Sandbox sandbox;
//         auto command = program<Node>(sandbox, "…");  // or express_program<Node>("hello.js")
//         if (!command) return;                        // a skip was said
//
// doctest names them "a Node program may …<Node 18>" and "…<Node 24>".
#pragma once

#include <unistd.h>

#include <filesystem>
#include <set>

#include "harness.h"

namespace drover::test {

// `version` is how its process.version begins, `program` is below the build folder.
struct Node18 {
    static constexpr const char* name = "Node 18";
    static constexpr const char* version = "v18.";
    static constexpr const char* program = "node18/bin/node";
};
struct Node24 {
    static constexpr const char* name = "Node 24";
    static constexpr const char* version = "v24.";
    static constexpr const char* program = "node/node_modules/node24/bin/node";
};
#define NODE_TEST_CASE(name) TEST_CASE_TEMPLATE(name, Node, Node18, Node24)

using Shares = std::map<int, int>;

// server(): an HTTP server that says who answers.
inline const char* const kHttp =
    "const http = require('http');\n"
    "const me = `pid ${process.pid} instance ${process.env.NODE_APP_INSTANCE}\\n`;\n"
    "const server = () => http.createServer((q, r) => r.end(me));\n";

inline std::string modules() {
    return build_folder() + "/node/node_modules";
}

// The path of that version's `node`; says a skip where it is not there.
template <class Node>
std::optional<std::string> find_node() {
    std::string path = build_folder() + "/" + Node::program;
    if (::access(path.c_str(), X_OK) == 0) return path;
    say_skip(std::string(Node::name) +
             " is not in the build folder; scripts/node-versions fetches it");
    return std::nullopt;
}

// The command of a program of a few lines, which is written into the sandbox.
template <class Node>
std::optional<Words> program(Sandbox& sandbox, const std::string& text) {
    auto node = find_node<Node>();
    if (!node) return std::nullopt;
    write_file(sandbox.path("program.js"), text);
    return Words{*node, sandbox.path("program.js")};
}

// The command of a program of tests/node that needs Express; says a skip where that is not there.
template <class Node>
std::optional<Words> express_program(const std::string& name) {
    auto node = find_node<Node>();
    if (!node) return std::nullopt;
    if (!std::filesystem::exists(modules() + "/express")) {
        say_skip("Express is not in the build folder; scripts/node-versions fetches it");
        return std::nullopt;
    }
    return Words{*node, std::filesystem::absolute("tests/node/" + name)};
}

// The cluster "web" of such a program.
inline Cluster run_express(Sandbox& sandbox, const Words& options, const Words& command) {
    return {sandbox, "web", options, command, {"NODE_PATH=" + modules()}};
}

// The present ID of an instance's worker; 0 where there is none.
inline int id_of(Cluster& cluster, int instance) {
    Json worker = cluster.worker(instance);
    return worker.is_object() ? worker["id"].get<int>() : 0;
}

inline std::set<pid_t> pids_of(Cluster& cluster) {
    std::set<pid_t> pids;
    Json status = cluster.status();
    for (const auto& worker : status["workers"]) pids.insert(worker["pid"].get<pid_t>());
    return pids;
}

}  // namespace drover::test

TYPE_TO_STRING_AS(drover::test::Node18::name, drover::test::Node18);
TYPE_TO_STRING_AS(drover::test::Node24::name, drover::test::Node24);
