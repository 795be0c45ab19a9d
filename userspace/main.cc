// SPDX-License-Identifier: MIT
//
// drover: the wiring. One binary is the master (run), the client (every other verb), and the logger
// process of a cluster (a hidden verb).
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <string>

#include "admin/agent.h"
#include "admin/controller.h"
#include "admin/narrator.h"
#include "admin/server.h"
#include "admin/supervisor_commands.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "base/paths.h"
#include "cli/checks.h"
#include "cli/cli.h"
#include "cli/clusters.h"
#include "logger/logger.h"
#include "steer/ground.h"
#include "supervisor/cluster_effects.h"
#include "supervisor/leftovers.h"
#include "supervisor/saved_state.h"
#include "supervisor/supervisor.h"
#include "supervisor/upgrade.h"

namespace {

using namespace drover;

// Tells every event to the terminal and to the control socket's followers.
class Audience : public supervisor::Observer {
  public:
    explicit Audience(const std::string& cluster) : narrator_(cluster) {}
    void attach(const supervisor::Supervisor& supervisor, admin::ControlServer& server) {
        supervisor_ = &supervisor;
        server_ = &server;
    }
    void attach_controller(admin::Controller* controller) { controller_ = controller; }
    void detach_all() {
        server_ = nullptr;
        controller_ = nullptr;
    }
    void on_event(const supervisor::Event& event) override {
        narrator_.on_event(event, *supervisor_);
        if (server_ != nullptr) server_->publish(event);
        if (controller_ != nullptr) controller_->publish(event);
    }

  private:
    admin::Narrator narrator_;
    const supervisor::Supervisor* supervisor_ = nullptr;
    admin::ControlServer* server_ = nullptr;
    admin::Controller* controller_ = nullptr;
};

Result<std::unique_ptr<admin::Controller>> open_controller(
    const supervisor::Config& config, const Paths& paths, EventLoop& loop,
    const supervisor::ClusterEffects& effects, admin::Commands& commands,
    supervisor::Supervisor& cluster) {
    auto request = effects.helper_request();
    admin::Controller::Setup setup;
    setup.command = config.controller;
    setup.environment = request.environment;
    setup.cwd = request.cwd;
    setup.identity = request.identity;
    setup.cgroup = paths.cgroup(config.name) + "/controller";
    setup.enter_late = request.cgroup.late;
    return admin::Controller::open(loop, std::move(setup), config.name, commands,
                                   [&cluster](const Error& error) {
                                       cluster.on_trouble(0, {error.code, error.text});
                                   });
}

int refuse(const Error& error) {
    log::error(error.text);
    return error.code == "usage" ? cli::kUsage : cli::kFailed;
}

// A caller may have closed them; the next file opened would become our standard error.
void open_standard_fds() {
    while (true) {
        int fd = ::open("/dev/null", O_RDWR);
        if (fd > STDERR_FILENO) ::close(fd);
        if (fd < 0 || fd > STDERR_FILENO) return;
    }
}

// As the user sees it: where that is by way of a symbolic link (a release's folder), the workers of
// a later reload are to find what it points to then. Empty where it is just the folder itself.
std::string working_folder() {
    const char* logical = std::getenv("PWD");
    std::error_code error;
    if (logical == nullptr || *logical != '/' || !std::filesystem::equivalent(logical, ".", error))
        return "";
    return logical;
}

// What the command line wants otherwise than the master that was killed.
void apply_changes(supervisor::Supervisor& cluster, supervisor::Changes changes) {
    auto tell = [](const Result<void>& done) {
        if (!done) log::error(done.error().text);
    };
    if (changes.policy) cluster.policy(*changes.policy, tell);
    if (changes.workers) cluster.scale(*changes.workers, tell);
    if (changes.release) cluster.reload_as(std::move(*changes.release), tell);
}

// The keepers of the program that became this one.
std::vector<Fd> inherited_keepers() {
    std::vector<Fd> keepers;
    const char* numbers = std::getenv(supervisor::kKeeperFds);
    std::istringstream list(numbers != nullptr ? numbers : "");
    for (std::string number; std::getline(list, number, ',');) {
        int fd = std::atoi(number.c_str());
        if (fd <= STDERR_FILENO || ::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) continue;
        keepers.emplace_back(fd);
    }
    ::unsetenv(supervisor::kKeeperFds);
    return keepers;
}

// `goes_on`: this program has taken the place of another, under its pid.
int run_master(supervisor::Config config, const Paths& paths, const std::string& program,
               bool goes_on) {
    if (!config.workers) config.workers = supervisor::usable_cpus();
    if (!goes_on && config.cwd.empty()) config.cwd = working_folder();
    if (!goes_on)
        if (auto read = supervisor::read_env_files(config); !read) return refuse(read.error());

    // 1. Is this a machine on which drover works?
    for (const Check& check : steer::check_ground(paths))
        if (check.fatal && !check.ok) return refuse({"ground", check.text, 0});

    // 2. One master per name, and nothing that an earlier one left running.
    auto lock = supervisor::lock_cluster(paths, config.name);
    if (!lock) return refuse(lock.error());
    // The workers of one that was killed go on with this one.
    auto leftovers = supervisor::find_leftovers(paths, config.name);
    std::optional<supervisor::SavedState> saved;
    supervisor::Changes changes;
    if (goes_on || !leftovers.pids.empty()) {
        auto loaded = supervisor::load_state(paths, config.name);
        if (!loaded)
            return refuse({"leftovers", leftovers.text(config.name, loaded.error().text), 0});
        auto found = supervisor::changes_since(*loaded, config);
        if (!found) return refuse(found.error());
        saved = std::move(*loaded);
        changes = std::move(*found);
        config = changes.before;
    } else if (leftovers.any()) {
        auto cleaned = supervisor::clean_leftovers(paths, config.name, std::chrono::seconds(1));
        if (!cleaned) return refuse(cleaned.error());
        lock = supervisor::lock_cluster(paths, config.name);
        if (!lock) return refuse(lock.error());
    }
    supervisor::sign_lock(*lock, config.stop_signal);

    // 3. The event loop. Output that breaks must not end the master.
    std::signal(SIGPIPE, SIG_IGN);
    auto loop = EventLoop::open();
    if (!loop) return refuse(loop.error());

    // 4. Steering is loaded and named ports are taken, the logger runs.
    auto effects =
        supervisor::ClusterEffects::open(config, paths, *loop, saved ? &*saved : nullptr,
                                         goes_on ? inherited_keepers() : std::vector<Fd>());
    if (!effects) {
        // What lives on is the next one's to take over.
        if (!saved) supervisor::remove_run_folder(paths, config.name);
        return refuse(effects.error());
    }
    if (::geteuid() == 0 && config.user.empty())
        log::warn("workers run as root: --user NAME gives them a user of their own");

    // 5. The supervisor, and who is told.
    Audience audience(config.name);
    supervisor::Supervisor cluster(config, *loop, **effects, audience);
    (*effects)->set_observer(cluster);
    supervisor::Upgrade upgrade(*loop, **effects, program, config.name);
    admin::SupervisorCommands commands(cluster, [&](const admin::Commands::Done& done) {
        if (auto may = cluster.may_be_upgraded(); !may) return done(may);
        upgrade.start([done](Error error) { done(tl::unexpected(std::move(error))); });
    });
    auto server =
        admin::ControlServer::open(*loop, paths.control_socket(config.name), config.name, commands);
    auto give_up = [&](const Error& error) {
        if (server) server->reset();
        if (saved) return refuse(error);  // what lives on is the next one's to take over
        (*effects)->close([&] { loop->exit(cli::kFailed); });
        (void)loop->run();
        supervisor::remove_run_folder(paths, config.name);
        return refuse(error);
    };
    if (!server) return give_up(server.error());
    audience.attach(cluster, **server);

    std::unique_ptr<admin::Controller> controller;
    if (!config.controller.empty()) {
        auto opened = open_controller(config, paths, *loop, **effects, commands, cluster);
        if (!opened) return give_up(opened.error());
        controller = std::move(*opened);
        audience.attach_controller(controller.get());
    }

    std::unique_ptr<admin::Agent> agent;
    if (config.agent) {
        auto opened = admin::Agent::open(*loop, *config.agent, [&] { return cluster.status(); });
        if (!opened) return give_up(opened.error());
        agent = std::move(*opened);
    }

    // 6. Signals: the first asks for a drained end, the second for a quick one.
    bool asked_to_stop = false;
    auto stop = [&cluster, &asked_to_stop](int) {
        if (asked_to_stop) return cluster.stop_now();
        asked_to_stop = true;
        cluster.stop(std::nullopt, [](const Result<void>&) {});
    };
    auto on_interrupt = loop->on_signal(SIGINT, stop);
    auto on_terminate = loop->on_signal(SIGTERM, stop);
    bool has_terminal = ::isatty(STDIN_FILENO) != 0;
    auto on_hangup = loop->on_signal(SIGHUP, [&](int number) {
        // The terminal went away.
        if (has_terminal && ::isatty(STDIN_FILENO) == 0) return stop(number);
        cluster.reload({}, [](const Result<void>& done) {
            if (!done) log::error(fmt::format("reload: {}", done.error().text));
        });
    });

    // 7. From here on the master never exits on an error.
    EventLoop::Source leave;
    auto on_over = [&](int status) {
        leave = loop->soon([&, status] {
            audience.detach_all();
            agent.reset();
            server->reset();  // nobody may ask for what is being taken down
            auto close = [&effects, &loop, status] {
                (*effects)->close([&loop, status] { loop->exit(status); });
            };
            if (!controller) return close();
            controller->finish(std::chrono::seconds(1), close);
        });
    };
    if (saved) {
        cluster.take_over(*saved, on_over);
        (*effects)->find_living();
        log::info(goes_on ? fmt::format("{}: drover {} goes on", config.name, DROVER_VERSION)
                          : fmt::format("{}: took over {} workers of a master that was killed",
                                        config.name, saved->workers.size()));
        apply_changes(cluster, std::move(changes));
    } else {
        cluster.start(on_over);
    }
    int status = loop->run();

    // 8. Nothing is left behind.
    supervisor::remove_run_folder(paths, config.name);
    return status;
}

// By the path that it has now; what is there later is the one to upgrade to.
std::string own_program() {
    std::error_code error;
    return std::filesystem::read_symlink("/proc/self/exe", error);
}

int can_go_on(const std::string& cluster) {
    Paths paths = Paths::from_environment();
    for (const Check& check : steer::check_ground(paths))
        if (check.fatal && !check.ok) return refuse({"ground", check.text, 0});
    if (auto saved = supervisor::load_state(paths, cluster); !saved) return refuse(saved.error());
    std::fputs(supervisor::kCanGoOn, stdout);
    return cli::kDone;
}

int go_on(const std::string& cluster) {
    Paths paths = Paths::from_environment();
    auto saved = supervisor::load_state(paths, cluster);
    if (!saved) return refuse(saved.error());
    return run_master(saved->releases.at(saved->stable), paths, own_program(), /*goes_on=*/true);
}

// `drover stop NAME` where the master is dead: its workers are ended here.
std::optional<int> stop_leftovers(const cli::Invocation& invocation, const Paths& paths) {
    if (invocation.verb != "stop" || invocation.worker || ::geteuid() != 0) return std::nullopt;
    std::string cluster = invocation.cluster;
    auto clusters = cli::find_clusters(paths);
    if (cluster.empty() && clusters.running.empty() && clusters.dead.size() == 1)
        cluster = clusters.dead.front();
    if (cluster.empty()) return std::nullopt;
    auto leftovers = supervisor::find_leftovers(paths, cluster);
    if (!leftovers.any()) return std::nullopt;
    auto lock = supervisor::lock_cluster(paths, cluster);
    if (!lock) return std::nullopt;  // its master lives: ask it
    auto cleaned = supervisor::clean_leftovers(paths, cluster, std::chrono::seconds(10));
    if (!cleaned) return refuse(cleaned.error());
    std::printf("%s: its master was dead; ended what it had left (%zu processes)\n",
                cluster.c_str(), leftovers.pids.size());
    return cli::kDone;
}

}  // namespace

int main(int argc, char** argv) {
    open_standard_fds();
    if (argc >= 3 && std::strcmp(argv[1], "logger") == 0) return logger::logger_main(argv[2]);

    // Hidden, too: a running master asks whether this program can take its place, and becomes it.
    if (argc == 3 && std::strcmp(argv[1], "can-go-on") == 0) return can_go_on(argv[2]);
    if (argc == 3 && std::strcmp(argv[1], "go-on") == 0) return go_on(argv[2]);

    auto invocation = cli::parse(argc, argv);
    if (!invocation) return invocation.error();
    Paths paths = Paths::from_environment();
    if (invocation->verb == "run")
        return run_master(invocation->config, paths, own_program(), /*goes_on=*/false);
    if (invocation->verb == "doctor")
        return cli::print_checks(steer::check_ground(paths), invocation->json);
    if (auto stopped = stop_leftovers(*invocation, paths)) return *stopped;
    return cli::run_client(*invocation, paths);
}
