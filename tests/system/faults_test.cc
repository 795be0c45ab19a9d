// SPDX-License-Identifier: MIT
//
// System calls that fail, once each: while the master starts it comes up all the same, or ends with
// one sentence and leaves nothing; later it serves on, says what failed, and the same can be done
// again.
//
// strace does it, at the kernel's border: `strace -e inject=CALL:error=ERROR:when=N`. What is to be
// disturbed is done once undisturbed, to see which calls there are. With DROVER_TEST_FULL each of
// them fails, but of one kind no more than kMostOfOneKind, evenly spread, by each error that fits
// it; else some, chosen by chance (DROVER_TEST_SEED repeats the choice).
#include <fmt/format.h>
#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <regex>
#include <set>

#include "crowd.h"
#include "harness.h"
#include "http.h"
#include "messages.h"
#include "points.h"

namespace drover::test {

namespace {

constexpr size_t kMostOfOneKind = 6;
constexpr size_t kStarts = 12;    // in a short run
constexpr size_t kTakeOvers = 6;  // the same
constexpr size_t kOfDeed = 2;     // the same
constexpr int kWorkers = 2;

// What each call can fail of. What is not here cannot fail, or only by a defect of the program.
const std::map<std::string, Words>& errors_of_calls() {
    static const std::map<std::string, Words> all = {
        {"accept4", {"EMFILE", "EINTR", "ECONNABORTED"}},
        {"bind", {"ENOMEM", "EADDRINUSE"}},
        {"bpf", {"EPERM", "ENOMEM", "EAGAIN"}},
        {"clone3", {"EAGAIN", "ENOMEM"}},
        {"connect", {"EAGAIN", "EINTR"}},
        {"epoll_create1", {"EMFILE", "ENOMEM"}},
        {"epoll_ctl", {"ENOMEM", "ENOSPC"}},
        {"epoll_wait", {"EINTR"}},
        {"fcntl", {"EMFILE"}},
        {"flock", {"EINTR", "ENOLCK"}},
        {"ftruncate", {"ENOSPC", "EINTR"}},
        {"getdents64", {"ENOMEM"}},
        {"getsockopt", {"ENOMEM"}},
        {"listen", {"ENOMEM", "EADDRINUSE"}},
        {"lseek", {"EIO"}},
        {"mkdir", {"ENOSPC", "EPERM", "ENOMEM"}},
        {"mmap", {"ENOMEM"}},
        {"newfstatat", {"ENOMEM"}},
        {"openat", {"EMFILE", "ENOMEM", "EPERM"}},
        {"pidfd_getfd", {"EMFILE", "EPERM"}},
        {"pidfd_open", {"EMFILE", "ENOMEM"}},
        {"pidfd_send_signal", {"EPERM", "ENOMEM"}},
        {"pipe2", {"EMFILE", "ENFILE"}},
        {"poll", {"EINTR", "ENOMEM"}},
        {"pread64", {"EINTR", "EIO"}},
        {"prlimit64", {"EPERM"}},
        {"pwrite64", {"ENOSPC", "EINTR"}},
        {"read", {"EINTR", "EIO"}},
        {"recvfrom", {"EINTR", "ENOMEM", "EAGAIN"}},
        {"recvmsg", {"EINTR", "ENOMEM"}},
        {"rename", {"ENOSPC", "EPERM"}},
        {"rmdir", {"EPERM", "ENOMEM"}},
        {"sendmsg", {"EAGAIN", "EINTR", "ENOMEM"}},
        {"sendto", {"EAGAIN", "EINTR", "ENOBUFS"}},
        {"setsockopt", {"ENOMEM", "EPERM"}},
        {"signalfd4", {"EMFILE", "ENOMEM"}},
        {"socket", {"EMFILE", "ENOMEM"}},
        {"socketpair", {"EMFILE", "ENOMEM"}},
        {"statfs", {"ENOMEM"}},
        {"symlink", {"ENOSPC", "EPERM"}},
        {"timerfd_create", {"EMFILE", "ENOMEM"}},
        {"unlink", {"EPERM", "ENOSPC"}},
        {"unlinkat", {"EPERM", "ENOMEM"}},
        {"vfork", {"EAGAIN", "ENOMEM"}},
        {"wait4", {"EINTR"}},
        {"waitid", {"EINTR"}},
        {"write", {"ENOSPC", "EINTR", "EAGAIN"}},
    };
    return all;
}

std::string all_calls() {
    std::string list;
    for (const auto& [call, errors] : errors_of_calls()) list += (list.empty() ? "" : ",") + call;
    return list;
}

struct Fault {
    Point point;
    std::string error;
    int times = 1;  // that one and those after it
    [[nodiscard]] std::string text() const {
        return fmt::format("{} number {} fails with {}: {}", point.call, point.nth, error,
                           point.text);
    }
};

// Some are of several minds. By a small BTF_LOAD libbpf finds out what the kernel can: it takes any
// failure for a no, and makes other programs then, over which the verifier may take very long.
bool can_fail(const Point& point) {
    static const std::regex kSmall(" btf_size=[0-9]{1,3},");
    if (contains(point.text, "BPF_BTF_LOAD")) return !std::regex_search(point.text, kSmall);
    if (point.call == "fcntl") return contains(point.text, "F_DUPFD");
    if (point.call == "epoll_ctl") return contains(point.text, "EPOLL_CTL_ADD");
    return true;
}

// Without what the dynamic loader does: from its first look around, or from the beginning, to the
// first line of main().
std::vector<Point> without_loader(std::vector<Point> points, bool from_the_beginning) {
    auto last = std::ranges::find_if(points, [](const Point& point) {
        return point.call == "openat" && contains(point.text, "\"/dev/null\", O_RDWR)");
    });
    if (last == points.end()) return points;
    auto first = std::find_if(points.begin(), last,
                              [](const Point& point) { return contains(point.text, "/ld.so."); });
    while (first != points.begin() && (from_the_beginning || std::prev(first)->call == "mmap"))
        --first;
    points.erase(first, last);
    return points;
}

std::vector<Fault> faults_at(const std::vector<Point>& points) {
    std::vector<Point> some;
    bool has_deleted = false;
    for (const Point& point : points) {
        // From the first one on they are mixed, in no fixed order, and a deletion cannot fail.
        has_deleted |= contains(point.text, "EPOLL_CTL_DEL");
        if (can_fail(point) && !(has_deleted && point.call == "epoll_ctl")) some.push_back(point);
    }
    std::vector<Fault> faults;
    for (const Point& point : thinned(some, kMostOfOneKind))
        for (const std::string& error : errors_of_calls().at(point.call))
            faults.push_back({point, error, 1});
    return faults;
}

Words strace(const Sandbox& sandbox, const std::optional<Fault>& fault) {
    Words command = {"/usr/bin/strace",     "-q", "-y", "-o", sandbox.path("trace"), "-e",
                     "trace=" + all_calls()};
    if (!fault) return command;
    command.emplace_back("-e");
    command.push_back(fmt::format("inject={}:error={}:when={}..{}", fault->point.call, fault->error,
                                  fault->point.nth, fault->point.nth + fault->times - 1));
    return command;
}

// --- At the start --------------------------------------------------------------------------------

// A way to run cluster "web", which serves on port 8080.
struct Ground {
    std::string name;
    Words options;
    Words command;
};

std::vector<Ground> grounds() {
    return {{"workers that bind", {"--admin", "9100"}, hello()},
            {"passed sockets",
             {"--listen", "tcp://127.0.0.1:8080", "--ready", "exec", "--ipc", "none"},
             {build_folder() + "/servers/blocking"}}};
}

// The same for each master: another option would make a reload of a take-over.
Words options_of(const Ground& ground) {
    Words options = {"-n",          std::to_string(kWorkers), "--policy",
                     "round-robin", "--ready-timeout",        patient(30'000)};
    options.insert(options.end(), ground.options.begin(), ground.options.end());
    return options;
}

// The master itself is the child that is returned: strace goes beside it (-D).
Child start(Sandbox& sandbox, const Ground& ground, const std::optional<Fault>& fault) {
    Words command = strace(sandbox, fault);
    command.insert(command.begin() + 1, "-D");
    for (const auto& word : {build_folder() + "/drover", std::string("run"), std::string("--name"),
                             std::string("web")})
        command.push_back(word);
    Words options = options_of(ground);
    command.insert(command.end(), options.begin(), options.end());
    command.emplace_back("--");
    command.insert(command.end(), ground.command.begin(), ground.command.end());
    return sandbox.start({.command = command, .extra_environment = {}, .identity = {}, .cwd = {}});
}

// The one call that fails may be the answer to this.
Json status_of(Sandbox& sandbox) {
    for (int i = 0; i < 2; i++) {
        Json status = Json::parse(sandbox.drover({"status", "web", "--json"}).out, nullptr, false);
        if (status.is_object()) return status;
    }
    return Json::object();
}

bool is_ready(Sandbox& sandbox) {
    Json status = status_of(sandbox);
    return status["ready"] == kWorkers && status["groups"].size() == 1 &&
           status["groups"][0]["active"].size() == kWorkers;
}

std::vector<Point> points_of_start(const Ground& ground) {
    Sandbox sandbox;
    Child master = start(sandbox, ground, std::nullopt);
    REQUIRE(eventually([&] { return !master.runs() || is_ready(sandbox); }));
    REQUIRE(master.runs());
    auto all = points_in(read_file(sandbox.path("trace")));
    CHECK(sandbox.drover({"stop", "web"}).status == 0);
    CHECK(master.wait() == 0);
    CHECK(sandbox.leftovers() == "");
    return without_loader(all, /*from_the_beginning=*/true);
}

// Lines of an ended master that say an error.
std::vector<std::string> errors_in(const std::string& text) {
    std::vector<std::string> errors;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);)
        if (!line.starts_with("drover: warning: ") && !line.starts_with("[web/"))
            errors.push_back(line);
    return errors;
}

void start_with(const Ground& ground, const Fault& fault) {
    INFO(ground.name, ": ", fault.text());
    Sandbox sandbox;
    Child master = start(sandbox, ground, fault);
    CHECK(eventually([&] { return !master.runs() || is_ready(sandbox); }));
    if (!master.runs()) {
        std::string said = master.err();
        INFO("it said: ", said);
        CHECK(master.wait() == 1);
        CHECK(errors_in(said).size() == 1);
        CHECK(said.find("drover: error: ") != std::string::npos);
        if (is_full_run())
            std::printf("%s %d %s: %s", fault.point.call.c_str(), fault.point.nth,
                        fault.error.c_str(), said.c_str());
    } else {
        INFO("it said: ", master.err());
        for (int i = 0; i < 6; i++) CHECK(get("127.0.0.1", 8080, "/work?ms=0").error == "");
        // It notices what happens, and does what it is told.
        pid_t victim = status_of(sandbox)["workers"][0]["pid"].get<pid_t>();
        ::kill(victim, SIGKILL);
        CHECK(eventually([&] {
            Json status = status_of(sandbox);
            return status["ready"] == kWorkers && status["workers"][0]["pid"] != victim &&
                   status["workers"][1]["pid"] != victim;
        }));
        master.send(SIGTERM);
        CHECK(master.wait() == 0);
    }
    CHECK(sandbox.leftovers() == "");
}

// --- At a take-over ------------------------------------------------------------------------------

// The workers of a master that is gone, as the ground says.
std::vector<pid_t> leave_workers(Sandbox& sandbox, const Ground& ground) {
    Cluster former(sandbox, "web", options_of(ground), ground.command);
    REQUIRE(former.wait_ready(kWorkers));
    std::vector<pid_t> pids = {former.pid_of(0), former.pid_of(1)};
    former.master().send(SIGKILL);
    REQUIRE(former.master().wait() != -1);
    return pids;
}

std::vector<Point> points_of_take_over(const Ground& ground) {
    Sandbox sandbox;
    leave_workers(sandbox, ground);
    Child master = start(sandbox, ground, std::nullopt);
    REQUIRE(eventually([&] { return !master.runs() || is_ready(sandbox); }));
    auto all = points_in(read_file(sandbox.path("trace")));
    CHECK(sandbox.drover({"stop", "web"}).status == 0);
    CHECK(master.wait() == 0);
    return without_loader(all, /*from_the_beginning=*/true);
}

void take_over_with(const Ground& ground, const Fault& fault) {
    INFO(fault.text());
    Sandbox sandbox;
    auto pids = leave_workers(sandbox, ground);
    Child master = start(sandbox, ground, fault);
    CHECK(eventually([&] { return !master.runs() || is_ready(sandbox); }));
    INFO("it said: ", master.err());
    if (!master.runs()) {
        CHECK(master.wait() == 1);
        CHECK(errors_in(master.err()).size() == 1);
        CHECK(get("127.0.0.1", 8080).error == "");
        master = start(sandbox, ground, std::nullopt);
        CHECK(eventually([&] { return !master.runs() || is_ready(sandbox); }));
    }
    Json workers = status_of(sandbox)["workers"];
    REQUIRE(workers.size() == kWorkers);
    for (int i = 0; i < kWorkers; i++) CHECK(workers[i]["pid"] == pids[i]);
    CHECK(spread("127.0.0.1", 8080, 6) == std::map<int, int>{{0, 3}, {1, 3}});
    CHECK_FALSE(any_frozen(sandbox));
    master.send(SIGTERM);
    CHECK(master.wait() == 0);
    CHECK(sandbox.leftovers() == "");
}

// --- Later ---------------------------------------------------------------------------------------

// Cluster "web", and the errors of the verbs that were given to it.
struct Scene {
    Sandbox sandbox;
    Cluster cluster{
        sandbox,
        "web",
        {"-n", std::to_string(kWorkers), "--policy", "round-robin", "--drain-timeout", "1s"},
        hello()};
    std::string errors;

    // "web/ID" of the first worker. The call that fails may be one for the status.
    std::string first() {
        for (int i = 0; i < 3; i++)
            if (Json worker = cluster.worker(0); worker.is_object())
                return fmt::format("web/{}", worker["id"].get<int>());
        return cluster.target(0);
    }
    // False when it failed; then it has said why.
    bool tell(const Words& words) {
        auto outcome = cluster.drover(words, milliseconds(20'000));
        if (outcome.status == 0) return true;
        errors += outcome.err;
        CHECK(outcome.status == 1);
        CHECK(outcome.err.starts_with("drover: "));
        return false;
    }
    [[nodiscard]] bool is_well() {
        Json status = cluster.status();
        return status.is_object() && status["ready"] == kWorkers && status["wanted"] == kWorkers &&
               status["workers"].size() == kWorkers &&
               status["groups"][0]["active"].size() == kWorkers;
    }
};

// Something that is asked of a master: false where it failed. `tidy` makes it possible to ask for
// it again where it got stuck half way.
struct Deed {
    std::string name;
    std::function<bool(Scene&)> act;
    std::function<void(Scene&)> tidy = [](Scene&) {};
};

bool survive_a_crash(Scene& scene) {
    pid_t victim = scene.cluster.pid_of(0);
    for (int i = 0; i < 3 && victim <= 0; i++) victim = scene.cluster.pid_of(0);
    CHECK(victim > 0);
    if (victim <= 0) return false;
    ::kill(victim, SIGKILL);
    return eventually([&] {
        pid_t now = scene.cluster.pid_of(0);
        return now > 0 && now != victim;
    });
}

bool relieve_one(Scene& scene) {
    pid_t pid = scene.cluster.pid_of(0);
    if (pid <= 0) return false;
    std::vector<std::unique_ptr<Connection>> waiting;
    if (!stop_process(pid)) return false;
    for (int i = 0; i < 6; i++) {
        waiting.push_back(std::make_unique<Connection>("127.0.0.1", 8080));
        CHECK(waiting.back()->send_request("/", false));
    }
    bool done = scene.tell({"rescue", scene.first()});
    ::kill(pid, SIGCONT);
    for (auto& connection : waiting) CHECK(connection->receive().error == "");
    return done;
}

const std::vector<Deed>& deeds() {
    static const std::vector<Deed> all = {
        {"reload",
         [](Scene& scene) {
             return scene.tell({"reload", "web"});
         }},
        {"scale",
         [](Scene& scene) {
             bool up = scene.tell({"scale", "web", "4"});
             return scene.tell({"scale", "web", "2"}) && up;
         },
         [](Scene& scene) {
             (void)scene.cluster.drover({"scale", "web", "2"});
         }},
        {"restart",
         [](Scene& scene) {
             return scene.tell({"restart", "web"});
         }},
        {"a crash", survive_a_crash},
        {"drain, resume, weight, policy",
         [](Scene& scene) {
             std::string target = scene.first();
             bool all = scene.tell({"drain", target});
             all = scene.tell({"resume", target}) && all;
             all = scene.tell({"weight", target, "3"}) && all;
             all = scene.tell({"weight", target, "1"}) && all;
             all = scene.tell({"policy", "web", "source"}) && all;
             return scene.tell({"policy", "web", "round-robin"}) && all;
         },
         [](Scene& scene) {
             (void)scene.tell({"resume", scene.first()});
         }},
        {"rescue", relieve_one},
        {"a canary",
         [](Scene& scene) {
             return scene.tell({"reload", "web", "--canary", "1"}) &&
                    scene.tell({"rollback", "web"});
         },
         // Where just its answer was lost, the reload goes on: it is rolled back when it is done.
         [](Scene& scene) {
             (void)eventually([&] {
                 auto outcome = scene.cluster.drover({"rollback", "web"});
                 return !contains(outcome.err, "are being replaced");
             });
         }},
        {"upgrade",
         [](Scene& scene) {
             return scene.tell({"upgrade", "web"});
         }},
        {"status, events, logs",
         [](Scene& scene) {
             bool status = scene.tell({"status", "web"});
             return scene.tell({"events", "web"}) && status;
         }},
        {"stop",
         [](Scene& scene) {
             // What it removes comes after its answer.
             return scene.tell({"stop", "web"}) && scene.cluster.master().wait() == 0;
         }},
    };
    return all;
}

bool is_traced(pid_t pid) {
    return !contains(read_file(fmt::format("/proc/{}/status", pid)), "TracerPid:\t0\n");
}

// strace at the running master.
Child attach(Scene& scene, const std::optional<Fault>& fault) {
    pid_t master = scene.cluster.master().pid();
    Words command = strace(scene.sandbox, fault);
    command.insert(command.end(), {"-p", std::to_string(master)});
    Child tracer = scene.sandbox.start(
        {.command = command, .extra_environment = {}, .identity = {}, .cwd = {}});
    REQUIRE(eventually([&] { return is_traced(master); }));
    return tracer;
}

void detach(Child& tracer) {
    tracer.send(SIGINT);
    CHECK(tracer.wait() != -1);
}

std::vector<Point> points_of(const Deed& deed) {
    INFO(deed.name);
    Scene scene;
    REQUIRE(scene.cluster.wait_ready(kWorkers));
    Child tracer = attach(scene, std::nullopt);
    CHECK_MESSAGE(deed.act(scene), scene.errors);
    detach(tracer);
    auto points = without_loader(points_in(read_file(scene.sandbox.path("trace"))), false);
    if (scene.cluster.master().runs()) CHECK(scene.cluster.stop() == 0);
    CHECK(scene.sandbox.leftovers() == "");
    return points;
}

void do_with(const Deed& deed, const Fault& fault) {
    INFO(deed.name, ": ", fault.text());
    Scene scene;
    if (!scene.cluster.wait_ready(kWorkers)) return;
    bool is_stop = deed.name == "stop";
    Child tracer = attach(scene, fault);
    auto load = is_stop ? nullptr : std::make_unique<Load>("127.0.0.1", 8080, 100);
    bool done = deed.act(scene);
    detach(tracer);
    if (is_full_run() && !done)
        std::printf("%s: %s %d %s: %s\n", deed.name.c_str(), fault.point.call.c_str(),
                    fault.point.nth, fault.error.c_str(), scene.errors.c_str());
    INFO("the verbs said: ", scene.errors);
    INFO("the master said: ", scene.cluster.master().err());
    if (!is_stop) {
        if (!done) deed.tidy(scene);
        CHECK(eventually([&] { return scene.is_well(); }));
        CHECK(deed.act(scene));
        CHECK(eventually([&] { return scene.is_well(); }));
        CHECK_FALSE(any_frozen(scene.sandbox));
        auto result = load->stop();
        INFO(result.text());
        // What a killed worker had accepted is lost with it.
        CHECK(result.failed() <= (deed.name == "a crash" ? 10 : 0));
        auto answers = spread("127.0.0.1", 8080, 6);
        CHECK(answers.size() == kWorkers);
        CHECK(answers.count(-1) == 0);
    }
    if (scene.cluster.master().runs()) CHECK(scene.cluster.stop() == 0);
    CHECK(scene.cluster.master().wait() == 0);
    CHECK(scene.sandbox.leftovers() == "");
}

// --- Between fork and exec -----------------------------------------------------------------------

struct ChildFault {
    std::string call;
    std::string error;
    std::string said;
    Words options;
    bool is_of_program = false;  // the call names the program
};

const std::vector<ChildFault>& child_faults() {
    static const std::vector<ChildFault> all = {
        {"chdir",
         "EACCES",
         "enter the working directory /tmp as user root: Permission denied",
         {"--cwd", "/tmp"}},
        {"setgroups", "EPERM", "become user nobody: Operation not permitted", {"--user", "nobody"}},
        {"setresgid", "EPERM", "become user nobody: Operation not permitted", {"--user", "nobody"}},
        {"setresuid",
         "EAGAIN",
         "become user nobody: Resource temporarily unavailable",
         {"--user", "nobody"}},
        {"dup2", "EMFILE", "set up the file descriptors of", {}},
        {"close_range", "ENOMEM", "set up the file descriptors of", {}},
        {"execve", "ENOMEM", "/hello: Cannot allocate memory", {}, true},
        {"execve", "E2BIG", "/hello: Argument list too long", {}, true},
        {"execve", "ETXTBSY", "/hello: somebody has it open for writing", {}, true},
    };
    return all;
}

// In each process that the master starts.
Words strace_children(const ChildFault& fault) {
    Words command = {"/usr/bin/strace", "-f", "-qq", "-o", "/dev/null"};
    for (const std::string& word : {std::string("-e"), "trace=" + fault.call, std::string("-e"),
                                    fmt::format("inject={}:error={}", fault.call, fault.error)})
        command.push_back(word);
    if (fault.is_of_program) command.insert(command.end(), {"-P", hello_path()});
    return command;
}

}  // namespace

TEST_SUITE_BEGIN("faults");

TEST_CASE("a system call that fails while the master starts is borne, or ends it with a sentence") {
    if (!find_program("strace")) return;
    unsigned with_seed = seed();
    INFO("DROVER_TEST_SEED=", with_seed);
    for (const Ground& ground : grounds()) {
        auto faults = faults_at(points_of_start(ground));
        CHECK(faults.size() > 100);
        if (!is_full_run()) faults = by_chance(faults, kStarts / grounds().size(), with_seed);
        for (const Fault& fault : faults) start_with(ground, fault);
    }
}

TEST_CASE(
    "a system call that fails at a take-over is borne, or leaves the workers to the next one") {
    if (!find_program("strace")) return;
    unsigned with_seed = seed();
    INFO("DROVER_TEST_SEED=", with_seed);
    const Ground ground = grounds().front();
    auto faults = faults_at(points_of_take_over(ground));
    CHECK(faults.size() > 100);
    if (!is_full_run()) faults = by_chance(faults, kTakeOvers, with_seed);
    for (const Fault& fault : faults) take_over_with(ground, fault);
}

TEST_CASE("a port that cannot be locked at a take-over is served on, and is locked later") {
    if (!find_program("strace")) return;
    const Ground ground = grounds().front();
    auto points = points_of_take_over(ground);
    auto lock = std::ranges::find_if(points, [](const Point& point) {
        return point.call == "flock" && contains(point.text, "/ports/");
    });
    REQUIRE(lock != points.end());
    Sandbox sandbox;
    auto pids = leave_workers(sandbox, ground);
    Child master = start(sandbox, ground, Fault{*lock, "ENOLCK", /*times=*/kWorkers});
    REQUIRE(eventually([&] { return !master.runs() || is_ready(sandbox); }));
    INFO("it said: ", master.err());
    CHECK(contains(master.err(), "cannot lock port 8080"));
    for (int i = 0; i < kWorkers; i++) CHECK(status_of(sandbox)["workers"][i]["pid"] == pids[i]);
    CHECK(eventually([&] {
        for (const auto& entry :
             std::filesystem::directory_iterator(sandbox.run_folder() + "/ports"))
            if (std::atoi(read_file(entry.path()).c_str()) == status_of(sandbox)["pid"])
                return true;
        return false;
    }));
    CHECK(spread("127.0.0.1", 8080, 6) == std::map<int, int>{{0, 3}, {1, 3}});
    master.send(SIGTERM);
    CHECK(master.wait() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a system call that fails while a master serves is told, and the next try succeeds") {
    if (!find_program("strace")) return;
    unsigned with_seed = seed();
    INFO("DROVER_TEST_SEED=", with_seed);
    for (const Deed& deed : deeds()) {
        auto faults = faults_at(points_of(deed));
        CHECK_FALSE(faults.empty());
        if (!is_full_run()) faults = by_chance(faults, kOfDeed, with_seed);
        for (const Fault& fault : faults) do_with(deed, fault);
    }
}

TEST_CASE("what cannot be removed at the stop is removed all the same") {
    if (!find_program("strace")) return;
    const Deed& stop = *std::ranges::find(deeds(), "stop", &Deed::name);
    int removals = 0;
    for (const Fault& fault : faults_at(points_of(stop))) {
        static const std::set<std::string> kRemoving = {"rmdir", "unlink", "unlinkat"};
        if (!kRemoving.contains(fault.point.call)) continue;
        // Any of the errors, for one place as for the other.
        if (fault.error != errors_of_calls().at(fault.point.call).back()) continue;
        do_with(stop, fault);
        removals++;
    }
    CHECK(removals > 6);
}

TEST_CASE("what fails between fork and exec ends a start with a sentence that names it") {
    if (!find_program("strace")) return;
    for (const ChildFault& fault : child_faults()) {
        INFO(fault.call, " fails with ", fault.error);
        Sandbox sandbox;
        Words command = strace_children(fault);
        command.insert(command.begin() + 1, "-D");
        for (const auto& word :
             {build_folder() + "/drover", std::string("run"), std::string("--name"),
              std::string("web"), std::string("-n"), std::string("1"),
              std::string("--max-restarts"), std::string("2/60s")})
            command.push_back(word);
        command.insert(command.end(), fault.options.begin(), fault.options.end());
        command.insert(command.end(), {"--", hello_path()});
        Child master =
            sandbox.start({.command = command, .extra_environment = {}, .identity = {}, .cwd = {}});
        CHECK(master.wait() == 1);
        INFO("it said: ", master.err());
        auto errors = errors_in(master.err());
        REQUIRE(errors.size() == 1);
        CHECK(contains(errors.front(), fault.said));
        CHECK(sandbox.leftovers() == "");
    }
}

TEST_CASE("what fails between fork and exec of a replacement is tried again until it succeeds") {
    if (!find_program("strace")) return;
    for (const ChildFault& fault : child_faults()) {
        if (!fault.options.empty()) continue;
        INFO(fault.call, " fails with ", fault.error);
        Scene scene;
        REQUIRE(scene.cluster.wait_ready(kWorkers));
        Words command = strace_children(fault);
        command.insert(command.end(), {"-p", std::to_string(scene.cluster.master().pid())});
        Child tracer = scene.sandbox.start(
            {.command = command, .extra_environment = {}, .identity = {}, .cwd = {}});
        REQUIRE(eventually([&] { return is_traced(scene.cluster.master().pid()); }));
        pid_t victim = scene.cluster.pid_of(0);
        ::kill(victim, SIGKILL);
        CHECK(eventually([&] {
            for (const auto& event : events_of(scene.cluster, "error"))
                if (contains(event["data"]["text"], fault.said)) return true;
            return false;
        }));
        CHECK(spread("127.0.0.1", 8080, 6) == std::map<int, int>{{1, 6}});
        detach(tracer);
        CHECK(eventually([&] { return scene.is_well(); }));
        CHECK(spread("127.0.0.1", 8080, 6) == std::map<int, int>{{0, 3}, {1, 3}});
        CHECK(scene.cluster.stop() == 0);
        CHECK(scene.sandbox.leftovers() == "");
    }
}

TEST_SUITE_END();

}  // namespace drover::test
