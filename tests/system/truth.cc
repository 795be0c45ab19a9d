// SPDX-License-Identifier: MIT
#include "truth.h"

#include <fmt/format.h>

#include <regex>
#include <sstream>

namespace drover::test {

std::map<pid_t, int> sockets_by_owner(Sandbox& sandbox) {
    auto ss = find_program("ss");
    REQUIRE(ss.has_value());
    auto listed = sandbox.run(
        {{*ss, "-Htnp", "state", "established", "state", "close-wait", "sport", "=", ":8080"},
         {},
         {},
         {}});
    REQUIRE(listed.status == 0);
    std::map<pid_t, int> owners;
    std::istringstream lines(listed.out);
    for (std::string line; std::getline(lines, line);) {
        std::smatch owner;
        owners[std::regex_search(line, owner, std::regex("pid=([0-9]+)")) ? std::stoi(owner[1])
                                                                          : 0]++;
    }
    return owners;
}

namespace {

// What differs between the workers' counts and the kernel's; empty when nothing does.
std::string difference(Sandbox& sandbox, Cluster& cluster) {
    Json status = cluster.status();
    if (!status.is_object()) return "no status";
    auto sockets = sockets_by_owner(sandbox);
    std::string text = sockets[0] == 0 ? "" : fmt::format("{} are not accepted; ", sockets[0]);
    for (const auto& worker : status["workers"]) {
        if (!worker["pid"].is_number()) continue;
        int live = worker["live"].get<int>(), truth = sockets[worker["pid"].get<pid_t>()];
        if (live != truth)
            text += fmt::format("instance {}: live {}, sockets {}; ", worker["instance"].dump(),
                                live, truth);
    }
    return text;
}

}  // namespace

void check_counts(Sandbox& sandbox, Cluster& cluster) {
    std::string text;
    eventually([&] { return (text = difference(sandbox, cluster)).empty(); }, milliseconds(5'000));
    CHECK(text == "");
    CHECK(cluster.status()["corrections_total"] == 0);
}

}  // namespace drover::test
