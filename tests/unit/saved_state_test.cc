// SPDX-License-Identifier: MIT
//
// What a master writes down of itself, and what a later one makes of it.
#include "supervisor/saved_state.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "supervisor_rig.h"

using namespace drover;
using namespace drover::supervisor;
using namespace drover::supervisor::test;

namespace {

Config given(std::vector<std::pair<std::string, std::string>> options) {
    Config config;
    for (const auto& [name, value] : options) REQUIRE(set_option(config, name, value));
    config.command = {"node", "server.js"};
    return *complete(config);
}

SavedState example() {
    SavedState state;
    state.releases[1] = given({{"workers", "2"}, {"port", "80"}, {"env", "A=1"}, {"env", "B=2"}});
    state.releases[3] = given({{"workers", "2"}, {"port", "80"}, {"drain-timeout", "3s"}});
    state.releases[3].file_env = {"C=3"};
    state.releases[3].source = {"/etc/web.toml", {{"workers", "2"}}, {"node", "server.js"}};
    state.stable = 1;
    state.trial = 3;
    state.is_canary = true;
    state.last_generation = 4;
    state.last_id = 9;
    state.policy = "least-conn";
    state.notify_address = "@x";
    state.instances = {{0, 1, 1, 7, {900, 1250}}, {1, 3, 5, 0, {}}};
    state.workers = {{8, 0, 1, true, false, false, 1000, 99, 12345, 3, true, 5},
                     {9, 1, 3, false, true, true, 2000, 98, 12346, 4, false, -1, true, true, true}};
    return state;
}

bool mentions(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

std::string error_of(const std::string& text) {
    auto parsed = parse_saved_state(text);
    CHECK((parsed || parsed.error().code == "unusable"));
    return parsed ? "" : parsed.error().text;
}

}  // namespace

TEST_CASE("saved state: what is written is read back") {
    auto state = parse_saved_state(to_text(example()));
    REQUIRE(state);
    CHECK(state->releases == example().releases);
    CHECK(state->releases.at(1).env == std::vector<std::string>{"A=1", "B=2"});
    CHECK(state->releases.at(3).drain_timeout == 3s);
    CHECK(to_text(*state) == to_text(example()));
    CHECK(state->workers[1].is_held);
    CHECK(state->workers[1].is_stalled);
    CHECK(state->instances[0].former == FormerWorkers{900, 1250});
    CHECK(state->workers[0].pid_started == 12345);
    CHECK(*state->trial == 3);
    CHECK_FALSE(state->former);
}

TEST_CASE("saved state: what is no UTF-8 is read back as it was") {
    SavedState state = example();
    state.releases[1] = given({{"workers", "2"}, {"env", "A=\xff\x01"}});
    state.releases[3].command = {"caf\xe9", "café"};
    std::string text = to_text(state);
    CHECK(mentions(text, "\"café\""));
    auto read = parse_saved_state(text);
    REQUIRE(read);
    CHECK(read->releases == state.releases);
    CHECK(read->releases.at(1).env == std::vector<std::string>{"A=\xff\x01"});
    for (const char* bytes : {"[256]", "[-1]", "7", "[\"x\"]"}) {
        CAPTURE(bytes);
        CHECK_FALSE(error_of(R"({"bytes":)" + std::string(bytes) + "}").empty());
    }
}

TEST_CASE("saved state: what is broken is refused, whatever it is") {
    for (const char* text : {"", "{", "[]", "7", "{}", R"({"v":1})"}) {
        CAPTURE(text);
        CHECK_FALSE(error_of(text).empty());
    }
    std::string whole = to_text(example());
    auto with = [&](const std::string& what, const std::string& instead) {
        std::string changed = whole;
        auto at = changed.find(what);
        REQUIRE(at != std::string::npos);
        return changed.replace(at, what.size(), instead);
    };
    CHECK(mentions(error_of(with(R"("v": 1)", R"("v": 2)")), "another version"));
    CHECK(mentions(error_of(with(R"("maps": )", R"("maps": 9)")), "another version"));
    CHECK(mentions(error_of(with(R"("stable": 1)", R"("stable": 2)")), "fit together"));
    CHECK(mentions(error_of(with(R"("slot": 3)", R"("slot": 511)")), "fit together"));
    CHECK(mentions(error_of(with(R"("slot": 3)", R"("slot": -1)")), "fit together"));
    CHECK_FALSE(error_of(with(R"("slot": 3)", R"("slot": "3")")).empty());
    CHECK_FALSE(error_of(with("least-conn", "\\ud800")).empty());
    // Nothing that was cut off is taken for whole.
    for (size_t size = 0; size + 2 < whole.size(); size += 7)
        CHECK_FALSE(error_of(whole.substr(0, size)).empty());
}

TEST_CASE("saved state: a file that others could have written is not believed") {
    char pattern[] = "/tmp/drover-saved-XXXXXX";
    REQUIRE(::mkdtemp(pattern) != nullptr);
    std::string folder = pattern;
    Paths paths{folder, folder, folder, folder};
    std::filesystem::create_directories(paths.run("web"));
    CHECK(mentions(load_state(paths, "web").error().text, "state.json"));
    REQUIRE(save_state(paths, "web", example()));
    REQUIRE(load_state(paths, "web"));
    std::string file = paths.run("web") + "/state.json";
    struct stat info {};
    REQUIRE(::stat(file.c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == 0600);
    REQUIRE(::chmod(file.c_str(), 0620) == 0);
    CHECK(mentions(load_state(paths, "web").error().text, "others"));
    std::filesystem::remove(file);
    std::ofstream(folder + "/elsewhere") << to_text(example());
    REQUIRE(::symlink((folder + "/elsewhere").c_str(), file.c_str()) == 0);
    CHECK_FALSE(load_state(paths, "web"));
    std::filesystem::remove_all(folder);
}

TEST_CASE("saved state: a process is known by its start, too") {
    CHECK(start_of_process(::getpid()) > 0);
    CHECK(start_of_process(::getpid()) == start_of_process(::getpid()));
    CHECK(start_of_process(0x3fffffff) == 0);
}

TEST_CASE("saved state: what differs is a policy, a number, a release, or not to be had") {
    SavedState state = example();
    state.trial.reset();
    state.releases.erase(3);
    state.instances[1].generation = 1;
    state.workers.clear();
    using Options = std::vector<std::pair<std::string, std::string>>;
    const Options same = {{"workers", "2"}, {"port", "80"}, {"env", "A=1"}, {"env", "B=2"}};
    auto nothing = changes_since(state, given(same));
    REQUIRE(nothing);
    CHECK_FALSE(nothing->policy);
    CHECK_FALSE(nothing->workers);
    CHECK_FALSE(nothing->release);
    CHECK(nothing->before.policy == Policy::least_conn);  // as it was changed to

    Options other = same;
    other[0].second = "3";
    other.push_back({"policy", "hash"});
    auto both = changes_since(state, given(other));
    REQUIRE(both);
    CHECK(both->workers == 3);
    CHECK(both->policy == PolicyChoice(Policy::hash));
    CHECK_FALSE(both->release);

    // A master that becomes another program wants what there is.
    state.instances.push_back({2, 1, 1, 0, {}});
    auto upgraded = changes_since(state, config_of(state));
    REQUIRE(upgraded);
    CHECK_FALSE(upgraded->policy);
    CHECK_FALSE(upgraded->workers);
    CHECK_FALSE(upgraded->release);
    state.instances.pop_back();

    Options release = same;
    release.push_back({"drain-timeout", "1s"});
    CHECK(changes_since(state, given(release))->release->drain_timeout == 1s);
    Config command = given(same);
    command.command = {"python3"};
    CHECK(changes_since(state, command)->release->command.front() == "python3");

    Options port = same;
    port[1].second = "81";
    auto refused = changes_since(state, given(port));
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == "usage");
    CHECK(mentions(refused.error().text, "--port"));
}

TEST_CASE("taking over: those that live go on, the others are started") {
    Rig first(config_of(3));
    for (WorkerId id : {1, 2, 3}) first.becomes_ready(id);
    first.ask([&](Done done) { first.supervisor->weight(2, 7, std::move(done)); });
    auto held = first.drain(2);
    first.effects.busy = {2};
    SavedState saved = first.effects.saved;
    CHECK(saved.workers.size() == 3);
    CHECK(saved.last_id == 3);
    saved.workers.pop_back();  // the third has died since
    for (SavedWorker& worker : saved.workers) worker.pid = 1000 + static_cast<int>(worker.id);

    EventLoop loop = *EventLoop::open();
    struct Nobody : Observer {
        void on_event(const Event&) override {}
    } nobody;
    FakeEffects effects;
    effects.last_id = 3;
    effects.living = {{1, 0}, {2, 1}};
    effects.active = {1};
    Supervisor second(config_of(3), loop, effects, nobody);
    int over = -1;
    second.take_over(saved, [&over](int status) { over = status; });
    CHECK(effects.calls == Calls{"spawn 4"});
    auto status = second.status();
    REQUIRE(status.workers.size() == 3);
    CHECK(status.ready == 2);
    CHECK(status.workers[1].flags == std::vector<std::string>{"held"});
    CHECK(status.workers[1].weight == 7);
    CHECK(status.workers[2].instance == 2);
    CHECK(*status.workers[0].pid == 1001);
    // A death is judged as any other.
    second.on_exit(1, Exit{});
    CHECK(std::ranges::find(effects.calls, "release 1") != effects.calls.end());
    second.stop(std::nullopt, [](const Result<void>&) {});
    for (int i = 0; i < 20 && !effects.living.empty(); i++) {
        for (WorkerId id : std::map(effects.living) | std::views::keys)
            second.on_exit(id, Exit{0, {}, {}});
        loop.run_once(1ms);
    }
    for (int i = 0; i < 20 && over < 0; i++) loop.run_once(1ms);
    CHECK(over == 0);
}
