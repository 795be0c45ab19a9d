// SPDX-License-Identifier: MIT
//
// The supervisor with effects that only write down what they were asked to do, and a real event
// loop. The tests are the kernel and the user: they tell the supervisor what happened to its
// workers and look at what it did, what it reported and what it answered.
//
// Times are real, so they are tiny. Waiting means turning the loop until something is true, with a
// deadline; "nothing happens" means that the loop has turned and it is still so.
#pragma once

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <ranges>

#include "supervisor/supervisor.h"

namespace drover::supervisor::test {

using namespace std::chrono_literals;

using Calls = std::vector<std::string>;
using Ids = std::set<WorkerId>;

inline constexpr Duration kFar{3'600'000};  // does not come in a test
inline const ListeningData kHttp{"tcp", "0.0.0.0", 80};
inline const ListeningData kHttps{"tcp", "0.0.0.0", 443};

class FakeEffects : public Effects {
  public:
    Result<Spawned> spawn(const SpawnOrder& order) override {
        auto [id, instance, generation, workers, config] = order;
        configs[id] = config;
        generations[id] = generation;
        calls.push_back(fmt::format("spawn {}", id));
        CHECK(id == ++last_id);  // counts up, never reused
        if (spawn_error) return tl::unexpected(*spawn_error);
        CHECK((may_overlap || !living_instances().contains(instance)));
        living[id] = instance;
        spawned_with_workers = workers;
        return Spawned{1000 + static_cast<int>(id), static_cast<int>(id) - 1};
    }
    void activate(WorkerId id) override {
        calls.push_back(fmt::format("activate {}", id));
        CHECK(living.contains(id));
        active.insert(id);
    }
    void deactivate(WorkerId id) override {
        calls.push_back(fmt::format("deactivate {}", id));
        active.erase(id);
    }
    bool is_drained(WorkerId id) override {
        CHECK_FALSE(active.contains(id));
        return !busy.contains(id);
    }
    Result<void> signal(WorkerId id, int number) override {
        calls.push_back(fmt::format("signal {} {}", id, number));
        if (!living.contains(id)) return fail("no-such-worker", "it is gone");
        return {};
    }
    Result<void> send(WorkerId id, const std::string& data, WorkerId from) override {
        if (full.contains(id)) return fail("queue-full", "its queue is full");
        calls.push_back(fmt::format("send {} {} from {}", id, data, from));
        return {};
    }
    void ask_to_finish(WorkerId id, std::chrono::milliseconds) override {
        CHECK(living.contains(id));
        asked_to_finish.insert(id);
    }
    void probe(WorkerId id, const std::string& path, std::chrono::milliseconds) override {
        CHECK(living.contains(id));
        CHECK(probed.insert(id).second);  // one at a time
        calls.push_back(fmt::format("probe {} {}", id, path));
    }
    void ask(WorkerId id, const std::string& path, Asked tell) override {
        calls.push_back(fmt::format("ask {} {}", id, path));
        tell(worker::ProbeAnswer{200, "HTTP/1.1 200 OK", {}, 0, ""});
    }
    void rescue(WorkerId id) override {
        CHECK(living.contains(id));
        calls.push_back(fmt::format("rescue {}", id));
    }
    void set_weight(WorkerId id, int weight) override {
        CHECK(living.contains(id));
        calls.push_back(fmt::format("weight {} {}", id, weight));
    }
    void kill(WorkerId id) override {
        calls.push_back(fmt::format("kill {}", id));
        CHECK(living.contains(id));
    }
    void last_lines(WorkerId id, LastLines tell) override {
        tell({fmt::format("last line of {}", id)});
    }
    void release(WorkerId id) override {
        calls.push_back(fmt::format("release {}", id));
        CHECK(released.insert(id).second);
        CHECK_FALSE(active.contains(id));
        living.erase(id);
    }
    bool all_released() const override { return releases_are_done; }
    void refuse_connections() override { calls.emplace_back("refuse"); }
    Result<void> set_policy(const PolicyChoice& policy) override {
        calls.push_back(fmt::format("policy {}", name_of(policy)));
        if (policy_error) return tl::unexpected(*policy_error);
        return {};
    }
    Numbers numbers() override { return given_numbers; }
    void save(SavedState state) override { saved = std::move(state); }

    std::set<int> living_instances() const {
        std::set<int> all;
        for (const auto& [id, instance] : living) all.insert(instance);
        return all;
    }

    Calls calls;
    std::map<WorkerId, int> living;  // worker → instance
    std::map<WorkerId, std::shared_ptr<const Config>> configs;
    std::map<WorkerId, int> generations;
    Ids active, released, busy;  // busy: has connections
    Ids full, asked_to_finish;   // full: its message queue
    Ids probed;                  // a probe is under way
    WorkerId last_id = 0;
    int spawned_with_workers = 0;
    bool releases_are_done = true;
    bool may_overlap = false;  // two workers of an instance at the same time
    std::optional<Error> spawn_error;
    std::optional<Error> policy_error;
    Numbers given_numbers;
    SavedState saved;  // the last one
};

// What a verb was answered.
struct Answer {
    int count = 0;
    Result<void> result;
    [[nodiscard]] bool came() const { return count == 1; }
    [[nodiscard]] bool ok() const { return came() && result.has_value(); }
    [[nodiscard]] std::string code() const { return came() && !result ? result.error().code : ""; }
};

inline Config config_of(int workers) {
    Config config;
    config.name = "web";
    config.workers = workers;
    config.ready_timeout = config.drain_timeout = config.stop_timeout = kFar;
    config.command = {"server"};
    return config;
}

class Rig : public Observer {
  public:
    explicit Rig(Config config) : loop(*EventLoop::open()) {
        supervisor.emplace(std::move(config), loop, effects, *this);
        supervisor->start([this](int status) { over.push_back(status); });
    }
    ~Rig() override {
        // Each verb is answered exactly once, at the latest when the cluster ends.
        end();
        for (size_t i = 0; i < answers_.size(); i++)
            CHECK_MESSAGE(answers_[i]->count == 1, "verb number ", i + 1, " of the test");
        CHECK(over.size() == 1);
    }

    // Turns the loop until it is true; false where it does not become true.
    bool until(const std::function<bool()>& reached) {
        auto deadline = std::chrono::steady_clock::now() + 5s;
        while (!reached()) {
            if (std::chrono::steady_clock::now() > deadline) return false;
            loop.run_once(10ms);
        }
        return true;
    }
    // Turns the loop a little: what has been put off comes now.
    void turn(std::chrono::milliseconds time = 5ms) {
        auto end = std::chrono::steady_clock::now() + time;
        do loop.run_once(1ms);
        while (std::chrono::steady_clock::now() < end);
    }

    void listens(WorkerId id, const ListeningData& at = kHttp) {
        supervisor->on_listening(id, at, false);
    }
    void becomes_ready(WorkerId id) {
        supervisor->on_exec(id);
        listens(id);
    }
    void exits(WorkerId id, int code = 0) { supervisor->on_exit(id, Exit{code, std::nullopt, {}}); }
    void dies(WorkerId id) { supervisor->on_exit(id, Exit{std::nullopt, "KILL", {}}); }

    // Passes a verb on and keeps its answer.
    template <class Verb>
    std::shared_ptr<Answer> ask(Verb verb) {
        auto answer = std::make_shared<Answer>();
        answers_.push_back(answer);
        verb([answer](Result<void> result) {
            answer->count++;
            answer->result = std::move(result);
        });
        return answer;
    }
    auto stop(std::optional<WorkerId> id = {}) {
        return ask([&](Done done) { supervisor->stop(id, std::move(done)); });
    }
    auto restart(std::optional<WorkerId> id = {}) {
        return ask([&](Done done) { supervisor->restart(id, std::move(done)); });
    }
    auto scale(int workers) {
        return ask([&](Done done) { supervisor->scale(workers, std::move(done)); });
    }
    auto drain(std::optional<WorkerId> id = {}) {
        return ask([&](Done done) { supervisor->drain(id, std::move(done)); });
    }
    auto resume(std::optional<WorkerId> id = {}) {
        return ask([&](Done done) { supervisor->resume(id, std::move(done)); });
    }
    auto signal(std::optional<WorkerId> id, int number) {
        return ask([&](Done done) { supervisor->signal(id, number, std::move(done)); });
    }

    auto reload(const ReloadRequest& request = {}) {
        return ask([&](Done done) { supervisor->reload(request, std::move(done)); });
    }
    auto promote() {
        return ask([&](Done done) { supervisor->promote(std::move(done)); });
    }
    auto roll_back() {
        return ask([&](Done done) { supervisor->roll_back(std::move(done)); });
    }

    // Nothing where there is no such worker (any more).
    std::optional<WorkerStatus> worker(WorkerId id) const {
        for (const WorkerStatus& worker : supervisor->status().workers)
            if (worker.id == id) return worker;
        return std::nullopt;
    }
    bool is(WorkerId id, State state) const {
        auto found = worker(id);
        return found && found->state == state;
    }
    // As texts, so that a failed check shows them: "1 3"; "signal 1 15, release 1".
    std::string ids() const {
        Ids all;
        for (const WorkerStatus& worker : supervisor->status().workers) all.insert(worker.id);
        return fmt::format("{}", fmt::join(all, " "));
    }
    std::string active() const { return fmt::format("{}", fmt::join(effects.active, " ")); }
    std::string calls() const { return fmt::format("{}", fmt::join(effects.calls, ", ")); }
    bool called(const std::string& call) const {
        return std::ranges::find(effects.calls, call) != effects.calls.end();
    }
    long count(const std::string& call) const { return std::ranges::count(effects.calls, call); }
    std::vector<Event> events_of(EventKind kind) const {
        std::vector<Event> all;
        std::ranges::copy_if(events, std::back_inserter(all),
                             [kind](const Event& event) { return event.kind == kind; });
        return all;
    }
    // "event" or "from>to", in order, of one worker.
    std::string story(WorkerId id) const {
        Calls all;
        for (const Event& event : events) {
            if (!event.worker || event.worker->id != id) continue;
            if (const auto* change = std::get_if<StateData>(&event.data))
                all.push_back(fmt::format("{}>{}", name_of(change->from), name_of(change->to)));
            else
                all.emplace_back(name_of(event.kind));
        }
        return fmt::format("{}", fmt::join(all, " "));
    }

    EventLoop loop;
    FakeEffects effects;
    std::optional<Supervisor> supervisor;
    std::vector<Event> events;
    std::vector<int> over;

  private:
    void on_event(const Event& event) override {
        CHECK(event.seq == (events.empty() ? 1 : events.back().seq + 1));
        events.push_back(event);
    }

    void end() {
        effects.releases_are_done = true;
        effects.spawn_error.reset();
        effects.busy.clear();
        supervisor->stop(std::nullopt, [](const Result<void>&) {});
        for (int i = 0; i < 20 && !effects.living.empty(); i++) {
            for (WorkerId id : std::map(effects.living) | std::views::keys) exits(id);
            turn(1ms);
        }
        turn();
    }

    std::vector<std::shared_ptr<Answer>> answers_;
};

// All workers ready.
struct ReadyRig : Rig {
    explicit ReadyRig(Config config) : Rig(config) {
        for (WorkerId id = 1; id <= static_cast<WorkerId>(*config.workers); id++) becomes_ready(id);
        effects.calls.clear();
    }
    explicit ReadyRig(int workers) : ReadyRig(config_of(workers)) {}
};

}  // namespace drover::supervisor::test
