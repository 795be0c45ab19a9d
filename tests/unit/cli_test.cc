// SPDX-License-Identifier: MIT
//
// The command line's parser, the client's side of the control socket, and what is printed.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "cli/checks.h"
#include "cli/cli.h"
#include "cli/clusters.h"
#include "cli/connection.h"
#include "cli/render.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

using namespace drover;
using namespace drover::cli;
using namespace std::chrono_literals;

namespace {

bool mentions(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

// Without its line breaks and what is set in.
std::string in_one_line(const std::string& text) {
    std::istringstream words(text);
    std::string result;
    for (std::string word; words >> word;) result += (result.empty() ? "" : " ") + word;
    return result;
}

// What is written to a standard stream while it lives.
class Capture {
  public:
    explicit Capture(FILE* stream) : stream_(stream), file_(std::tmpfile()) {
        std::fflush(stream_);
        saved_.reset(::dup(::fileno(stream_)));
        ::dup2(::fileno(file_), ::fileno(stream_));
    }
    ~Capture() {
        restore();
        std::fclose(file_);
    }
    Capture(const Capture&) = delete;
    Capture& operator=(const Capture&) = delete;

    std::string take() {
        restore();
        std::fseek(file_, 0, SEEK_SET);
        std::string text;
        char buffer[4096];
        while (size_t count = std::fread(buffer, 1, sizeof(buffer), file_))
            text.append(buffer, count);
        return text;
    }

  private:
    void restore() {
        if (!saved_.is_open()) return;
        std::fflush(stream_);
        ::dup2(saved_.get(), ::fileno(stream_));
        saved_.reset();
    }
    FILE* stream_;
    FILE* file_;
    Fd saved_;
};

struct Parsed {
    tl::expected<Invocation, int> result;
    std::string out;
    std::string err;
};

Parsed parse_words(const std::vector<std::string>& words) {
    std::vector<const char*> argv = {"drover"};
    for (const auto& word : words) argv.push_back(word.c_str());
    Capture out(stdout), err(stderr);
    auto result = parse(static_cast<int>(argv.size()), argv.data());
    auto err_text = err.take();
    return {std::move(result), out.take(), err_text};
}

// Parses what must be right.
Invocation good(const std::vector<std::string>& words) {
    auto parsed = parse_words(words);
    CAPTURE(parsed.err);
    REQUIRE(parsed.result.has_value());
    return *parsed.result;
}

// The complaint about what must be wrong: one line, exit status 2.
std::string bad(const std::vector<std::string>& words) {
    auto parsed = parse_words(words);
    REQUIRE(!parsed.result.has_value());
    CHECK(parsed.result.error() == kUsage);
    CHECK(parsed.out.empty());
    CHECK(parsed.err.starts_with("drover: "));
    CHECK(parsed.err.find('\n') == parsed.err.size() - 1);
    return parsed.err;
}

Json parse_json(const char* text) {
    auto json = Json::parse(text, nullptr, false);
    REQUIRE(!json.is_discarded());
    return json;
}

// A master's end of a control socket, in a folder of its own.
struct FakeMaster {
    std::string folder;
    Paths paths;
    Fd listener;

    explicit FakeMaster(const std::string& name) {
        char pattern[] = "/tmp/drover-unit-XXXXXX";
        folder = ::mkdtemp(pattern);
        paths.run_root = folder;
        listen(name);
    }
    ~FakeMaster() { std::filesystem::remove_all(folder); }

    void listen(const std::string& name) {
        std::filesystem::create_directories(paths.run(name));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        paths.control_socket(name).copy(address.sun_path, sizeof(address.sun_path) - 1);
        listener.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const auto* generic = reinterpret_cast<const sockaddr*>(&address);
        REQUIRE(::bind(listener.get(), generic, sizeof(address)) == 0);
        REQUIRE(::listen(listener.get(), 8) == 0);
    }
    [[nodiscard]] Fd accept() const {
        return Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    }
};

}  // namespace

TEST_CASE("run takes options, then a command with options of its own") {
    auto run = good({"run", "-n", "4", "--port", "80", "--port=[::1]:443", "--policy=hash", "--",
                     "node", "--inspect", "-n", "server.js"});
    CHECK(run.verb == "run");
    CHECK(run.config.workers == 4);
    CHECK(run.config.ports == std::vector<supervisor::Port>{{80, ""}, {443, "::1"}});
    CHECK(run.config.policy == supervisor::Policy::hash);
    CHECK(run.config.command == std::vector<std::string>{"node", "--inspect", "-n", "server.js"});
    CHECK(run.config.name == "server");
    CHECK(run.cluster == "server");
}

TEST_CASE("run's first word that is no option begins the command") {
    auto run = good({"run", "-n4", "nginx", "-g", "daemon off;", "--", "--help", "status"});
    CHECK(run.config.workers == 4);
    CHECK(run.config.command ==
          std::vector<std::string>{"nginx", "-g", "daemon off;", "--", "--help", "status"});
    CHECK(good({"run", "ls", "-l"}).config.command == std::vector<std::string>{"ls", "-l"});
    CHECK(good({"run", "--", "-strange"}).config.command == std::vector<std::string>{"-strange"});
    CHECK(good({"run", "status"}).config.command == std::vector<std::string>{"status"});
}

TEST_CASE("repeatable options keep their order and their brackets") {
    auto run = good({"run", "--env", "A=[1,2]", "--env", "B=x y", "--env=C=", "a", "b"});
    CHECK(run.config.env == std::vector<std::string>{"A=[1,2]", "B=x y", "C="});
    CHECK(run.config.command == std::vector<std::string>{"a", "b"});
}

TEST_CASE("a wrong option is told with the nearest right one") {
    CHECK(bad({"run", "--polcy", "hash", "--", "node"}) ==
          "drover: unknown option --polcy: did you mean --policy?\n");
    CHECK(bad({"run", "--polcy=hash", "node"}) ==
          "drover: unknown option --polcy: did you mean --policy?\n");
    CHECK(bad({"run", "--frobnicate", "node"}) == "drover: unknown option --frobnicate\n");
    CHECK(bad({"ls", "--jsn"}) == "drover: unknown option --jsn: did you mean --json?\n");
    CHECK(bad({"stop", "--json"}) == "drover: unknown option --json\n");
    CHECK(bad({"--versoin"}) == "drover: unknown option --versoin: did you mean --version?\n");
    CHECK(mentions(bad({"-n", "4", "--", "node"}), "drover run -n"));
    // Options of later versions do not exist yet.
    CHECK(mentions(bad({"run", "--canary", "10%", "node"}), "unknown option --canary"));
}

TEST_CASE("a wrong verb is told with the nearest right one") {
    CHECK(bad({"stauts"}) == "drover: no verb \"stauts\": did you mean \"status\"?\n");
    CHECK(bad({"help", "stpo"}) == "drover: no verb \"stpo\": did you mean \"stop\"?\n");
    CHECK(bad({"frobnicate"}) ==
          "drover: no verb \"frobnicate\": see \"drover help\"; a command: \"drover run -- "
          "frobnicate\"\n");
    CHECK(mentions(bad({"\033[2J"}), "no verb \"\\x1b[2J\""));
}

TEST_CASE("words of other process managers are understood as verbs that were meant") {
    for (const auto& [word, verb] :
         std::vector<std::pair<const char*, const char*>>{{"list", "ls"},
                                                          {"monit", "top"},
                                                          {"delete", "stop"},
                                                          {"kill", "stop"},
                                                          {"describe", "status"},
                                                          {"show", "status"},
                                                          {"gracefulReload", "reload"}}) {
        CAPTURE(word);
        CHECK(mentions(bad({word}), fmt::format("did you mean \"{}\"?", verb)));
    }
    // Whatever is suggested exists.
    for (const char* word : {"startup", "save", "log", "resurrect"})
        if (auto meant = verb_meant_by(word)) CHECK(find_verb(*meant) != nullptr);
}

TEST_CASE("a wrong or missing value is told by its option") {
    CHECK(mentions(bad({"run", "--policy", "best", "node"}), "--policy: \"best\" is none of"));
    CHECK(mentions(bad({"run", "-n", "0", "node"}), "--workers: \"0\""));
    CHECK(bad({"run", "--port"}) == "drover: --port needs a value\n");
    CHECK(bad({"run", "-n"}) == "drover: -n needs a value\n");
    CHECK(bad({"run", "-n", "1", "-n", "2", "node"}) == "drover: --workers is given twice\n");
    CHECK(mentions(bad({"run", "-n", "4"}), "no command"));
    CHECK(mentions(bad({"run", "--"}), "no command"));
    CHECK(mentions(bad({"run"}), "no command"));
}

TEST_CASE("verbs take CLUSTER[/ID] and an argument; the cluster may be left out") {
    CHECK(good({"status"}).cluster.empty());
    CHECK(good({"status", "web", "--json"}).json);
    CHECK(good({"status", "--json", "web"}).cluster == "web");
    auto events = good({"events", "-f"});
    CHECK(events.follow);
    CHECK(!events.json);

    auto stop = good({"stop", "web/7"});
    CHECK(stop.cluster == "web");
    CHECK(stop.worker == 7);
    auto lone = good({"stop", "/3"});
    CHECK(lone.cluster.empty());
    CHECK(lone.worker == 3);
    CHECK(good({"stop"}).worker == std::nullopt);

    auto scale = good({"scale", "web", "6"});
    CHECK(scale.cluster == "web");
    CHECK(scale.arguments == std::vector<std::string>{"6"});
    CHECK(good({"scale", "4"}).cluster.empty());
    CHECK(good({"scale", "4"}).arguments == std::vector<std::string>{"4"});
    CHECK(good({"policy", "hash"}).arguments == std::vector<std::string>{"hash"});
    CHECK(good({"policy", "web", "my.bpf.o"}).arguments == std::vector<std::string>{"my.bpf.o"});
    auto signal = good({"signal", "/3", "HUP"});
    CHECK(signal.cluster.empty());
    CHECK(signal.worker == 3);
    CHECK(signal.arguments == std::vector<std::string>{"HUP"});
    CHECK(good({"drain", "web/1"}).worker == 1);
    CHECK_FALSE(good({"drain", "web"}).worker);
    CHECK(good({"probe", "web/1", "/health?all"}).arguments ==
          std::vector<std::string>{"/health?all"});
    for (const char* weight : {"1", "100"}) {
        auto heavy = good({"weight", "web/7", weight});
        CHECK(heavy.worker == 7);
        CHECK(heavy.arguments == std::vector<std::string>{weight});
    }
    CHECK(good({"weight", "/7", "3"}).cluster.empty());
}

TEST_CASE("what a verb cannot take is refused") {
    CHECK(mentions(bad({"weight", "2"}), "weight needs a worker: drover weight [CLUSTER]/ID"));
    CHECK(mentions(bad({"weight", "web", "2"}), "weight needs a worker"));
    CHECK(mentions(bad({"probe", "web/1", "health"}), "no path like /health"));
    CHECK(mentions(bad({"status", "web/1"}), "whole cluster"));
    CHECK(mentions(bad({"scale"}), "N is missing"));
    CHECK(mentions(bad({"scale", "web"}), "\"web\" is not a number from 1 to 256"));
    CHECK(mentions(bad({"scale", "0"}), "1 to 256"));
    CHECK(mentions(bad({"scale", "257"}), "1 to 256"));
    CHECK(mentions(bad({"scale", "auto"}), "1 to 256"));
    CHECK(mentions(bad({"scale", "web/1", "4"}), "whole cluster"));
    CHECK(mentions(bad({"weight", "web", "3"}), "weight needs a worker"));
    CHECK(mentions(bad({"weight", "web/7"}), "is not a number from 1 to 100"));
    for (const char* weight : {"0", "101", "1.5", "x", ""})
        CHECK(mentions(bad({"weight", "web/7", weight}), "is not a number from 1 to 100"));
    CHECK(mentions(bad({"signal", "web", "FOO"}), "FOO"));
    CHECK(mentions(bad({"policy", "web", "best"}), "round-robin"));
    CHECK(mentions(bad({"stop", "3"}), "worker 3 of the only one is /3"));
    CHECK(mentions(bad({"stop", "web/"}), "no worker id"));
    CHECK(mentions(bad({"stop", "web/0"}), "they count from 1"));
    CHECK(mentions(bad({"stop", "web/1/2"}), "no worker id"));
    CHECK(mentions(bad({"stop", "../x"}), "is no name"));
    CHECK(mentions(bad({"stop", "a", "b"}), "one word too many, \"b\""));
    CHECK(mentions(bad({"ls", "web"}), "one word too many"));
}

TEST_CASE("help and version are no errors") {
    for (const auto& words : std::vector<std::vector<std::string>>{{},
                                                                   {"help"},
                                                                   {"--help"},
                                                                   {"-h"},
                                                                   {"help", "run"},
                                                                   {"run", "--help"},
                                                                   {"stop", "-h"}}) {
        auto parsed = parse_words(words);
        REQUIRE(!parsed.result.has_value());
        CHECK(parsed.result.error() == kDone);
        CHECK(parsed.err.empty());
        CHECK(mentions(parsed.out, "drover"));
    }
    CHECK(parse_words({"--version"}).out.starts_with("drover "));
}

TEST_CASE("reload takes options that change, a command, and how to go about it") {
    auto parsed = parse_words({"reload", "web", "--env", "A=1", "--env", "B=2", "--drain-timeout",
                               "3s", "--parallel", "2", "--canary", "25%", "--", "node", "-v"});
    REQUIRE(parsed.result.has_value());
    CHECK(parsed.result->cluster == "web");
    CHECK(parsed.result->changes == std::vector<std::pair<std::string, std::string>>{
                                        {"env", "A=1"}, {"env", "B=2"}, {"drain-timeout", "3s"}});
    CHECK(parsed.result->command == std::vector<std::string>{"node", "-v"});
    CHECK(parsed.result->parallel == 2);
    CHECK(parsed.result->canary == "25%");
    // The master may stand in another folder.
    auto relative = parse_words({"reload", "--cwd", "releases/2"});
    REQUIRE(relative.result.has_value());
    CHECK(relative.result->changes.front().second.starts_with("/"));
    CHECK(relative.result->cluster.empty());
    CHECK(relative.result->command.empty());
}

TEST_CASE("reload refuses what cannot change, and names it") {
    for (const auto& words : {std::vector<std::string>{"reload", "web", "--port", "80"},
                              {"reload", "web", "--user", "nobody"},
                              {"reload", "web", "-n", "3"},
                              {"reload", "web", "--parallel", "none"},
                              {"reload", "web", "--canary", "0%"},
                              {"reload", "web", "--drain-timeout", "soon"},
                              {"reload", "web/3"},
                              {"reload", "web", "--"},
                              {"reload", "web", "more"}}) {
        CAPTURE(words.back());
        auto parsed = parse_words(words);
        REQUIRE(!parsed.result.has_value());
        CHECK(parsed.result.error() == kUsage);
        CHECK(!parsed.err.empty());
    }
    CHECK(mentions(parse_words({"reload", "web", "-n", "3"}).err, "drover scale"));
    CHECK(mentions(parse_words({"reload", "web", "--user", "x"}).err, "--user"));
}

TEST_CASE("the help names every verb and every option") {
    for (const auto& verb : verbs()) CHECK(mentions(help_text(false), verb.name));
    auto run = in_one_line(help_text(*find_verb("run"), false));
    for (const auto& option : supervisor::option_table()) {
        CHECK(mentions(run, "--" + std::string(option.name)));
        CHECK(mentions(run, option.help));
    }
    CHECK(!mentions(help_text(false), "\033"));
    CHECK(mentions(help_text(true), "\033"));
    CHECK(usage_of(*find_verb("signal")) == "drover signal [CLUSTER][/ID] SIGNAL");
}

TEST_CASE("the help fits into 80 columns") {
    std::vector<std::string> texts = {help_text(false)};
    for (const auto& verb : verbs()) texts.push_back(help_text(verb, false));
    for (const auto& text : texts) {
        std::istringstream lines(text);
        for (std::string line; std::getline(lines, line);) {
            CAPTURE(line);
            CHECK(columns(line) <= 80);
        }
    }
}

TEST_CASE("the cluster that is meant") {
    Clusters two{{"api", "web"}, {"old"}, false};
    Clusters one{{"web"}, {}, false};
    CHECK(choose_cluster("web", two) == "web");
    CHECK(choose_cluster("", one) == "web");
    auto several = choose_cluster("", two);
    CHECK(several.error().code == "usage");
    CHECK(several.error().text == "2 clusters run, so name one: api, web");
    auto misspelt = choose_cluster("wbe", two);
    CHECK(misspelt.error().code == "no-cluster");
    CHECK(misspelt.error().text == "no cluster \"wbe\" runs here: did you mean \"web\"?");
    CHECK(choose_cluster("shop", two).error().text ==
          "no cluster \"shop\" runs here, but api, web");
    CHECK(mentions(choose_cluster("old", two).error().text, "drover stop old"));
    CHECK(mentions(choose_cluster("", {{}, {"old"}, false}).error().text, "drover stop old"));
    CHECK(choose_cluster("", {}).error().text ==
          "no cluster runs here: \"drover run -- CMD\" starts one");
    CHECK(choose_cluster("web", {}).error().text ==
          "no cluster \"web\" runs here: \"drover run --name web -- CMD\" starts one");
    CHECK(mentions(choose_cluster("web", {{}, {}, true}).error().text, "run it with sudo"));
}

TEST_CASE("clusters are found by a control socket that answers") {
    FakeMaster master("web");
    std::filesystem::create_directories(master.folder + "/ports");
    std::filesystem::create_directories(master.folder + "/starting");
    CHECK(running_clusters(master.paths) == std::vector<std::string>{"web"});
    master.listen("api");  // and web's listener closes: its master is gone
    auto clusters = find_clusters(master.paths);
    CHECK(clusters.running == std::vector<std::string>{"api"});
    CHECK(clusters.dead == std::vector<std::string>{"web"});
    Paths nowhere;
    nowhere.run_root = master.folder + "/nowhere";
    CHECK(running_clusters(nowhere).empty());
}

TEST_CASE("a connection splits what it receives into lines") {
    FakeMaster master("web");
    auto client = Connection::open(master.paths.control_socket("web"));
    REQUIRE(client.has_value());
    auto server = master.accept();
    REQUIRE(client->send(make_request("events", {{"follow", true}})).has_value());
    char buffer[256];
    auto count = ::recv(server.get(), buffer, sizeof(buffer), 0);
    REQUIRE(count > 0);
    CHECK(std::string(buffer, static_cast<size_t>(count)) ==
          "{\"v\":1,\"id\":1,\"verb\":\"events\",\"args\":{\"follow\":true}}\n");

    std::string_view sent = "one\ntwo\n\nhalf";
    REQUIRE(::send(server.get(), sent.data(), sent.size(), 0) > 0);
    for (const char* line : {"one", "two", ""}) CHECK(**client->read_line() == line);
    server.reset();
    auto end = client->read_line();
    REQUIRE(end.has_value());
    CHECK(!end->has_value());
    auto none = Connection::open(master.folder + "/none.sock");
    CHECK(none.error().number == ENOENT);
    CHECK(!Connection::open(std::string(200, 'x')).has_value());
}

TEST_CASE("replies are understood, or refused") {
    CHECK(*parse_reply(R"({"id":1,"ok":true,"data":{"a":1}})") == parse_json(R"({"a":1})"));
    CHECK(*parse_reply(R"({"id":1,"ok":true})") == Json::object());
    auto refused = parse_reply(
        R"({"id":1,"ok":false,"error":{"code":"no-such-worker","text":"no worker 9\u001b[2J"}})");
    CHECK(refused.error().code == "no-such-worker");
    CHECK(refused.error().text == "no worker 9\\x1b[2J");
    CHECK(parse_reply(R"({"id":1,"ok":false})").error().code == "failed");
    for (const char* strange : {"", "{", "[]", "7", "{}", R"({"ok":"yes"})"})
        CHECK(parse_reply(strange).error().code == "protocol");
}

TEST_CASE("text from others cannot command the terminal") {
    CHECK(escape("plain é ✓ 😀") == "plain é ✓ 😀");
    CHECK(escape("a\nb\tc\r") == "a\\nb\\tc\\r");
    CHECK(escape_lines("refused\n; a\033\nb") == "refused\n  ; a\\x1b\n  b");
    CHECK(escape_lines("one line") == "one line");
    CHECK(escape("\033[31m\x7f") == "\\x1b[31m\\x7f");
    CHECK(escape("\xc2\x9b") == "\\x9b");                // C1: CSI in one character
    CHECK(escape("\x9b\xff") == "\\x9b\\xff");           // no UTF-8
    CHECK(escape("\xe2\x80\xae") == "\\u202e");          // right-to-left override
    CHECK(escape("\xc0\xaf") == "\\xc0\\xaf");           // overlong
    CHECK(escape("\xed\xa0\x80") == "\\xed\\xa0\\x80");  // surrogate
    CHECK(escape("\xe2\x82") == "\\xe2\\x82");           // cut off
    CHECK(escape(std::string_view("\0", 1)) == "\\x00");
}

TEST_CASE("a table is aligned and has no blanks at the ends of lines") {
    CHECK(render_table({{{"A"}, {"B"}, {"C"}}, {{"long"}, {"é"}, {""}}, {{"x"}, {""}, {"z"}}},
                       false) ==
          "A     B  C\n"
          "long  é\n"
          "x        z\n");
    CHECK(render_table({{{"A"}}, {{"b", "\033[32m"}}}, true) ==
          "\033[1mA\033[0m\n\033[32mb\033[0m\n");
}

TEST_CASE("durations and sizes are short") {
    CHECK(human_duration(0ms) == "0ms");
    CHECK(human_duration(999ms) == "999ms");
    CHECK(human_duration(3250ms) == "3.2s");
    CHECK(human_duration(59s) == "59s");
    CHECK(human_duration(725s) == "12m 5s");
    CHECK(human_duration(3h + 12min) == "3h 12m");
    CHECK(human_duration(98h) == "4d 2h");
    CHECK(human_bytes(0) == "0");
    CHECK(human_bytes(1023) == "1023");
    CHECK(human_bytes(1536) == "1.5K");
    CHECK(human_bytes(20 << 20) == "20M");
    CHECK(human_bytes((1 << 20) - 1) == "1.0M");
    CHECK(human_bytes(UINT64_MAX) == "16E");
}

TEST_CASE("times are RFC 3339 in UTC") {
    auto day = std::chrono::system_clock::from_time_t(1735689600);  // 2025-01-01
    CHECK(parse_time("2025-01-01T00:00:00Z") == day);
    CHECK(parse_time("2025-01-01T00:00:01.25Z") == day + 1250ms);
    CHECK(parse_time("2025-01-01T00:00:00.123456Z") == day + 123ms);
    for (const char* bad : {"", "2025-01-01", "2025-01-01T00:00:00", "2025-01-01T00:00:00+01:00"})
        CHECK(parse_time(bad) == std::nullopt);
}

namespace {

constexpr const char* kStatus = R"({"v":1,"cluster":"web","pid":1,"version":"0.1.0",
    "state":"degraded","policy":"least-conn","generation":2,"wanted":2,"ready":1,"log":"/var/log/drover/web.log",
    "groups":[{"proto":"tcp","addr":"::","port":80,"v6only":false,"active":[0,1],"parked":3},
              {"proto":"tcp","addr":"0.0.0.0","port":443,"v6only":false,"active":[],"parked":0}],
    "workers":[
      {"id":7,"instance":0,"slot":0,"generation":2,"pid":99,"state":"ready","flags":["held"],
       "reason":null,"retry_at":null,"started_at":"2025-01-01T00:00:00Z","restarts_total":1,
       "live":12,"queued":0,"accepted_total":900,"weight":1,"cpu_ms_total":1500,
       "memory_bytes":20971520,"last_exit":{"code":null,"signal":"KILL","reason":"crash"}},
      {"id":8,"instance":1,"slot":null,"generation":2,"pid":null,"state":"backoff","flags":[],
       "reason":"exit code 1\u001b[2J","retry_at":"2025-01-01T00:12:07Z","started_at":null,
       "restarts_total":4,"live":0,"queued":0,"accepted_total":0,"weight":1,"cpu_ms_total":0,
       "memory_bytes":0,"last_exit":null}],
    "decisions_total":{"picked":10,"fallback":0,"keeper":1,"dropped":0},
    "corrections_total":0,"moved_total":5})";

Style plain() {
    return {false, std::chrono::system_clock::from_time_t(1735689600 + 725)};
}

}  // namespace

TEST_CASE("ls shows one line per cluster") {
    CHECK(render_clusters({parse_json(kStatus)}, plain()) ==
          "NAME  STATE     READY  POLICY      PORTS   LIVE  MEM  RESTARTS  PID\n"
          "web   degraded  1/2    least-conn  80,443  12    20M  5         1\n");
}

TEST_CASE("status shows the cluster, its ports and its workers") {
    CHECK(render_status(parse_json(kStatus), plain()) ==
          R"(cluster      web
state        degraded, 1 of 2 ready
master       pid 1, drover 0.1.0
policy       least-conn
generation   2
log          /var/log/drover/web.log
port         tcp [::]:80, active instances 0 1, 3 parked
port         tcp 0.0.0.0:443, active instances -, 0 parked
decisions    picked 10, fallback 0, keeper 1, dropped 0
moved        5
corrections  0

ID  INST  PID  STATE       UPTIME  LIVE  QUEUED  ACCEPTED  RESTARTS  CPU   MEM  REASON
7   0     99   ready held  12m 5s  12    0       900       1         1.5s  20M
8   1     -    backoff     -       0     0       0         4         -     -    exit code 1\x1b[2J, again in 2.0s
)");
}

TEST_CASE("strange JSON is shown as far as it goes") {
    for (const char* strange :
         {"null", "7", "[]", "{}", R"({"groups":7,"workers":"x"})", R"({"workers":[1,null,{}]})",
          R"({"worker":{},"data":7,"event":[]})", R"({"event":"exit","data":{"uptime_ms":-5}})"}) {
        auto json = parse_json(strange);
        CHECK(!render_status(json, plain()).empty());
        CHECK(!render_clusters({json}, plain()).empty());
        CHECK(!render_event(json, plain()).empty());
    }
}

TEST_CASE("an event is one line in words") {
    auto line = [](const std::string& event, const std::string& data) {
        auto json = parse_json((R"({"v":1,"seq":1,"time":"T","cluster":"web","event":")" + event +
                                R"(","worker":{"id":7,"instance":0,"slot":0,"pid":99,)" +
                                R"("generation":2},"data":)" + data + "}")
                                   .c_str());
        return render_event(json, plain());
    };
    CHECK(line("fork", "{}") == "T  fork          web/0        worker 7: pid 99\n");
    CHECK(line("ready", "{}") == "T  ready         web/0        worker 7\n");
    CHECK(mentions(line("listening", R"({"proto":"tcp","addr":"::1","port":80})"),
                   "worker 7: on tcp [::1]:80\n"));
    CHECK(
        mentions(line("exit", R"({"code":null,"signal":"KILL","uptime_ms":3200,"reason":"crash"})"),
                 "worker 7: killed by SIGKILL after 3.2s (crash)\n"));
    CHECK(mentions(line("exit", R"({"code":3,"signal":null,"uptime_ms":5,"reason":"stopped"})"),
                   "worker 7: exit code 3 after 5ms (stopped)\n"));
    CHECK(mentions(line("state", R"({"from":"ready","to":"draining","reason":"stop"})"),
                   "worker 7: from ready to draining: stop\n"));
    CHECK(
        mentions(line("error", R"({"code":"x","text":"bad\nthing"})"), "worker 7: bad\\nthing\n"));
    CHECK(mentions(line("rescued", R"({"moved":3})"),
                   "worker 7: 3 waiting connections went to others\n"));
    CHECK(mentions(line("stalled", R"({"queued":3})"), "worker 7: takes no connections, 3 wait\n"));
    CHECK(mentions(line("recovered", R"({"after_ms":1500})"),
                   "worker 7: takes connections again, after 1.5s\n"));
    auto scaled = parse_json(
        R"({"time":"T","cluster":"web","event":"scaled","worker":null,"data":{"from":4,"to":6}})");
    CHECK(render_event(scaled, plain()) == "T  scaled        web          from 4 to 6 workers\n");
}

TEST_CASE("doctor's checks: one line each, and a status") {
    std::vector<Check> checks = {{"kernel", true, true, "6.1"},
                                 {"memory lock", false, false, "low\033[2J"}};
    CHECK(render_checks(checks, false, false) ==
          "ok    kernel       6.1\nwarn  memory lock  low\\x1b[2J\n");
    auto json = parse_json(render_checks(checks, true, false).c_str());
    CHECK(json["ok"] == true);
    CHECK(json["checks"][1]["name"] == "memory lock");
    {
        Capture out(stdout);
        CHECK(print_checks(checks, true) == kDone);
        checks.push_back({"cgroup v2", false, true, "not mounted"});
        CHECK(print_checks(checks, false) == kFailed);
        CHECK(mentions(out.take(), "FAIL  cgroup v2"));
    }
}
