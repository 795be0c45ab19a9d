// SPDX-License-Identifier: MIT
//
// Everything at once and for long: under load, at random, workers are killed, stopped and hung, the
// cluster is reloaded, scaled, rescued and upgraded, its master is killed; sometimes two of these
// together. All the time nothing may be lost but what a worker that was killed had accepted, and
// after each round everything has to be as it should.
//
//     make soak MINUTES=30               DROVER_TEST_SEED=N repeats the choices of a former one
//
// A round has two parts. In the first a crowd (crowd.h) is served, and what it misses is compared
// with what the workers have accepted and not answered. In the second connections come and go in
// every way (churn.h), and each worker's count is compared with its sockets.
#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <thread>

#include "churn.h"
#include "counters.h"
#include "crowd.h"
#include "harness.h"
#include "http.h"
#include "truth.h"

namespace drover::test {

namespace {

namespace fs = std::filesystem;

constexpr milliseconds kSettleDeadline{60'000};
constexpr milliseconds kGoneDeadline{5'000};
constexpr size_t kFewest = 2, kMost = 6, kUsual = 4;  // workers
constexpr size_t kMostMemory = 4 << 10;               // of the master, RssAnon, kB

unsigned seed() {
    const char* given = std::getenv("DROVER_TEST_SEED");
    return given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10))
                            : std::random_device()();
}

// How long it goes on; without DROVER_SOAK_MINUTES one round.
milliseconds length() {
    const char* minutes = std::getenv("DROVER_SOAK_MINUTES");
    return std::chrono::minutes(minutes != nullptr ? std::atoi(minutes) : 0);
}

size_t count_entries(const std::string& folder) {
    std::error_code error;
    size_t count = 0;
    for (auto it = fs::directory_iterator(folder, error); it != fs::directory_iterator(); ++it)
        count++;
    return count;
}

std::set<std::string> names_in(const std::string& folder) {
    std::error_code error;
    std::set<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(folder, error))
        names.insert(entry.path().string());
    return names;
}

std::set<std::string> folders_in(const std::string& folder) {
    std::error_code error;
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder, error))
        if (entry.is_directory()) names.insert(entry.path().filename());
    return names;
}

// A figure of /proc/PID/status, in kB.
size_t memory_of(pid_t pid, const std::string& which) {
    std::string status = read_file(fmt::format("/proc/{}/status", pid));
    auto at = status.find(which + ":");
    return at == std::string::npos ? 0 : std::stoul(status.substr(at + which.size() + 1));
}

// Children that have ended and that nobody has asked for, by name.
Words zombies_of(pid_t parent) {
    Words names;
    std::string tasks = fmt::format("/proc/{0}/task/{0}/children", parent);
    std::istringstream children(read_file(tasks));
    for (pid_t child = 0; children >> child;) {
        std::string status = read_file(fmt::format("/proc/{}/status", child));
        if (contains(status, "State:\tZ")) names.push_back(status);
    }
    return names;
}

class Soak {
  public:
    explicit Soak(unsigned with_seed) : random_(with_seed) {
        run();
        pins_ = names_in(sandbox_.pins());
        REQUIRE_FALSE(pins_.empty());
    }

    void round() {
        rounds_++;
        serve_a_crowd();
        let_churn();
        check_everything();
    }

    void end() {
        CHECK(cluster_->stop(kSettleDeadline) == 0);
        CHECK(sandbox_.leftovers() == "");
    }

    [[nodiscard]] std::string text() const {
        std::string deeds;
        for (const auto& [name, count] : done_) deeds += fmt::format(", {} {}", name, count);
        return fmt::format(
            "{} rounds, {} requests, {} lost of {} that the killed workers had accepted, {} "
            "churned connections; {} hung workers seen; master: {} kB, {} descriptors{}",
            rounds_, requests_, lost_, accepted_only_, churned_, hung_seen_,
            memory_of(cluster_->master().pid(), "RssAnon"), descriptors(), deeds);
    }

  private:
    // --- The parts of a round ---

    void serve_a_crowd() {
        auto before = read_counters(counters_file());
        CrowdOptions options;
        options.rate = 200;
        options.keep_alive = 0;  // the counters know of one request a connection
        options.long_lived = 10;
        Crowd crowd(options);
        REQUIRE(crowd.wait_answered(50));
        for (size_t left = 3 + draw(4); left > 0; left--) do_something();
        REQUIRE(crowd.wait_answered(50));
        auto result = crowd.stop();
        auto after = read_counters(counters_file());
        auto accepted_only =
            (after.accepted - before.accepted) - (after.answered - before.answered);
        INFO("round ", rounds_, ": ", last_, ": ", result.text());
        CHECK(static_cast<uint64_t>(result.failed()) <= accepted_only);
        requests_ += result.started;
        lost_ += result.failed();
        accepted_only_ += accepted_only;
    }

    void let_churn() {
        Churn churn(random_());
        // A master ends with the thread that has started it: this one.
        std::thread clients([&churn] {
            for (int i = 0; i < 500; i++) churn.step();
        });
        do_something();
        clients.join();
        INFO("round ", rounds_, ": ", last_);
        check_counts(sandbox_, *cluster_);
        churn.close_all();
        check_counts(sandbox_, *cluster_);
        churned_ += churn.connected();
    }

    // --- What is done ---

    // Drawn before anything is done: two threads may be doing something.
    struct Choice {
        size_t worker = 0;  // one of those in the status
        size_t number = 0;  // of anything
    };
    struct Deed {
        std::string name;
        std::function<void(const Choice&)> act;
    };

    std::vector<Deed> deeds() {
        return {
            {"reload",
             [this](const Choice&) {
                 tell({"reload", "web"});
             }},
            {"reload at once",
             [this](const Choice&) {
                 tell({"reload", "web", "--parallel", "4"});
             }},
            {"canary taken back",
             [this](const Choice&) {
                 tell({"reload", "web", "--canary", "1"});
                 tell({"rollback", "web"});
             }},
            {"canary promoted",
             [this](const Choice&) {
                 tell({"reload", "web", "--canary", "1"});
                 tell({"promote", "web"});
             }},
            {"scale",
             [this](const Choice& choice) {
                 workers_ = kFewest + choice.number % (kMost - kFewest + 1);
                 tell({"scale", "web", std::to_string(workers_)});
             }},
            {"restart",
             [this](const Choice& choice) {
                 tell({"restart", target(choice)});
             }},
            {"rescue",  // it may have no other to give its connections to
             [this](const Choice& choice) {
                 (void)cluster_->drover({"rescue", target(choice)});
             }},
            {"drain, resume",
             [this](const Choice& choice) {
                 std::string worker = target(choice);
                 // It waits for as long as somebody holds a connection.
                 (void)cluster_->drover({"drain", worker}, milliseconds(1'000));
                 tell({"resume", worker});
             }},
            {"weight",
             [this](const Choice& choice) {
                 tell({"weight", target(choice), std::to_string(1 + choice.number % 9)});
             }},
            {"policy",
             [this](const Choice& choice) {
                 static const Words kAll = {"least-busy", "least-conn", "round-robin", "hash",
                                            "source"};
                 tell({"policy", "web", kAll[choice.number % kAll.size()]});
             }},
            {"upgrade",
             [this](const Choice&) {
                 tell({"upgrade", "web"});
             }},
            {"a worker killed", [this](const Choice& choice) { kill_worker(choice); }},
            {"a worker stopped", [this](const Choice& choice) { stop_worker(choice); }},
            {"a worker hung", [this](const Choice& choice) { hang_worker(choice); }},
            {"the master killed",
             [this](const Choice&) {
                 kill_master();
                 run();
             }},
        };
    }

    // One thing, and in every third case somebody is killed or stopped in the middle of it.
    void do_something() {
        auto all = deeds();
        const Deed& deed = all[draw(all.size())];
        Choice choice{draw(kMost), draw(1'000)};
        is_disturbed_ = draw(3) == 0 && deed.name != "the master killed";
        last_ = deed.name;
        done_[deed.name]++;
        if (is_disturbed_)
            disturb(deed, choice);
        else
            deed.act(choice);
        settle();
    }

    void disturb(const Deed& deed, const Choice& choice) {
        static const Words kKinds = {"a worker killed", "a worker stopped", "the master killed"};
        size_t kind = draw(kKinds.size());
        milliseconds after(draw(400));
        Choice of_disturber{draw(kMost), draw(1'000)};
        last_ += fmt::format(", {} after {} ms", kKinds[kind], after.count());
        done_[kKinds[kind] + " meanwhile"]++;
        std::thread other([&] { deed.act(choice); });
        std::this_thread::sleep_for(after);
        if (kind == 0) kill_worker(of_disturber);
        if (kind == 1) stop_worker(of_disturber);
        if (kind == 2) kill_master();
        other.join();
        if (kind == 2) run();
    }

    void tell(const Words& words) {
        auto outcome = cluster_->drover(words, kSettleDeadline);
        INFO("round ", rounds_, ": ", last_, ": drover ", fmt::format("{}", fmt::join(words, " ")),
             ": ", outcome.err);
        if (!is_disturbed_) CHECK(outcome.status == 0);
    }

    void kill_worker(const Choice& choice) {
        pid_t victim = ready_pid(choice);
        if (victim > 0) ::kill(victim, SIGKILL);
    }

    void stop_worker(const Choice& choice) {
        pid_t victim = ready_pid(choice);
        if (victim <= 0 || ::kill(victim, SIGSTOP) != 0) return;
        std::this_thread::sleep_for(milliseconds(choice.number * 3 / 2));
        ::kill(victim, SIGCONT);
    }

    // Until that is seen, by the connections that wait for it; the policy may give it none.
    void hang_worker(const Choice& choice) {
        pid_t victim = ready_pid(choice);
        if (victim <= 0 || ::kill(victim, SIGSTOP) != 0) return;
        Json found;
        auto is_seen = [&] {
            Json status = cluster_->status();
            if (!status.is_object()) return false;
            for (const auto& worker : status["workers"])
                if (worker["pid"] == victim) found = worker;
            return found.is_object() && contains(found["flags"].dump(), "stalled");
        };
        milliseconds patience = is_disturbed_ ? milliseconds(1'500) : kGoneDeadline;
        bool seen = eventually(is_seen, patience);
        // One that came last of all is to be seen, too.
        if (!seen && !is_disturbed_ && found.is_object() && found["queued"] > 0) {
            INFO("round ", rounds_, ": ", last_, ": ", found.dump(1));
            CHECK(eventually(is_seen, patience));
        }
        ::kill(victim, SIGCONT);
        hung_seen_ += seen ? 1 : 0;
    }

    void kill_master() {
        cluster_->master().send(SIGKILL);
        REQUIRE(cluster_->master().wait() == 128 + SIGKILL);
    }

    // Also after the master was killed.
    void run() {
        workers_ = kUsual;
        Words options = {"-n",
                         std::to_string(kUsual),
                         "--drain-timeout",
                         "1s",
                         "--max-restarts",
                         "1000/60s",
                         "--stop-timeout",
                         "3s"};
        cluster_ = std::make_unique<Cluster>(sandbox_, "web", options,
                                             hello({"--accept-log", counters_file()}));
        REQUIRE(cluster_->wait_ready(kUsual, kSettleDeadline));
    }

    // --- What has to be so ---

    void settle() {
        Json status;
        bool settled = eventually(
            [&] {
                status = cluster_->status();
                if (!status.is_object()) return false;
                for (const auto& worker : status["workers"])
                    if (worker["flags"] == Json({"held"}))
                        (void)cluster_->drover(
                            {"resume", fmt::format("web/{}", int(worker["id"]))});
                return status["wanted"] == workers_ && status["ready"] == workers_ &&
                       status["workers"].size() == workers_ &&
                       status["groups"][0]["active"].size() == workers_;
            },
            kSettleDeadline);
        INFO("round ", rounds_, ": ", last_, ": ", status.dump(1), "\n", cluster_->master().err());
        REQUIRE(settled);
    }

    void check_everything() {
        INFO("round ", rounds_, ": ", last_);
        pid_t master = cluster_->master().pid();
        CHECK(cluster_->status()["corrections_total"] == 0);
        CHECK(names_in(sandbox_.pins()) == pins_);
        CHECK_FALSE(sandbox_.has_frozen());
        Words zombies;
        eventually([&] { return (zombies = zombies_of(master)).empty(); }, kGoneDeadline);
        CHECK(fmt::format("{}", fmt::join(zombies, ", ")) == "");
        // A cgroup for each worker, and none else.
        std::set<std::string> unknown;
        eventually([&] { return (unknown = unknown_cgroups()).empty(); }, kGoneDeadline);
        CHECK(fmt::format("{}", fmt::join(unknown, ", ")) == "");
        CHECK(memory_of(master, "RssAnon") <= kMostMemory);
        CHECK(descriptors() <= 60 + 10 * workers_);
    }

    std::set<std::string> unknown_cgroups() {
        auto folders = folders_in(sandbox_.cgroup() + "/web");
        Json status = cluster_->status();
        for (const auto& worker : status["workers"])
            folders.erase(fmt::format("w{}", int(worker["id"])));
        for (const char* own : {"logger", "keeper", "master"}) folders.erase(own);
        return folders;
    }

    [[nodiscard]] size_t descriptors() const {
        return count_entries(fmt::format("/proc/{}/fd", cluster_->master().pid()));
    }

    // --- Helpers ---

    size_t draw(size_t below) { return random_() % below; }

    Json worker(const Choice& choice) {
        Json status = cluster_->status();
        if (!status.is_object() || status["workers"].empty()) return {};
        return status["workers"][choice.worker % status["workers"].size()];
    }
    std::string target(const Choice& choice) {
        Json chosen = worker(choice);
        return chosen.is_object() && chosen["id"].is_number()
                   ? fmt::format("web/{}", int(chosen["id"]))
                   : "web/1";
    }
    pid_t ready_pid(const Choice& choice) {
        Json chosen = worker(choice);
        return chosen.is_object() && chosen["state"] == "ready" ? chosen["pid"].get<pid_t>() : 0;
    }
    [[nodiscard]] std::string counters_file() const { return sandbox_.path("counters"); }

    std::mt19937 random_;
    Sandbox sandbox_;
    std::unique_ptr<Cluster> cluster_;
    size_t workers_ = kUsual;  // wanted
    bool is_disturbed_ = false;
    std::string last_;  // what was done last
    std::set<std::string> pins_;
    std::map<std::string, int> done_;
    int rounds_ = 0, hung_seen_ = 0;
    int64_t requests_ = 0, lost_ = 0, churned_ = 0;
    uint64_t accepted_only_ = 0;
};

}  // namespace

TEST_SUITE_BEGIN("soak");

TEST_CASE("whatever happens, in whatever order, nothing is lost and nothing leaks") {
    unsigned with_seed = seed();
    INFO("DROVER_TEST_SEED=", with_seed);
    auto over = Clock::now() + length();
    bool is_long = length().count() > 0;
    if (is_long) std::printf("DROVER_TEST_SEED=%u\n", with_seed);
    Soak soak(with_seed);
    auto next_report = Clock::now();
    do {
        soak.round();
        if (is_long && Clock::now() >= next_report) {
            std::printf("%s\n", soak.text().c_str());
            std::fflush(stdout);
            next_report = Clock::now() + std::chrono::minutes(1);
        }
    } while (Clock::now() < over);
    if (is_long) std::printf("in all: %s\n", soak.text().c_str());
    soak.end();
}

TEST_SUITE_END();

}  // namespace drover::test
