// SPDX-License-Identifier: MIT
#include "admin/pages.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <fstream>

#include "admin/schema.h"

namespace drover::admin {

using namespace supervisor;

namespace {

// Ready is a cluster that can answer a request: one ready worker does. How many are missing is for
// the metrics; to take the others out of service as well would help nobody.
Answer readiness(const Status& status) {
    constexpr unsigned kUnavailable = 503;
    auto is_ready = [](const WorkerStatus& worker) { return worker.state == State::ready; };
    auto is_held = [](const WorkerStatus& worker) {
        return std::ranges::find(worker.flags, "held") != worker.flags.end();
    };
    Answer answer;
    answer.status = kUnavailable;
    if (status.state == "stopping") {
        answer.body = "the cluster is stopping\n";
    } else if (status.is_drained) {
        answer.body = "the cluster is drained: \"drover resume\" without a worker ends that\n";
    } else if (std::ranges::none_of(status.workers, is_ready)) {
        answer.body = fmt::format("no worker is ready, of {}\n", status.wanted);
    } else if (std::ranges::all_of(status.workers, [&](const WorkerStatus& worker) {
                   return !is_ready(worker) || is_held(worker);
               })) {
        answer.body = "all ready workers are held: \"drover resume\" lets them serve\n";
    } else {
        answer.status = 200;
        answer.body = fmt::format("{} of {} workers are ready\n", status.ready, status.wanted);
    }
    return answer;
}

}  // namespace

Answer answer_page(const PageSources& sources, std::string_view method, std::string_view path) {
    constexpr unsigned kNotFound = 404, kWrongMethod = 405;
    Answer answer;
    if (method != "GET" && method != "HEAD") {
        answer.status = kWrongMethod;
        answer.tells_methods = true;
        answer.body = "only GET and HEAD: to change something there is the control socket\n";
    } else if (path == "/metrics") {
        answer.type = kMetricsType;
        answer.body = to_metrics(sources.status(), sources.tally(), sources.process());
    } else if (path == "/healthz") {
        answer.body = "ok\n";  // whoever can say so is alive
    } else if (path == "/readyz") {
        answer = readiness(sources.status());
    } else if (path == "/status") {
        answer.type = "application/json";
        answer.body = to_line(to_public_json(sources.status())) + "\n";
    } else {
        answer.status = kNotFound;
        answer.body = "there are /metrics, /healthz, /readyz and /status\n";
    }
    return answer;
}

OwnProcess look_at_own_process(WallTime started_at) {
    OwnProcess process;
    uint64_t size = 0, resident_pages = 0;
    std::ifstream("/proc/self/statm") >> size >> resident_pages;
    process.resident_bytes = resident_pages * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    timespec used{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    constexpr double kNsPerSecond = 1e9;
    process.cpu_seconds =
        static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) / kNsPerSecond;
    std::error_code error;
    for (auto entry = std::filesystem::directory_iterator("/proc/self/fd", error);
         !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
        process.open_fds++;
    if (process.open_fds > 0) process.open_fds--;  // the one that looks
    process.started_at = std::chrono::duration<double>(started_at.time_since_epoch()).count();
    return process;
}

}  // namespace drover::admin
