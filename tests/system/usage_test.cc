// SPDX-License-Identifier: MIT
//
// What the status says of CPU and memory: the same as the kernel's files say, for a number of
// system calls that does not depend on how many workers there are.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>
#include <utility>

#include "harness.h"
#include "http.h"
#include "tracer.h"

namespace drover::test {

namespace {

std::string worker_folder(const Sandbox& sandbox, const Json& worker) {
    return fmt::format("{}/web/w{}", sandbox.cgroup(), worker["id"].get<int>());
}

uint64_t cpu_ms_in_file(const Sandbox& sandbox, const Json& worker) {
    std::istringstream stat(read_file(worker_folder(sandbox, worker) + "/cpu.stat"));
    std::string key;
    uint64_t microseconds = 0;
    stat >> key >> microseconds;
    REQUIRE(key == "usage_usec");
    return microseconds / 1000;
}

uint64_t memory_in_file(const Sandbox& sandbox, const Json& worker, bool counted) {
    uint64_t value = 0;
    if (counted) {
        std::istringstream(read_file(worker_folder(sandbox, worker) + "/memory.current")) >> value;
        return value;
    }
    std::istringstream statm(read_file(fmt::format("/proc/{}/statm", worker["pid"].get<int>())));
    statm >> value >> value;
    return value * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

// Has the kernel count the memory of the workers' cgroups. False where v1 has the controller, as on
// a hybrid machine; the virtual machine of scripts/vm-test is none.
bool count_memory(const Sandbox& sandbox) {
    std::string above = sandbox.cgroup().substr(0, sandbox.cgroup().rfind('/'));
    if (!contains(read_file(above + "/cgroup.controllers"), "memory")) return false;
    for (const auto& folder : {above, sandbox.cgroup(), sandbox.cgroup() + "/web"})
        write_file(folder + "/cgroup.subtree_control", "+memory");
    return true;
}

void check_usage(Sandbox& sandbox, Cluster& cluster, bool counted) {
    constexpr uint64_t kUsed = 64 << 20;
    REQUIRE(get("127.0.0.1", 8080, "/use?64").error == "");
    // What was looked at before may be told for a moment; and it has to share the CPU.
    REQUIRE(eventually([&] {
        Json worker = cluster.worker(0);
        if (worker["cpu_ms_total"] < 200) (void)get("127.0.0.1", 8080, "/spin?100");
        return worker["memory_bytes"] >= kUsed && worker["cpu_ms_total"] >= 200;
    }));
    // It does nothing now.
    Json worker = cluster.worker(0);
    REQUIRE(eventually([&] {
        Json before = std::exchange(worker, cluster.worker(0));
        return before["cpu_ms_total"] == worker["cpu_ms_total"] &&
               worker["cpu_ms_total"] == cpu_ms_in_file(sandbox, worker);
    }));
    uint64_t memory = worker["memory_bytes"];
    // Some kernels leave in /proc what each CPU has counted for itself.
    CHECK(static_cast<double>(memory) ==
          doctest::Approx(memory_in_file(sandbox, worker, counted)).epsilon(0.05));
}

// The master's system calls from each request for the status until its answer.
std::vector<Words> calls_per_status(const std::string& trace) {
    std::vector<Words> all;
    std::istringstream lines(trace);
    bool inside = false;
    for (std::string line; std::getline(lines, line);) {
        if (contains(line, "\\\"verb\\\":\\\"status\\\"")) {
            inside = true;
            all.emplace_back();
        }
        if (inside) all.back().push_back(line);
        if (contains(line, "\\\"ok\\\":true")) inside = false;
    }
    return all;
}

// The most that one needed of all those asked for in a time in which the figures grow old twice.
Words calls_for_status(int workers) {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", std::to_string(workers)}, hello());
    REQUIRE(cluster.wait_ready(workers));
    std::string file = sandbox.path("trace");
    Child tracer = attach_tracer(sandbox, cluster.master().pid(),
                                 {"/usr/bin/strace", "-q", "-s", "64", "-o", file});
    for (auto end = Clock::now() + milliseconds(600); Clock::now() < end;)
        REQUIRE(cluster.status()["workers"].size() == static_cast<size_t>(workers));
    tracer.send(SIGINT);
    (void)tracer.wait();
    auto all = calls_per_status(read_file(file));
    REQUIRE_FALSE(all.empty());
    CHECK(cluster.stop() == 0);
    return *std::ranges::max_element(all, {}, &Words::size);
}

std::string one_a_line(const Words& words) {
    std::string text;
    for (const auto& word : words) text += word + "\n";
    return text;
}

}  // namespace

TEST_SUITE_BEGIN("usage");

TEST_CASE("status tells CPU and memory as the files of cgroups and processes do") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    check_usage(sandbox, cluster, false);
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("status tells memory as the memory controller counts it, where that is on") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    check_usage(sandbox, cluster, count_memory(sandbox));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("status takes as many system calls for eight workers as for two") {
    if (!find_program("strace")) return;
    auto two = calls_for_status(2), eight = calls_for_status(8);
    INFO("for two:\n", one_a_line(two), "for eight:\n", one_a_line(eight));
    CHECK(two.size() == eight.size());
    CHECK(two.size() < 30);
}

TEST_CASE("doctor says that what workers use is read at once") {
    Sandbox sandbox;
    Json report = Json::parse(sandbox.drover({"doctor", "--json"}).out, nullptr, false);
    REQUIRE(report.is_object());
    auto found = std::ranges::find(report["checks"], "usage",
                                   [](const Json& check) { return check["name"]; });
    REQUIRE(found != report["checks"].end());
    INFO((*found)["text"]);
    CHECK((*found)["ok"] == true);
}

TEST_SUITE_END();

}  // namespace drover::test
