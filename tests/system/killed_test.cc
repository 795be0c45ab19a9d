// SPDX-License-Identifier: MIT
//
// The master is killed in the middle of what it does, before each of its system calls that change
// something: the workers serve on, the next master finds its way, and nothing stays behind or
// frozen.
//
// strace does it. The deed is done once to see which calls the master makes for it, and then anew
// for each of them, where `strace -e inject=CALL:signal=KILL:when=N` ends the master on entering
// its Nth one. With DROVER_TEST_FULL for each call, but of one kind no more than kMostOfOneKind,
// evenly spread; else for a few, chosen by chance (DROVER_TEST_SEED repeats the choice).
#include <fmt/format.h>
#include <signal.h>

#include <cstdio>
#include <functional>
#include <memory>

#include "crowd.h"
#include "harness.h"
#include "http.h"
#include "points.h"
#include "tracer.h"

namespace drover::test {

namespace {

const char* const kCalls =
    "bpf,clone3,write,pwrite64,mkdir,rmdir,unlink,unlinkat,rename,bind,listen,shutdown,setsockopt,"
    "sendmsg,sendto,kill,pidfd_send_signal,execve,ftruncate";
constexpr size_t kMostOfOneKind = 20;
constexpr size_t kChosen = 4;  // in a short run
constexpr int kWorkers = 2;

// Cluster "web" with two workers on port 8080; the master runs under strace where `tracer` is
// given.
struct Scene {
    Sandbox sandbox;
    std::unique_ptr<Cluster> cluster;
    std::vector<std::unique_ptr<Connection>> waiting;  // for an answer
    std::vector<pid_t> stopped;                        // workers, by SIGSTOP

    static Words options() {
        return {"-n", std::to_string(kWorkers), "--policy", "round-robin", "--drain-timeout", "1s"};
    }
    void start(const Words& wrapper = {}) {
        cluster = std::make_unique<Cluster>(sandbox, "web", options(), hello(), Words{}, wrapper);
    }
    void run() {
        start();
        REQUIRE(cluster->wait_ready(kWorkers));
    }
    void tell(const Words& words) { (void)sandbox.drover(words, milliseconds(20'000)); }
};

// Something that a master does; `act` returns when it is done, or when the master is dead.
struct Deed {
    std::string name;
    std::function<void(Scene&)> act;
    bool serves = true;  // whether somebody serves all the time
    // That the master starts is the deed; `act` prepares the ground.
    bool is_start = false;
};

bool master_runs(Scene& scene) {
    return scene.cluster->master().runs();
}

void wait_ready_or_dead(Scene& scene) {
    CHECK(eventually([&] {
        if (!master_runs(scene)) return true;
        Json status = scene.cluster->status();
        return status.is_object() && status["ready"] == status["wanted"] &&
               status["workers"].size() == status["wanted"];
    }));
}

const std::vector<Deed>& deeds() {
    static const std::vector<Deed> all = {
        {"start", [](Scene&) {}, false, true},
        {"take-over",
         [](Scene& scene) {
             scene.run();
             scene.cluster->master().send(SIGKILL);
             REQUIRE(scene.cluster->master().wait() == 128 + SIGKILL);
         },
         true, true},
        {"take-over, one worker is gone",
         [](Scene& scene) {
             scene.run();
             pid_t victim = scene.cluster->pid_of(0);
             scene.cluster->master().send(SIGKILL);
             REQUIRE(scene.cluster->master().wait() == 128 + SIGKILL);
             REQUIRE(victim > 0);
             ::kill(victim, SIGKILL);
         },
         true, true},
        {"reload",
         [](Scene& scene) {
             scene.tell({"reload", "web"});
         }},
        {"a canary, promoted",
         [](Scene& scene) {
             scene.tell({"reload", "web", "--canary", "1"});
             scene.tell({"promote", "web"});
         }},
        {"a canary, taken back",
         [](Scene& scene) {
             scene.tell({"reload", "web", "--canary", "1"});
             scene.tell({"rollback", "web"});
         }},
        {"scale up and down",
         [](Scene& scene) {
             scene.tell({"scale", "web", "4"});
             scene.tell({"scale", "web", "2"});
         }},
        {"restart",
         [](Scene& scene) {
             scene.tell({"restart", "web"});
         }},
        {"a worker crashes",
         [](Scene& scene) {
             pid_t victim = scene.cluster->pid_of(0);
             if (victim <= 0) return;
             ::kill(victim, SIGKILL);
             CHECK(eventually(
                 [&] { return !master_runs(scene) || scene.cluster->pid_of(0) != victim; }));
         }},
        {"drain, resume, weight, policy",
         [](Scene& scene) {
             scene.tell({"drain", "web/1"});
             scene.tell({"resume", "web/1"});
             scene.tell({"weight", "web/2", "3"});
             scene.tell({"weight", "web/2", "1"});
             scene.tell({"policy", "web", "source"});
             scene.tell({"policy", "web", "round-robin"});
         }},
        {"rescue",
         [](Scene& scene) {
             pid_t pid = scene.cluster->pid_of(0);
             if (pid <= 0) return;  // the master is dead already
             scene.stopped.push_back(pid);
             CHECK(stop_process(pid));
             for (int i = 0; i < 6; i++) {
                 scene.waiting.push_back(std::make_unique<Connection>("127.0.0.1", 8080));
                 CHECK(scene.waiting.back()->send_request("/", false));
             }
             // It is done by itself, too, after half a second.
             scene.tell({"rescue", "web/1"});
         },
         false},  // where it was not noticed that it hangs
        {"upgrade",
         [](Scene& scene) {
             scene.tell({"upgrade", "web"});
         }},
        {"stop",
         [](Scene& scene) {
             scene.tell({"stop", "web"});
         },
         false},
    };
    return all;
}

Words strace(const Scene& scene, const std::optional<Point>& point) {
    Words command = {"/usr/bin/strace",           "-q", "-o",
                     scene.sandbox.path("trace"), "-e", fmt::format("trace={}", kCalls)};
    if (point)
        for (const auto& word : {std::string("-e"), fmt::format("inject={}:signal=KILL:when={}",
                                                                point->call, point->nth)})
            command.push_back(word);
    return command;
}

Child attach(Scene& scene, const std::optional<Point>& point) {
    return attach_tracer(scene.sandbox, scene.cluster->master().pid(), strace(scene, point));
}

// Of those of each kind some, evenly spread; in a short run a few of all.
std::vector<Point> chosen(const std::vector<Point>& points, unsigned with_seed) {
    auto some = thinned(points, kMostOfOneKind);
    return is_full_run() ? some : by_chance(some, kChosen, with_seed);
}

// What has to be so when a master was killed in the middle of something.
void check_goes_on(Scene& scene, bool serves) {
    if (serves) CHECK(get("127.0.0.1", 8080).error == "");
    scene.start();
    Cluster& next = *scene.cluster;
    REQUIRE(eventually([&] {
        Json status = next.status();
        return status.is_object() && status["ready"] == kWorkers &&
               status["workers"].size() == kWorkers;
    }));
    CHECK_FALSE(scene.sandbox.has_frozen());
    // One that was drained by hand, and not yet resumed, is so still.
    for (int instance = 0; instance < kWorkers; instance++)
        if (next.worker(instance)["flags"] == Json({"held"}))
            CHECK(next.drover({"resume", next.target(instance)}).status == 0);
    for (pid_t pid : scene.stopped) ::kill(pid, SIGCONT);
    for (auto& connection : scene.waiting) CHECK(connection->receive().error == "");
    // Each of its workers is asked, and answers.
    REQUIRE(eventually([&] { return next.status()["groups"][0]["active"].size() == kWorkers; }));
    auto answers = spread("127.0.0.1", 8080, 6);
    CHECK(answers.size() == kWorkers);
    CHECK(answers.count(-1) == 0);
    CHECK(next.stop() == 0);
    CHECK(scene.sandbox.leftovers() == "");
}

// Does it with the master under strace. Returns when it is done, or when the master is dead.
Child act(const Deed& deed, Scene& scene, const std::optional<Point>& point) {
    Child tracer;
    if (deed.is_start) {
        deed.act(scene);
        Words wrapper = strace(scene, point);
        wrapper.emplace_back("-D");  // the master is our child
        scene.start(wrapper);
    } else {
        scene.run();
        tracer = attach(scene, point);
        deed.act(scene);
    }
    wait_ready_or_dead(scene);
    return tracer;
}

void end(Child& tracer) {
    if (tracer.pid() > 0) (void)tracer.wait();
}

// The calls that the master makes for a deed when nobody disturbs it.
std::vector<Point> points_of(const Deed& deed) {
    Scene scene;
    Child tracer = act(deed, scene, std::nullopt);
    auto points = points_in(read_file(scene.sandbox.path("trace")));
    for (pid_t pid : scene.stopped) ::kill(pid, SIGCONT);
    if (master_runs(scene)) CHECK(scene.cluster->stop() == 0);
    end(tracer);
    CHECK(scene.sandbox.leftovers() == "");
    return points;
}

void kill_in(const Deed& deed, const Point& point) {
    INFO(deed.name, ", killed before ", point.call, " number ", point.nth, ": ", point.text);
    Scene scene;
    Child tracer = act(deed, scene, point);
    // The calls are not the same each time: then it is killed when it is done.
    if (master_runs(scene)) scene.cluster->master().send(SIGKILL);
    CHECK(scene.cluster->master().wait() != -1);
    end(tracer);
    check_goes_on(scene, deed.serves);
}

}  // namespace

TEST_SUITE_BEGIN("killed");

TEST_CASE("a master that is killed in the middle of a deed is followed by one that goes on") {
    if (!find_program("strace")) return;
    unsigned with_seed = seed();
    INFO("DROVER_TEST_SEED=", with_seed);
    int killed = 0;
    for (const Deed& deed : deeds()) {
        auto points = chosen(points_of(deed), with_seed);
        CHECK_FALSE(points.empty());
        for (const Point& point : points) kill_in(deed, point);
        killed += static_cast<int>(points.size());
        if (is_full_run()) std::printf("%s: killed %zu times\n", deed.name.c_str(), points.size());
        std::fflush(stdout);
    }
    CHECK(killed > 0);
}

TEST_SUITE_END();

}  // namespace drover::test
