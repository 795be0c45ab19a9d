// SPDX-License-Identifier: MIT
//
// What the admin port tells: the metrics' text, and each page.
#include "admin/metrics.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <set>
#include <sstream>

#include "admin/pages.h"
#include "admin/schema.h"

using namespace drover;
using namespace drover::admin;
using namespace drover::supervisor;

namespace {

bool has(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

WorkerStatus a_worker(WorkerId id, int instance, State state = State::ready) {
    WorkerStatus out;
    out.id = id;
    out.instance = instance;
    out.state = state;
    return out;
}

Status example() {
    Status status;
    status.cluster = "web";
    status.version = "0.1.0";
    status.state = "running";
    status.policy = "least-busy";
    status.generation = 2;
    status.wanted = 2;
    status.ready = 2;
    status.groups = {{"tcp", "::", 80, false, {0, 1}, 3, {10, 1, 2, 3, 4, 5, 6}},
                     {"tcp", "0.0.0.0", 81, false, {}, 0, {}}};
    WorkerStatus first = a_worker(7, 0), second = a_worker(8, 1);
    first.live = 12;
    first.queued = 2;
    first.accepted_total = 900;
    first.restarts_total = 1;
    first.weight = 3;
    first.cpu_ms_total = 1250;
    first.memory_bytes = 1 << 20;
    first.load = 0.5;
    status.workers = {first, second};
    status.former = {{0, {100, 750}}};
    status.corrections_total = 1;
    status.moved_total = 4;
    return status;
}

std::string metrics_of(const Status& status, const Tally& tally = {}) {
    return to_metrics(status, tally, {4096, 0.25, 17, 1'700'000'000.5});
}

Answer ask(const Status& status, std::string_view path, std::string_view method = "GET") {
    Tally tally;
    PageSources sources{[&] { return status; }, [&]() -> const Tally& { return tally; },
                        [] { return OwnProcess{}; }};
    return answer_page(sources, method, path);
}

}  // namespace

TEST_SUITE_BEGIN("metrics");

TEST_CASE("metrics: each family has its head once, before its samples") {
    std::istringstream lines(metrics_of(example()));
    std::string line, family;
    int helps = 0, types = 0, samples = 0;
    std::set<std::string> seen;
    while (std::getline(lines, line)) {
        std::istringstream words(line);
        std::string mark, kind, name, type;
        words >> mark >> kind >> name >> type;
        if (kind == "HELP") {
            CHECK(seen.insert(name).second);
            family = name;
            helps++;
        } else if (kind == "TYPE") {
            CHECK(name == family);
            CHECK(type == (family.ends_with("_total") ? "counter" : "gauge"));
            types++;
        } else {
            CHECK(line.substr(0, line.find_first_of("{ ")) == family);
            samples++;
        }
    }
    CHECK(helps == types);
    CHECK(helps > 25);
    CHECK(samples > 80);
}

TEST_CASE("metrics: a worker's numbers have its instance, in base units") {
    auto text = metrics_of(example());
    CHECK(has(text, "\ndrover_worker_live{cluster=\"web\",instance=\"0\"} 12\n"));
    CHECK(has(text, "\ndrover_worker_queued{cluster=\"web\",instance=\"0\"} 2\n"));
    CHECK(has(text, "\ndrover_worker_restarts_total{cluster=\"web\",instance=\"0\"} 1\n"));
    CHECK(has(text, "\ndrover_worker_weight{cluster=\"web\",instance=\"0\"} 3\n"));
    CHECK(has(text, "\ndrover_worker_memory_bytes{cluster=\"web\",instance=\"0\"} 1048576\n"));
    CHECK(has(text, "\ndrover_worker_load{cluster=\"web\",instance=\"0\"} 0.5\n"));
    CHECK_FALSE(has(text, "drover_worker_load{cluster=\"web\",instance=\"1\"}"));
    CHECK_FALSE(has(text, "id=\"7\""));
}

TEST_CASE("metrics: what an instance's former workers took and used is counted on") {
    auto text = metrics_of(example());
    CHECK(has(text, "\ndrover_worker_accepted_total{cluster=\"web\",instance=\"0\"} 1000\n"));
    CHECK(has(text, "\ndrover_worker_accepted_total{cluster=\"web\",instance=\"1\"} 0\n"));
    CHECK(has(text, "\ndrover_worker_cpu_seconds_total{cluster=\"web\",instance=\"0\"} 2\n"));
}

TEST_CASE("metrics: two workers of one instance are added up") {
    Status status = example();
    WorkerStatus leaving = a_worker(3, 0, State::draining);
    leaving.live = 5;
    leaving.queued = 1;
    leaving.accepted_total = 50;
    leaving.memory_bytes = 10;
    status.workers.insert(status.workers.begin(), leaving);
    auto text = metrics_of(status);
    CHECK(has(text, "drover_worker_live{cluster=\"web\",instance=\"0\"} 17\n"));
    CHECK(has(text, "drover_worker_queued{cluster=\"web\",instance=\"0\"} 3\n"));
    CHECK(has(text, "drover_worker_accepted_total{cluster=\"web\",instance=\"0\"} 1050\n"));
    CHECK(has(text, "drover_worker_memory_bytes{cluster=\"web\",instance=\"0\"} 1048586\n"));
    CHECK(has(text, "drover_worker_ready{cluster=\"web\",instance=\"0\"} 1\n"));
    CHECK(has(text, "drover_workers{cluster=\"web\",state=\"ready\"} 2\n"));
    CHECK(has(text, "drover_workers{cluster=\"web\",state=\"draining\"} 1\n"));
}

TEST_CASE("metrics: what is unknown is left out, not said to be 0") {
    Status status = example();
    for (auto& one : status.workers) one.live = one.queued = one.accepted_total = std::nullopt;
    auto text = metrics_of(status);
    for (const char* name : {"live", "queued", "accepted_total"})
        CHECK_FALSE(has(text, fmt::format("\ndrover_worker_{}{{", name)));
    CHECK(has(text, "\ndrover_worker_weight{"));
}

TEST_CASE("metrics: decisions are told by group and reason") {
    auto text = metrics_of(example());
    CHECK(has(text,
              "drover_decisions_total{cluster=\"web\",group=\"tcp [::]:80\","
              "reason=\"picked\"} 10\n"));
    CHECK(has(text,
              "drover_decisions_total{cluster=\"web\",group=\"tcp [::]:80\","
              "reason=\"pinned\"} 6\n"));
    CHECK(has(text,
              "drover_decisions_total{cluster=\"web\",group=\"tcp 0.0.0.0:81\","
              "reason=\"picked\"} 0\n"));
    CHECK(has(text, "drover_group_parked{cluster=\"web\",group=\"tcp [::]:80\"} 3\n"));
    CHECK(has(text, "drover_group_active{cluster=\"web\",group=\"tcp [::]:80\"} 2\n"));
}

TEST_CASE("metrics: exits and events are told of every kind, from 0 on") {
    Tally tally;
    auto none = metrics_of(example(), tally);
    for (const char* reason : {"crash", "stopped", "reload", "recycle", "memory", "stalled",
                               "unhealthy", "timeout", "exec"})
        CHECK(has(none,
                  fmt::format("drover_exits_total{{cluster=\"web\",reason=\"{}\"}} 0\n", reason)));
    Event exit, stalled;
    exit.kind = EventKind::exit;
    exit.data = ExitData{{1, std::nullopt, ExitReason::crash}, {}};
    stalled.kind = EventKind::stalled;
    tally.count(exit);
    tally.count(exit);
    tally.count(stalled);
    auto text = metrics_of(example(), tally);
    CHECK(has(text, "drover_exits_total{cluster=\"web\",reason=\"crash\"} 2\n"));
    CHECK(has(text, "drover_events_total{cluster=\"web\",event=\"exit\"} 2\n"));
    CHECK(has(text, "drover_events_total{cluster=\"web\",event=\"stalled\"} 1\n"));
    CHECK(has(text, "drover_events_total{cluster=\"web\",event=\"restart-limit\"} 0\n"));
}

TEST_CASE("metrics: a label's value is escaped and UTF-8, whatever a file is called") {
    Status status = example();
    status.policy = "a\"b\\c\nd\xff.o";
    auto text = metrics_of(status);
    CHECK(has(text, "policy=\"a\\\"b\\\\c\\nd\xef\xbf\xbd.o\"} 1\n"));
}

TEST_CASE("metrics: the master tells of itself") {
    auto text = metrics_of(example());
    CHECK(has(text, "\nprocess_resident_memory_bytes 4096\n"));
    CHECK(has(text, "\nprocess_cpu_seconds_total 0.25\n"));
    CHECK(has(text, "\nprocess_open_fds 17\n"));
    CHECK(has(text, "\nprocess_start_time_seconds 1700000000.500\n"));
    OwnProcess own = look_at_own_process(WallTime(std::chrono::milliseconds(1500)));
    CHECK(own.resident_bytes > 100'000);
    CHECK(own.cpu_seconds > 0);
    CHECK(own.open_fds >= 3);
    CHECK(own.started_at == 1.5);
}

TEST_CASE("pages: one for each path, and a list of them for any other") {
    CHECK(ask(example(), "/healthz").body == "ok\n");
    CHECK(ask(example(), "/metrics").type == "text/plain; version=0.0.4; charset=utf-8");
    CHECK(has(ask(example(), "/metrics").body, "drover_info{"));
    CHECK(ask(example(), "/status").type == "application/json");
    for (const char* path : {"/", "/metrics/", "/nothing", "", "/STATUS"}) {
        CAPTURE(path);
        CHECK(ask(example(), path).status == 404);
        for (const char* known : {"/metrics", "/healthz", "/readyz", "/status"})
            CHECK(has(ask(example(), path).body, known));
    }
}

TEST_CASE("pages: only reading is allowed") {
    CHECK(ask(example(), "/healthz", "HEAD").status == 200);
    for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS", "get"}) {
        CAPTURE(method);
        CHECK(ask(example(), "/healthz", method).status == 405);
        CHECK(ask(example(), "/healthz", method).tells_methods);
    }
}

TEST_CASE("pages: ready is a cluster that has a worker to answer") {
    Status status = example();
    CHECK(ask(status, "/readyz").status == 200);
    CHECK(ask(status, "/readyz").body == "2 of 2 workers are ready\n");

    status.workers[0].state = State::backoff;
    status.ready = 1;
    status.state = "degraded";
    CHECK(ask(status, "/readyz").status == 200);

    status.workers[1].flags = {"held"};
    CHECK(ask(status, "/readyz").status == 503);
    CHECK(has(ask(status, "/readyz").body, "held"));

    status.workers[1].state = State::starting;
    CHECK(ask(status, "/readyz").status == 503);
    CHECK(ask(status, "/readyz").body == "no worker is ready, of 2\n");

    Status stopping = example();
    stopping.state = "stopping";
    CHECK(ask(stopping, "/readyz").status == 503);
    CHECK(has(ask(stopping, "/readyz").body, "stopping"));
}

TEST_CASE("pages: the status is the control socket's, without what may have arguments in it") {
    Status status = example();
    status.workers[0].reason = "port 80 is taken: pid 7 (\"server --password=x\") listens on it";
    Json expected = to_json(status), told = Json::parse(ask(status, "/status").body);
    CHECK_FALSE(has(told.dump(), "password"));
    for (Json& one : expected["workers"]) one.erase("reason");
    CHECK(told == expected);
}

TEST_SUITE_END();
