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
#include <thread>

#include "admin/agent.h"
#include "admin/controller.h"
#include "admin/http.h"
#include "admin/narrator.h"
#include "admin/server.h"
#include "admin/service.h"
#include "admin/start_watch.h"
#include "admin/supervisor_commands.h"
#include "admin/tally.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "base/paths.h"
#include "base/privileges.h"
#include "cli/checks.h"
#include "cli/cli.h"
#include "cli/clusters.h"
#include "cli/completion.h"
#include "cli/install.h"
#include "cli/logs.h"
#include "cli/man.h"
#include "cli/start.h"
#include "logger/logger.h"
#include "steer/ground.h"
#include "supervisor/cluster_effects.h"
#include "supervisor/leftovers.h"
#include "supervisor/saved_state.h"
#include "supervisor/supervisor.h"
#include "supervisor/upgrade.h"

namespace {

using namespace drover;

// Tells every event to the terminal, to systemd and to the control socket's followers.
class Audience : public supervisor::Observer {
  public:
    Audience(const std::string& cluster, EventLoop& loop) : narrator_(cluster), service_(loop) {}
    void attach(const supervisor::Supervisor& supervisor, admin::ControlServer& server) {
        supervisor_ = &supervisor;
        server_ = &server;
    }
    void attach_controller(admin::Controller* controller) { controller_ = controller; }
    void attach_starter(admin::StartWatch* watch) { start_watch_ = watch; }
    void detach_all() {
        server_ = nullptr;
        controller_ = nullptr;
        service_.detach();
        start_watch_ = nullptr;
    }
    [[nodiscard]] const admin::Tally& tally() const { return tally_; }
    void look() { service_.look(*supervisor_); }
    void on_event(const supervisor::Event& event) override {
        tally_.count(event);
        narrator_.on_event(event, *supervisor_);
        service_.on_event(event, *supervisor_);
        if (server_ != nullptr) server_->publish(event);
        if (controller_ != nullptr) controller_->publish(event);
        if (start_watch_ != nullptr) start_watch_->on_event(event);
    }

  private:
    admin::Narrator narrator_;
    admin::Tally tally_;
    admin::Service service_;
    const supervisor::Supervisor* supervisor_ = nullptr;
    admin::ControlServer* server_ = nullptr;
    admin::Controller* controller_ = nullptr;
    admin::StartWatch* start_watch_ = nullptr;
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

// While it lives, what the master says is kept with what the workers print.
class KeptLog {
  public:
    explicit KeptLog(supervisor::ClusterEffects& effects) {
        log::set_keeper([&effects](log::Level level, std::string_view text) {
            return effects.keep_log(level, text);
        });
    }
    ~KeptLog() { log::set_keeper({}); }
    KeptLog(const KeptLog&) = delete;
    KeptLog& operator=(const KeptLog&) = delete;
};

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

// What the command line wants otherwise than the master that was killed.
void apply_changes(supervisor::Supervisor& cluster, supervisor::Changes changes) {
    auto tell = [](const Result<void>& done) {
        if (!done) log::error(done.error().text);
    };
    if (changes.policy) cluster.policy(*changes.policy, tell);
    if (changes.workers) cluster.scale(*changes.workers, tell);
    if (changes.release) cluster.reload_as(std::move(*changes.release), tell);
}

// What the program that became this one has passed on: the descriptors that the variable lists.
std::vector<Fd> inherited(const char* variable) {
    std::vector<Fd> fds;
    const char* numbers = std::getenv(variable);
    std::istringstream list(numbers != nullptr ? numbers : "");
    for (std::string number; std::getline(list, number, ',');) {
        int fd = std::atoi(number.c_str());
        if (fd <= STDERR_FILENO || ::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) continue;
        fds.emplace_back(fd);
    }
    ::unsetenv(variable);
    return fds;
}

// The admin port's listener; closed where there is to be none.
Result<Fd> open_admin_port(const supervisor::Config& config, bool goes_on) {
    auto passed_on = goes_on ? inherited(admin::kAdminFd) : std::vector<Fd>();
    if (!config.admin) return Fd();
    if (!passed_on.empty()) return std::move(passed_on.front());
    auto listener = admin::listen_for_admin(*config.admin);
    if (listener && !goes_on && !admin::is_loopback(config.admin->address))
        log::warn(
            fmt::format("everybody who reaches {} port {} can read metrics and status: "
                        "--admin {} is for this machine alone",
                        config.admin->address, config.admin->number, config.admin->number));
    return listener;
}

std::unique_ptr<admin::HttpServer> serve_admin_port(EventLoop& loop, Fd&& listener,
                                                    const supervisor::Supervisor& cluster,
                                                    const Audience& audience) {
    admin::PageSources sources;
    sources.status = [&cluster] { return cluster.status(); };
    sources.tally = [&audience]() -> const admin::Tally& { return audience.tally(); };
    sources.process = [began = std::chrono::system_clock::now()] {
        return admin::look_at_own_process(began);
    };
    auto server = admin::HttpServer::open(
        loop, std::move(listener), [sources](std::string_view method, std::string_view path) {
            return admin::answer_page(sources, method, path);
        });
    if (server) return std::move(*server);
    log::error(server.error().text);
    return nullptr;
}

// `goes_on`: this program has taken the place of another, under its pid. `starter`: who waits for
// it to be ready, with `start`.
int run_master(supervisor::Config config, Paths paths, const std::string& program, bool goes_on,
               Fd starter = {}) {
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
    if (!leftovers) {
        supervisor::remove_new_run_folder(paths, config.name);
        return refuse(leftovers.error());
    }
    std::optional<supervisor::SavedState> saved;
    supervisor::Changes changes;
    if (goes_on || !leftovers->pids.empty()) {
        auto loaded = supervisor::load_state(paths, config.name);
        if (!loaded)
            return refuse({"leftovers", leftovers->text(config.name, loaded.error().text), 0});
        auto found = supervisor::changes_since(*loaded, config);
        if (!found) return refuse(found.error());
        saved = std::move(*loaded);
        changes = std::move(*found);
        saved->releases.at(saved->stable).source = config.source;
        changes.before.source = config.source;
        config = changes.before;
    } else if (leftovers->any()) {
        auto cleaned = supervisor::clean_leftovers(paths, config.name, std::chrono::seconds(1));
        if (!cleaned) return refuse(cleaned.error());
        lock = supervisor::lock_cluster(paths, config.name);
        if (!lock) return refuse(lock.error());
    }
    supervisor::sign_lock(*lock, config.stop_signal);
    // As a service: workers that live stay where they are, others come into the unit's cgroup.
    if (!goes_on && std::getenv("DROVER_CGROUP") == nullptr)
        if (auto unit = admin::enter_unit()) paths.cgroup_root = *unit;
    // What lives on is the next one's to take over.
    auto give_up_early = [&](const Error& error) {
        if (!saved) supervisor::remove_run_folder(paths, config.name);
        return refuse(error);
    };
    if (!saved)
        if (auto noted = paths.note_cgroup(config.name); !noted)
            return give_up_early(noted.error());

    // 3. The event loop. Output that breaks must not end the master.
    std::signal(SIGPIPE, SIG_IGN);
    auto loop = EventLoop::open();
    if (!loop) return give_up_early(loop.error());

    // 4. The admin port; steering is loaded and named ports are taken, the logger runs.
    auto admin_port = open_admin_port(config, goes_on);
    if (!admin_port && goes_on) log::error(admin_port.error().text);  // its workers need a master
    if (!admin_port && !goes_on) return give_up_early(admin_port.error());
    auto effects = supervisor::ClusterEffects::open(
        config, paths, *loop, saved ? &*saved : nullptr,
        goes_on ? inherited(supervisor::kKeeperFds) : std::vector<Fd>());
    if (!effects) return give_up_early(effects.error());
    KeptLog kept_log(**effects);
    if (::geteuid() == 0 && config.user.empty())
        log::warn("workers run as root: --user NAME gives them a user of their own");

    // 5. The supervisor, and who is told.
    Audience audience(config.name, *loop);
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
    std::optional<admin::StartWatch> start_watch;
    if (starter.is_open())
        audience.attach_starter(&start_watch.emplace(std::move(starter), *loop, cluster));

    std::unique_ptr<admin::Controller> controller;
    if (!config.controller.empty()) {
        auto opened = open_controller(config, paths, *loop, **effects, commands, cluster);
        if (!opened) return give_up(opened.error());
        controller = std::move(*opened);
        audience.attach_controller(controller.get());
    }

    std::unique_ptr<admin::HttpServer> http;
    if (admin_port && admin_port->is_open())
        http = serve_admin_port(*loop, std::move(*admin_port), cluster, audience);
    if (http) upgrade.pass_on(admin::kAdminFd, http->listener());
    std::unique_ptr<admin::Agent> agent;
    if (config.agent) {
        auto opened = admin::Agent::open(*loop, *config.agent, [&] { return cluster.status(); });
        if (!opened && !goes_on) return give_up(opened.error());
        if (!opened) log::error(opened.error().text);  // its workers need a master
        if (opened) agent = std::move(*opened);
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

    // 7. From here on the master never exits on an error, and does what is left with less.
    if (auto dropped = keep_masters_privileges(); !dropped)
        log::warn(fmt::format("the master keeps all its privileges: {}", dropped.error().text));
    EventLoop::Source leave;
    auto on_over = [&](int status) {
        leave = loop->soon([&, status] {
            audience.detach_all();
            agent.reset();
            server->reset();  // nobody may ask for what is being taken down
            http.reset();
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
        auto took_over = fmt::format("{}: took over {} workers of a master that was killed",
                                     config.name, saved->workers.size());
        log::info(goes_on ? fmt::format("{}: drover {} goes on", config.name, DROVER_VERSION)
                          : took_over);
        if (start_watch) start_watch->tell(took_over);
        audience.look();
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

// There is no way back to the master that became this one. So what fails is tried again, as long as
// there are workers without a master.
int go_on(const std::string& cluster) {
    constexpr int kTries = 10;
    constexpr std::chrono::seconds kPause{1};
    for (int tries = 1;; tries++) {
        Paths paths = Paths::from_environment();
        auto saved = supervisor::load_state(paths, cluster);
        int status = saved ? run_master(supervisor::config_of(*saved), paths, own_program(),
                                        /*goes_on=*/true)
                           : refuse(saved.error());
        auto left = supervisor::find_leftovers(paths, cluster);
        bool is_over = status == cli::kDone || (left && left->pids.empty());
        if (is_over || tries == kTries) return status;
        std::this_thread::sleep_for(kPause);
    }
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
    if (!leftovers) return refuse(leftovers.error());
    if (!leftovers->any()) return std::nullopt;
    auto lock = supervisor::lock_cluster(paths, cluster);
    if (!lock) return std::nullopt;  // its master lives: ask it
    auto cleaned = supervisor::clean_leftovers(paths, cluster, std::chrono::seconds(10));
    if (!cleaned) return refuse(cleaned.error());
    std::printf("%s: its master was dead; ended what it had left (%zu processes)\n",
                cluster.c_str(), leftovers->pids.size());
    return cli::kDone;
}

// What `drover run` would refuse at boot is refused now.
int install(const cli::Invocation& invocation, const Paths& paths) {
    auto config = invocation.config;
    if (auto read = supervisor::read_env_files(config); !read) return refuse(read.error());
    auto identity = worker::find_identity(config.user, config.group);
    if (!identity) return refuse(identity.error());
    return cli::install(invocation, paths, own_program());
}

// Where the lines of a cluster are whose master was killed; empty for the usual place.
std::string log_file_of_dead(const std::string& cluster, const Paths& paths) {
    auto saved = supervisor::load_state(paths, cluster);
    if (!saved) return "";
    const std::string& file = saved->releases.at(saved->stable).log_file;
    return file == "none" ? "" : file;
}

}  // namespace

int main(int argc, char** argv) {
    open_standard_fds();
    if (argc >= 3 && std::strcmp(argv[1], "logger") == 0)
        return logger::logger_main(argv[2], argc > 3 ? argv[3] : "");

    // Hidden, too: a running master asks whether this program can take its place, and becomes it.
    if (argc == 3 && std::strcmp(argv[1], "can-go-on") == 0) return can_go_on(argv[2]);
    if (argc == 3 && std::strcmp(argv[1], "go-on") == 0) return go_on(argv[2]);

    // And what the build and the shells' completion ask for.
    if (argc == 3 && std::strcmp(argv[1], "man") == 0) return cli::print_man_page(argv[2]);
    Paths paths = Paths::from_environment();
    if (argc == 3 && std::strcmp(argv[1], "complete") == 0) return cli::print_names(argv[2], paths);

    auto invocation = cli::parse(argc, argv);
    if (!invocation) return invocation.error();
    if (invocation->verb == "run")
        return run_master(invocation->config, paths, own_program(), /*goes_on=*/false);
    if (invocation->verb == "start") {
        auto starter = cli::go_to_background(invocation->config.name);
        if (!starter) return starter.error();
        return run_master(invocation->config, paths, own_program(), /*goes_on=*/false,
                          std::move(*starter));
    }
    if (invocation->verb == "install") return install(*invocation, paths);
    if (invocation->verb == "uninstall") return cli::uninstall(*invocation);
    if (invocation->verb == "doctor")
        return cli::print_checks(steer::check_ground_fully(paths), invocation->json);
    if (invocation->verb == "logs")
        return cli::show_logs(*invocation, paths, [&paths](const std::string& cluster) {
            return log_file_of_dead(cluster, paths);
        });
    if (auto stopped = stop_leftovers(*invocation, paths)) return *stopped;
    return cli::run_client(*invocation, paths);
}
