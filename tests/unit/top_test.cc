// SPDX-License-Identifier: MIT
//
// drover top: rates out of successive statuses, and what the screen is made of them.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include "cli/terminal.h"
#include "cli/top_model.h"
#include "cli/top_screen.h"

using namespace drover;
using namespace drover::cli;
using namespace std::chrono_literals;

namespace {

struct Fake {
    uint64_t id = 1, instance = 0, accepted = 0, cpu_ms = 0, live = 0, memory = 1 << 20;
    std::string state = "ready";
    Json flags = Json::array();
    Json reason = nullptr;
};

Json status_of(const std::vector<Fake>& workers, uint64_t picked = 0, uint64_t moved = 0) {
    Json status = {{"v", 1},
                   {"cluster", "web"},
                   {"pid", 4711},
                   {"version", "0.1.0"},
                   {"state", "running"},
                   {"policy", "least-busy"},
                   {"generation", 1},
                   {"wanted", workers.size()},
                   {"ready", workers.size()},
                   {"groups",
                    {{{"proto", "tcp"},
                      {"addr", "::"},
                      {"port", 80},
                      {"v6only", false},
                      {"active", {0, 1}},
                      {"parked", 0}}}},
                   {"workers", Json::array()},
                   {"decisions_total",
                    {{"picked", picked},
                     {"fallback", 0},
                     {"keeper", 0},
                     {"dropped", 0},
                     {"moved", moved},
                     {"stray", 0}}},
                   {"corrections_total", 0},
                   {"moved_total", 0}};
    for (const auto& worker : workers)
        status["workers"].push_back({{"id", worker.id},
                                     {"instance", worker.instance},
                                     {"generation", 1},
                                     {"pid", 1000 + worker.id},
                                     {"state", worker.state},
                                     {"flags", worker.flags},
                                     {"reason", worker.reason},
                                     {"started_at", "2025-01-01T00:00:00Z"},
                                     {"restarts_total", 0},
                                     {"live", worker.live},
                                     {"queued", 0},
                                     {"accepted_total", worker.accepted},
                                     {"weight", 1},
                                     {"cpu_ms_total", worker.cpu_ms},
                                     {"memory_bytes", worker.memory}});
    return status;
}

// Statuses at times of its own clock.
struct Rig {
    TopModel model;
    TopModel::Steady clock{1000s};
    void look(const Json& status, std::chrono::milliseconds after = 1s) {
        clock += after;
        model.add(status, clock, std::chrono::system_clock::from_time_t(1735689600 + 725));
    }
    [[nodiscard]] const TopRow& row(size_t index = 0) const { return model.rows().at(index); }
};

std::string text_of_line(const TopLine& line) {
    std::string text;
    for (const auto& span : line.spans) text += span.text;
    return text;
}

std::string text_of_screen(const std::vector<TopLine>& lines) {
    std::string text;
    for (const auto& line : lines) text += text_of_line(line) + "\n";
    return text;
}

bool mentions(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

TopFrame frame_of(size_t width, size_t height, bool utf8 = true) {
    TopFrame frame;
    frame.width = width;
    frame.height = height;
    frame.utf8 = utf8;
    return frame;
}

std::vector<Fake> crowd(uint64_t count) {
    std::vector<Fake> workers;
    for (uint64_t i = 0; i < count; ++i)
        workers.push_back({.id = i + 1, .instance = i, .accepted = i, .live = i});
    return workers;
}

}  // namespace

TEST_SUITE_BEGIN("top");

TEST_CASE("rates are differences over the time between two looks") {
    Rig rig;
    rig.look(status_of({{.accepted = 100, .cpu_ms = 50}}, 10));
    CHECK(rig.row().new_per_second == std::nullopt);
    CHECK(rig.row().cpu_percent == std::nullopt);
    CHECK(rig.row().history.empty());
    CHECK(rig.model.cluster().decisions.front().second == std::nullopt);
    rig.look(status_of({{.accepted = 160, .cpu_ms = 1050}}, 30), 2s);
    CHECK(rig.row().new_per_second == doctest::Approx(30));
    CHECK(rig.row().cpu_percent == doctest::Approx(50));
    CHECK(rig.row().history.size() == 1);
    CHECK(rig.row().uptime == 725s);
    CHECK(rig.model.cluster().decisions.front().second == doctest::Approx(10));
    // A corrected count is no negative rate.
    rig.look(status_of({{.accepted = 150, .cpu_ms = 1050}}, 30));
    CHECK(rig.row().new_per_second == doctest::Approx(0));
}

TEST_CASE("a look too soon after another keeps the rates and shows the new state") {
    Rig rig;
    rig.look(status_of({{.accepted = 0}}));
    rig.look(status_of({{.accepted = 10}}));
    rig.look(status_of({{.accepted = 11, .live = 7, .state = "draining"}}), 50ms);
    CHECK(rig.row().new_per_second == doctest::Approx(10));
    CHECK(rig.row().history.size() == 1);
    CHECK(rig.row().live == 7);
    CHECK(rig.row().state == "draining");
    // The next one counts from the last that counted.
    rig.look(status_of({{.accepted = 20}}), 950ms);
    CHECK(rig.row().new_per_second == doctest::Approx(10));
}

TEST_CASE("a replaced worker begins anew, and its instance stays selected") {
    Rig rig;
    rig.look(status_of({{.id = 1, .instance = 0}, {.id = 2, .instance = 1, .accepted = 500}}));
    rig.model.select(1);
    rig.look(status_of({{.id = 1, .instance = 0}, {.id = 3, .instance = 1, .accepted = 4}}));
    CHECK(rig.row(1).new_per_second == std::nullopt);
    CHECK(rig.row(1).history.empty());
    CHECK(rig.model.selected() == 1);
    rig.model.move_selection(5);
    CHECK(rig.model.selected() == 1);
    rig.model.move_selection(-5);
    CHECK(rig.model.selected() == 0);
}

TEST_CASE("rows are sorted by what is chosen, and the selected worker stays it") {
    Rig rig;
    auto status = status_of({{.id = 5, .instance = 1, .live = 9, .memory = 1},
                             {.id = 4, .instance = 0, .live = 3, .memory = 9}});
    rig.look(status);
    CHECK(rig.row(0).instance == 0);
    rig.model.select(0);
    rig.model.set_sort(TopSort::live);
    CHECK(rig.row(0).id == 5);
    CHECK(rig.model.selected() == 1);
    rig.model.set_sort(TopSort::memory);
    CHECK(rig.row(0).id == 4);
    auto sort = TopSort::instance;
    for (int i = 0; i < 5; ++i) sort = next(sort);
    CHECK(sort == TopSort::instance);
}

TEST_CASE("rare decisions are shown once there was one") {
    Rig rig;
    rig.look(status_of({Fake{}}));
    CHECK(rig.model.cluster().decisions.size() == 4);
    rig.look(status_of({Fake{}}, 0, 3));
    REQUIRE(rig.model.cluster().decisions.size() == 5);
    CHECK(rig.model.cluster().decisions.back().first == "moved");
    CHECK(rig.model.cluster().decisions.back().second == doctest::Approx(3));
}

TEST_CASE("the unknown is no zero, and strange answers break nothing") {
    Rig rig;
    auto status = status_of({Fake{}});
    status["workers"][0]["live"] = nullptr;
    status["workers"][0]["accepted_total"] = nullptr;
    rig.look(status);
    rig.look(status);
    CHECK(rig.row().live == std::nullopt);
    CHECK(rig.row().new_per_second == std::nullopt);
    CHECK(rig.model.total().live == std::nullopt);
    for (const char* strange :
         {"null", "[]", "{}", R"({"workers":7,"groups":"x","decisions_total":[1]})",
          R"({"workers":[1,null,{},{"flags":"x","last_exit":3,"started_at":{}}]})"}) {
        rig.look(Json::parse(strange));
        for (size_t width : {0, 1, 60, 80, 200})
            CHECK(render_top(rig.model, frame_of(width, 24)).size() == 24);
    }
}

TEST_CASE("no line is wider than the terminal, and there are as many as it has") {
    Rig rig;
    auto workers = crowd(256);
    workers[3].flags = {"held", "stalled", "unhealthy"};
    workers[4].state = "backoff";
    workers[4].reason = std::string(300, 'x') + "日本語";
    workers[5].accepted = 4'000'000'000;
    for (int i = 0; i < 70; ++i) {
        for (auto& worker : workers) worker.accepted += 100'000, worker.cpu_ms += 16'000;
        rig.look(status_of(workers, 1'000'000'000ULL * static_cast<uint64_t>(i)));
    }
    for (auto [width, height] : std::vector<std::pair<size_t, size_t>>{
             {1, 1}, {59, 24}, {60, 10}, {80, 24}, {100, 30}, {132, 40}, {250, 60}, {80, 9}}) {
        for (bool utf8 : {true, false}) {
            for (size_t selected : {0, 4, 255}) {
                rig.model.select(selected);
                auto frame = frame_of(width, height, utf8);
                frame.message = std::string(200, 'm');
                frame.clusters = {"api", "web"};
                for (const auto& lines : {render_top(rig.model, frame), render_top_help(frame)}) {
                    CHECK(lines.size() == height);
                    for (const auto& line : lines) {
                        auto text = text_of_line(line);
                        CAPTURE(text);
                        CHECK(columns(text) <= width);
                        if (!utf8) CHECK(only_ascii(text) == text);
                    }
                }
            }
        }
    }
}

TEST_CASE("80x24 shows what is asked of it") {
    Rig rig;
    std::vector<Fake> workers = {{.id = 1, .instance = 0}, {.id = 2, .instance = 1, .live = 12}};
    for (int i = 0; i < 20; ++i) {
        workers[1].accepted += 31;
        rig.look(status_of(workers, 31 * static_cast<uint64_t>(i)));
    }
    workers[1].flags = {"held"};
    rig.look(status_of(workers, 31 * 20), 100ms);
    rig.model.select(1);
    auto frame = frame_of(80, 24);
    frame.message = "drained worker 2";
    auto lines = render_top(rig.model, frame);
    auto text = text_of_screen(lines);
    CAPTURE(text);
    CHECK(mentions(text, "web  running  2 of 2 ready  least-busy  generation 1"));
    CHECK(mentions(text, "tcp [::]:80: 2 active, 0 parked"));
    CHECK(mentions(text, "decisions/s  picked 31  fallback 0  keeper 0  dropped 0"));
    CHECK(mentions(text, "live 12  queued 0  new/s 31"));
    for (const char* heading :
         {"INST", "ID", "PID", "STATE", "UP", "LIVE", "QUEUED", "NEW/S", "CPU%", "MEM", "RESTARTS"})
        CHECK(mentions(text, heading));
    CHECK(mentions(text, ">    1   2   1002 ready held 12m   12      0    31"));
    CHECK(mentions(text, "████"));
    CHECK(mentions(text, "drained worker 2"));
    CHECK(mentions(text, "q quit"));
    CHECK(mentions(text, "h help"));
    // Only a wider terminal has room for further columns.
    CHECK(!mentions(text, "ACCEPTED"));
    auto wide = text_of_screen(render_top(rig.model, frame_of(132, 40)));
    CHECK(mentions(wide, "ACCEPTED"));
    CHECK(mentions(wide, "LAST"));
}

TEST_CASE("a list that does not fit is moved along with the selection") {
    Rig rig;
    rig.look(status_of(crowd(64)));
    auto frame = frame_of(80, 24);
    CHECK(mentions(text_of_screen(render_top(rig.model, frame)), "worker 1 (1 of 64)"));
    rig.model.select(SIZE_MAX);
    auto lines = render_top(rig.model, frame);
    CHECK(mentions(text_of_screen(lines), "worker 64 (64 of 64)"));
    size_t selected = 0;
    for (const auto& line : lines) selected += line.is_selected ? 1 : 0;
    CHECK(selected == 1);
}

TEST_CASE("what a worker says cannot command the terminal") {
    Rig rig;
    rig.look(status_of({{.state = "ready\033[2J", .reason = "busy\033]0;x\007"}}));
    auto text = text_of_screen(render_top(rig.model, frame_of(132, 40)));
    CHECK(!mentions(text, "\033"));
    CHECK(mentions(text, "busy\\x1b]0;x\\x07"));
}

TEST_CASE("a spark line is on one scale, with nothing told from little") {
    CHECK(spark({0, 1, 50, 100}, 4, 100, true) == "▁▂▅█");
    CHECK(spark({0, 1, 50, 100}, 4, 100, false) == "_.=#");
    CHECK(spark({1, 2, 3}, 2, 3, false) == "+#");
    CHECK(spark({3}, 3, 3, false) == "  #");
    CHECK(spark({}, 3, 0, true) == "   ");
}

TEST_CASE("numbers stay short") {
    CHECK(short_count(0) == "0");
    CHECK(short_count(9999) == "9999");
    CHECK(short_count(12'345) == "12.3k");
    CHECK(short_count(99'999) == "100k");
    CHECK(short_count(999'999) == "1.0M");
    CHECK(short_count(UINT64_MAX) == "18.4E");
    CHECK(short_rate(0) == "0");
    CHECK(short_rate(0.44) == "0.4");
    CHECK(short_rate(9.97) == "10");
    CHECK(short_rate(123'456) == "123k");
    CHECK(short_duration(999ms) == "0s");
    CHECK(short_duration(99s) == "99s");
    CHECK(short_duration(725s) == "12m");
    CHECK(short_duration(3h) == "3h");
    CHECK(short_duration(500h) == "20d");
}

TEST_CASE("wide characters take two columns") {
    CHECK(columns("日本") == 4);
    CHECK(columns("é✓") == 2);
    CHECK(columns("e\xcc\x81") == 1);  // a combining accent
    CHECK(clip("日本語", 5) == "日本…");
    CHECK(clip("日本語", 4) == "日…");
    CHECK(clip("日本語", 6) == "日本語");
    CHECK(clip("abc", 0) == "");
    CHECK(only_ascii("aé日") == "a???");
}

TEST_SUITE_END();
