// SPDX-License-Identifier: MIT
#include "harness.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

namespace drover::test {

namespace fs = std::filesystem;

namespace {

constexpr const char* kPinRoot = "/sys/fs/bpf";

// The running test's name as a file name: "scale up, then down" → "scale-up-then-down-3f2a".
std::string slug_of_test() {
    std::string name = doctest::getContextOptions()->currentTest->m_name;
    std::string slug;
    for (char c : name) {
        if (slug.size() >= 36) break;
        if (std::isalnum(static_cast<unsigned char>(c)) != 0)
            slug += static_cast<char>(std::tolower(c));
        else if (!slug.empty() && slug.back() != '-')
            slug += '-';
    }
    return fmt::format("{}-{:04x}", slug, std::hash<std::string>{}(name)&0xffff);
}

std::string cgroup_mount() {
    std::ifstream mounts("/proc/self/mounts");
    std::string device, point, type, rest;
    while (mounts >> device >> point >> type && std::getline(mounts, rest))
        if (type == "cgroup2") return point;
    return {};
}

void bring_loopback_up() {
    Fd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request{};
    std::snprintf(request.ifr_name, sizeof(request.ifr_name), "lo");
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    if (::ioctl(fd.get(), SIOCSIFFLAGS, &request) != 0) FAIL("cannot bring the loopback up");
}

// All cgroups below `root`, deepest first, then `root`.
std::vector<std::string> cgroups_of(const std::string& root) {
    std::vector<std::string> found;
    std::error_code error;
    for (auto entry = fs::recursive_directory_iterator(root, error);
         !error && entry != fs::recursive_directory_iterator(); entry.increment(error))
        if (entry->is_directory(error)) found.push_back(entry->path());
    std::reverse(found.begin(), found.end());
    if (fs::exists(root, error)) found.push_back(root);
    return found;
}

// Ends everything in the cgroup and removes it. Bounded: a process in an uninterruptible sleep is
// left behind, and shows up as a leftover of the next run.
void remove_cgroup(const std::string& root) {
    eventually(
        [&] {
            write_file(root + "/cgroup.kill", "1");
            for (const auto& path : cgroups_of(root)) ::rmdir(path.c_str());
            return !fs::exists(root);
        },
        milliseconds(5'000));
}

// Masters that were started in the background are nobody's children.
void end_masters(const std::string& run_folder) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(run_folder, error)) {
        pid_t pid = std::atoi(read_file(entry.path().string() + "/lock").c_str());
        if (pid <= 1) continue;
        auto program = fs::read_symlink(fmt::format("/proc/{}/exe", pid), error);
        if (program == build_folder() + "/drover") ::kill(pid, SIGKILL);
    }
}

std::string processes_of(const std::string& cgroup) {
    std::string text;
    std::istringstream pids(read_file(cgroup + "/cgroup.procs"));
    for (std::string pid; pids >> pid;) {
        std::string command = read_file("/proc/" + pid + "/cmdline");
        std::replace(command.begin(), command.end(), '\0', ' ');
        text += fmt::format("process {} ({}) in {}\n", pid, command, cgroup);
    }
    return text;
}

std::string listening_sockets() {
    std::string text;
    for (const char* file : {"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"}) {
        std::istringstream lines(read_file(file));
        std::string line;
        std::getline(lines, line);
        while (std::getline(lines, line)) {
            std::istringstream fields(line);
            std::string number, local, remote, state;
            fields >> number >> local >> remote >> state;
            if (state == "0A") text += fmt::format("listening socket {}\n", local);
        }
    }
    return text;
}

[[noreturn]] void become(const Start& start, const std::string& files) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::setpgid(0, 0);
    ::signal(SIGPIPE, SIG_DFL);
    int out = ::open((files + ".out").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    int err = ::open((files + ".err").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    int null = ::open("/dev/null", O_RDONLY);
    ::dup2(null, 0);
    ::dup2(out, 1);
    ::dup2(err, 2);
    for (int fd : {out, err, null})
        if (fd > 2) ::close(fd);
    for (const auto& entry : start.extra_environment) {
        auto equals = entry.find('=');
        ::setenv(entry.substr(0, equals).c_str(), entry.substr(equals + 1).c_str(), 1);
    }
    if (!start.cwd.empty() && ::chdir(start.cwd.c_str()) != 0) ::_exit(126);
    if (start.identity && (::setgid(*start.identity) != 0 || ::setuid(*start.identity) != 0))
        ::_exit(126);
    std::vector<char*> arguments;
    for (const auto& word : start.command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
}

}  // namespace

int slowness() {
    const char* patience = std::getenv("DROVER_TEST_PATIENCE");
    return std::max(1, patience != nullptr ? std::atoi(patience) : 1);
}

std::string patient(int ms) {
    return fmt::format("{}ms", ms * slowness());
}

bool eventually(const std::function<bool()>& condition, milliseconds deadline) {
    auto end = Clock::now() + deadline * slowness();
    for (milliseconds pause{2};; pause = std::min(pause * 2, milliseconds(30))) {
        if (condition()) return true;
        if (Clock::now() >= end) return false;
        std::this_thread::sleep_for(pause);
    }
}

bool stop_process(pid_t pid) {
    return ::kill(pid, SIGSTOP) == 0 && eventually([&] {
               return contains(read_file(fmt::format("/proc/{}/stat", pid)), ") T ");
           });
}

std::string build_folder() {
    if (const char* folder = std::getenv("DROVER_BUILD"); folder != nullptr && *folder != '\0')
        return fs::absolute(folder);
    return fs::read_symlink("/proc/self/exe").parent_path();
}

std::string hello_path() {
    return build_folder() + "/servers/hello";
}

Words hello(const Words& options) {
    Words command = {hello_path()};
    command.insert(command.end(), options.begin(), options.end());
    return command;
}

std::string read_file(const std::string& path) {
    std::ifstream file(path);
    std::stringstream content;
    content << file.rdbuf();
    return content.str();
}

void write_file(const std::string& path, const std::string& content) {
    std::ofstream(path) << content;
}

size_t count_lines(const std::string& text) {
    return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
}

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

void say_skip(const std::string& reason) {
    std::printf("SKIP: %s: %s\n", doctest::getContextOptions()->currentTest->m_name,
                reason.c_str());
    std::fflush(stdout);
}

std::optional<std::string> find_program(const std::string& name) {
    for (const char* folder : {"/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/", "/usr/local/bin/"})
        if (::access((folder + name).c_str(), X_OK) == 0) return folder + name;
    say_skip(name + " is not installed");
    return std::nullopt;
}

Child::Child(const Start& start, std::string files) : files_(std::move(files)) {
    pid_ = ::fork();
    if (pid_ == 0) become(start, files_);
}

Child::Child(Child&& other) noexcept {
    *this = std::move(other);
}

Child& Child::operator=(Child&& other) noexcept {
    if (this == &other) return *this;
    end();
    pid_ = std::exchange(other.pid_, -1);
    status_ = other.status_;
    files_ = other.files_;
    return *this;
}

Child::~Child() {
    end();
}

void Child::end() {
    if (pid_ <= 0 || status_) return;
    send(SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
}

bool Child::runs() {
    if (pid_ <= 0 || status_) return false;
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) != pid_) return true;
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return false;
}

void Child::send(int signal) const {
    if (pid_ > 0 && !status_) ::kill(pid_, signal);
}

int Child::wait(milliseconds deadline) {
    eventually([&] { return !runs(); }, deadline);
    return status_.value_or(-1);
}

Sandbox::Sandbox() {
    name_ = slug_of_test();
    folder_ = "/tmp/drover-test-" + name_;
    cgroup_ = cgroup_mount() + "/drover-test-" + name_;
    pins_ = std::string(kPinRoot) + "/drover-test-" + name_;
    clean();
    fs::create_directories(folder_ + "/io");
    outer_network_.reset(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    if (::unshare(CLONE_NEWNET) != 0) FAIL("cannot make a network namespace");
    bring_loopback_up();
    ::setenv("DROVER_RUN_DIR", run_folder().c_str(), 1);
    ::setenv("DROVER_CGROUP", cgroup_.c_str(), 1);
    ::setenv("DROVER_BPFFS", pins_.c_str(), 1);
    ::setenv("DROVER_LOG_ROOT", log_folder().c_str(), 1);
}

Sandbox::~Sandbox() {
    clean();
    if (::setns(outer_network_.get(), CLONE_NEWNET) != 0)
        std::fprintf(stderr, "cannot go back to the outer network namespace\n");
}

void Sandbox::clean() {
    end_masters(run_folder());
    remove_cgroup(cgroup_);
    std::error_code error;
    fs::remove_all(pins_, error);
    fs::remove_all(folder_, error);
}

Child Sandbox::start(Start start) {
    if (start.cwd.empty()) start.cwd = folder_;
    return {start, fmt::format("{}/io/{}", folder_, ++children_)};
}

Outcome Sandbox::run(const Start& start, milliseconds deadline) {
    Child child = this->start(start);
    int status = child.wait(deadline);
    return {status, child.out(), child.err()};
}

Outcome Sandbox::drover(const Words& arguments, milliseconds deadline) {
    Words command = {build_folder() + "/drover"};
    command.insert(command.end(), arguments.begin(), arguments.end());
    return run({.command = command, .extra_environment = {}, .identity = {}, .cwd = {}}, deadline);
}

std::string Sandbox::leftovers() {
    std::string found;
    eventually([&] { return (found = look_for_leftovers()).empty(); }, milliseconds(1'500));
    return found;
}

bool Sandbox::has_frozen() const {
    return std::ranges::any_of(cgroups_of(cgroup_), [](const auto& cgroup) {
        return read_file(cgroup + "/cgroup.freeze") == "1\n";
    });
}

// The roots themselves may stay; what is in them belongs to a cluster. The folder of port locks
// may stay too, if it is empty.
std::string Sandbox::look_for_leftovers() const {
    std::string text;
    for (const auto& cgroup : cgroups_of(cgroup_)) {
        text += processes_of(cgroup);
        if (cgroup != cgroup_) text += "cgroup " + cgroup + "\n";
    }
    std::error_code error;
    if (fs::exists(pins_, error))
        for (const auto& entry : fs::recursive_directory_iterator(pins_, error))
            text += "pin " + entry.path().string() + "\n";
    if (fs::exists(run_folder(), error))
        for (const auto& entry : fs::recursive_directory_iterator(run_folder(), error))
            if (entry.path() != run_folder() + "/ports")
                text += "file " + entry.path().string() + "\n";
    return text + listening_sockets();
}

Cluster::Cluster(Sandbox& sandbox, std::string name, const Words& options, const Words& command,
                 const Words& environment, const Words& wrapper)
    : sandbox_(sandbox), name_(std::move(name)) {
    Words words = wrapper;
    for (const auto& word :
         {build_folder() + "/drover", std::string("run"), std::string("--name"), name_})
        words.push_back(word);
    words.insert(words.end(), options.begin(), options.end());
    // Node takes its time to start on a slow machine.
    if (slowness() > 1 &&
        std::find(options.begin(), options.end(), "--ready-timeout") == options.end())
        words.insert(words.end(), {"--ready-timeout", patient(30'000)});
    words.emplace_back("--");
    words.insert(words.end(), command.begin(), command.end());
    master_ = sandbox_.start(
        {.command = words, .extra_environment = environment, .identity = {}, .cwd = {}});
}

bool Cluster::wait_ready(int workers, milliseconds deadline) {
    bool ended = false;
    bool ready = eventually(
        [&] {
            ended = !master_.runs();
            if (ended) return true;
            Json now = status();
            return now.is_object() && now.value("ready", -1) == workers &&
                   now.value("wanted", -1) == workers && now["workers"].is_array() &&
                   static_cast<int>(now["workers"].size()) == workers;
        },
        deadline);
    if (ready && !ended) return true;
    std::printf(
        "cluster %s is not ready with %d workers%s\n--- its output:\n%s%s--- its status: %s\n",
        name_.c_str(), workers, ended ? ": the master has ended" : "", master_.out().c_str(),
        master_.err().c_str(), status().dump(1).c_str());
    return false;
}

Json Cluster::status() {
    auto outcome = drover({"status", name_, "--json"});
    if (outcome.status != 0) return {};
    Json json = Json::parse(outcome.out, nullptr, false);
    return json.is_discarded() ? Json() : json;
}

Json Cluster::worker(int instance) {
    Json now = status();
    if (!now.is_object()) return {};
    for (const auto& worker : now["workers"])
        if (worker.value("instance", -1) == instance) return worker;
    return {};
}

pid_t Cluster::pid_of(int instance) {
    Json found = worker(instance);
    return found.is_object() && found["pid"].is_number() ? found["pid"].get<pid_t>() : 0;
}

std::string Cluster::target(int instance) {
    Json found = worker(instance);
    return fmt::format("{}/{}", name_, found.is_object() ? found["id"].get<int>() : 0);
}

std::vector<Json> Cluster::events() {
    std::vector<Json> events;
    std::istringstream lines(drover({"events", name_, "--json"}).out);
    for (std::string line; std::getline(lines, line);) {
        Json event = Json::parse(line, nullptr, false);
        if (event.is_object()) events.push_back(event);
    }
    return events;
}

int Cluster::stop(milliseconds deadline) {
    auto outcome = drover({"stop", name_}, deadline);
    if (outcome.status != 0) std::printf("stop: %s%s", outcome.out.c_str(), outcome.err.c_str());
    return master_.wait(deadline);
}

Outcome Cluster::drover(const Words& arguments, milliseconds deadline) {
    return sandbox_.drover(arguments, deadline);
}

}  // namespace drover::test
