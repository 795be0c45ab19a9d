// SPDX-License-Identifier: MIT
//
// Configuration files: what their text means, what is refused and where, and what wins.
#include "supervisor/config_file.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "admin/schema.h"
#include "cli/config_verbs.h"
#include "supervisor/rollout.h"
#include "supervisor/toml_shield.h"

using namespace drover;
using namespace drover::supervisor;
using namespace std::chrono_literals;

namespace {

bool mentions(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

// A file in a folder of its own.
struct File {
    std::string folder = [] {
        char pattern[] = "/tmp/drover-config-XXXXXX";
        return std::string(::mkdtemp(pattern));
    }();
    std::string path = folder + "/drover.toml";

    explicit File(const std::string& content) { write(content); }
    ~File() { std::filesystem::remove_all(folder); }
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    void write(const std::string& content) const {
        std::ofstream(path) << content;
        REQUIRE(::chmod(path.c_str(), 0644) == 0);
    }
};

using Options = std::vector<std::pair<std::string, std::string>>;

// As the command line would say it.
Result<Config> configured(const File& file, const Options& options = {},
                          const std::vector<std::string>& command = {}) {
    Config said;
    REQUIRE(set_option(said, "config", file.path));
    for (const auto& [name, value] : options) REQUIRE(set_option(said, name, value));
    said.command = command;
    return configure(said);
}

Config good(const File& file, const Options& options = {},
            const std::vector<std::string>& command = {}) {
    auto config = configured(file, options, command);
    INFO((config ? "" : config.error().text));
    REQUIRE(config);
    return *config;
}

// The first problem of a text, as "LINE: text"; "" where there is none.
std::string problem_of(const std::string& text) {
    auto parsed = parse_config_toml(text, "/srv");
    if (parsed.problems.empty()) return "";
    return fmt::format("{}: {}", parsed.problems.front().line, parsed.problems.front().text);
}

constexpr const char* kTwo = R"(
workers = 3
policy = "hash"
env = { A = "1", B = 2 }
[web]
command = ["node", "server.js"]
port = [80, "127.0.0.1:81"]
env = { B = "3", C = true }
[api]
command = ["./api", "--port", 9000]
policy = "least-conn"
cwd = "/opt/api"
)";

}  // namespace

TEST_SUITE_BEGIN("config-file");

TEST_CASE("a file without tables is one cluster") {
    File file(
        "command = [\"node\", \"server.js\"]\nworkers = 4\nport = 80\n"
        "drain_timeout = \"3s\"\nmax_memory = 1048576\numask = 0o027\nstop_signal = 3\n");
    auto config = good(file);
    CHECK(config.name == "server");
    CHECK(config.workers == 4);
    CHECK(config.ports == std::vector<Port>{{80, ""}});
    CHECK(config.drain_timeout == 3s);
    CHECK(config.max_memory == 1 << 20);
    CHECK(config.umask == 027);
    CHECK(config.stop_signal == 3);
    CHECK(config.command == std::vector<std::string>{"node", "server.js"});
    CHECK(config.source.file == file.path);
    CHECK(good(file, {{"name", "web"}}).name == "web");
}

TEST_CASE("a table is a cluster, and what stands above is the default of all") {
    File file(kTwo);
    auto web = good(file, {{"name", "web"}});
    CHECK(web.workers == 3);
    CHECK(web.policy == Policy::hash);
    CHECK(web.ports == std::vector<Port>{{80, ""}, {81, "127.0.0.1"}});
    // env adds up; of two values the later one counts.
    CHECK(web.env == std::vector<std::string>{"A=1", "B=2", "B=3", "C=true"});
    CHECK(web.cwd == file.folder);
    auto api = good(file, {{"name", "api"}});
    CHECK(api.policy == Policy::least_conn);
    CHECK(api.command == std::vector<std::string>{"./api", "--port", "9000"});
    CHECK(api.cwd == "/opt/api");
    auto none = configured(file);
    REQUIRE_FALSE(none);
    CHECK(mentions(none.error().text, "api, web"));
    auto wrong = configured(file, {{"name", "wep"}});
    REQUIRE_FALSE(wrong);
    CHECK(mentions(wrong.error().text, "did you mean web"));
    File one("[web]\ncommand = [\"x\"]\n");
    CHECK(good(one).name == "web");
}

TEST_CASE("the command line wins over the file, and env adds to it") {
    File file(kTwo);
    auto config =
        good(file,
             {{"name", "web"}, {"port", "8080"}, {"workers", "1"}, {"env", "B=4"}, {"cwd", "/tmp"}},
             {"other"});
    CHECK(config.ports == std::vector<Port>{{8080, ""}});
    CHECK(config.workers == 1);
    CHECK(config.env.back() == "B=4");
    CHECK(config.env.size() == 5);
    CHECK(config.cwd == "/tmp");
    CHECK(config.command == std::vector<std::string>{"other"});
    CHECK(config.source.options.size() == 5);
    CHECK(config.source.command == std::vector<std::string>{"other"});
}

TEST_CASE("paths are relative to the file's folder") {
    auto parsed = parse_config_toml(
        "command = [\"x\"]\ncwd = \"app\"\nenv_file = [\"a.env\", \"/etc/b.env\"]\n"
        "policy = \"my.bpf.o\"\n",
        "/srv");
    REQUIRE(parsed.problems.empty());
    std::map<std::string, std::vector<std::string>> values;
    for (const auto& value : parsed.clusters.front().values)
        values[std::string(value.option->name)].push_back(value.value);
    CHECK(values["cwd"] == std::vector<std::string>{"/srv/app"});
    CHECK(values["env-file"] == std::vector<std::string>{"/srv/a.env", "/etc/b.env"});
    CHECK(values["policy"] == std::vector<std::string>{"/srv/my.bpf.o"});
}

TEST_CASE("what is wrong is told by line and key, with what would be right") {
    struct {
        const char *text, *place, *part;
    } cases[] = {
        {"workers = 4\ndrain_timeout = \"soon\"\n", "2: drain_timeout: ", "500ms, 10s, 5m or 24h"},
        {"drain_timout = \"1s\"\n", "1: ", "did you mean drain_timeout?"},
        {"drain-timeout = \"1s\"\n", "1: ", "did you mean drain_timeout?"},
        {"drain_timeout = 10\n", "1: drain_timeout: ", "has no unit: write 10ms, 10s"},
        {"[web]\n\nworkers = true\n", "3: workers: ", "true or false: write a number or a string"},
        {"workers = [1, 2]\n", "1: workers: ", "just one"},
        {"port = [80,\n 70000]\n", "2: port: ", "1 to 65535"},
        {"port = { a = 1 }\n", "1: [port] has ", "no key \"a\""},
        {"cwd = 5\n", "1: cwd: ", "it is a number: write a string"},
        {"ready_timeout = 1.5\n", "1: ready_timeout: ", "a number with a point"},
        {"ready_timeout = 1979-05-27\n", "1: ready_timeout: ", "a date"},
        {"command = \"node server.js\"\n", "1: command: ", "[\"node\", \"server.js\"]"},
        {"command = []\n", "1: command: ", "an array of words"},
        {"umask = 22\n", "1: umask: ", "0o022"},
        {"policy = \"best\"\n", "1: policy: ", "round-robin"},
        {"env = { A = 1.5 }\n", "1: env: A: ", "write a string"},
        {"env = [\"A\"]\n", "1: env: ", "NAME=VALUE"},
        {"name = \"No Name\"\n", "1: name: ", "a-z"},
        {"[web]\nname = \"x\"\n", "2: name: ", "[web] already"},
        {"name = \"x\"\n[web]\n", "1: name: ", "their tables"},
        {"[No]\n", "1: [No]: ", "a-z"},
        {"[web]\n[web]\n", "2: ", "no TOML"},
        {"workers = \n", "1: ", "no TOML"},
        {"[#web]\n", "1: ", "no TOML"},
        {"config = \"x\"\n", "1: ", "no key \"config\""},
        {"cwd = \"a\\u0000b\"\n", "1: cwd: ", "zero byte"},
    };
    for (const auto& [text, place, part] : cases) {
        auto problem = problem_of(text);
        CAPTURE(text);
        CAPTURE(problem);
        CHECK(problem.starts_with(place));
        CHECK(mentions(problem, part));
    }
    // All of them, by line.
    auto parsed = parse_config_toml("port = 0\n[b]\nx = 1\n[a]\ny = 1\n", "/srv");
    REQUIRE(parsed.problems.size() == 3);
    CHECK(parsed.problems[0].line == 1);
    CHECK(parsed.problems[1].line == 3);
    CHECK(parsed.problems[2].line == 5);
}

TEST_CASE("characters that are not ASCII come through in strings, and are refused elsewhere") {
    for (const char* text : {"", "plain", "é\u20ac\ufeff\U0001F600", "\xff\xc3", "\xed\xa0\x80"}) {
        CAPTURE(text);
        CHECK(unshielded(shielded(text)) == text);
    }
    CHECK(shielded("aé") == "a\U000F00E9");
    auto parsed = parse_config_toml(
        "\ufeff# é\ncommand = [\"é\", '\u20ac', \"\\u00e9\", \"\U0001F600\"]\nenv = { E = \"ü\" "
        "}\n",
        "/srv/é");
    REQUIRE(parsed.problems.empty());
    CHECK(parsed.clusters.front().command ==
          std::vector<std::string>{"é", "\u20ac", "é", "\U0001F600"});
    CHECK(parsed.clusters.front().values.front().value == "E=ü");
    for (const char* text : {"é = 1\n", "a = é\n", "[é]\n", "\ufeff\ufef7 = 1\n", "a = \xff\n",
                             "a = -'''\xc2\xb9\n", "a = 1 \u00a0\n"}) {
        CAPTURE(text);
        CHECK(mentions(problem_of(text), "1: this is no TOML: "));
    }
    CHECK(mentions(problem_of("é = 1\n"), "é"));
}

TEST_CASE("each option of the table is a key") {
    for (const auto& option : option_table()) {
        if (option.name == "config") continue;
        CAPTURE(option.name);
        CHECK_FALSE(mentions(problem_of(fmt::format("{} = \"\"\n", key_of(option))), "no key"));
    }
}

TEST_CASE("the first problem of a file is the error of a run, with its place") {
    File file("workers = 4\ndrain_timeout = \"soon\"\nx = 1\n");
    auto config = configured(file);
    REQUIRE_FALSE(config);
    CHECK(config.error().code == "usage");
    CHECK(config.error().text.starts_with(file.path + ":2: drain_timeout: \"soon\""));
    CHECK(mentions(config.error().text, "1 more: drover config check"));
    file.write("[web]\nworkers = 4\n");
    CHECK(mentions(configured(file).error().text, ":1: [web] has no command"));
    file.write("command = [\"x\"]\npolicy = \"shared\"\nipc = \"pipe\"\n");
    CHECK(mentions(configured(file).error().text, "--policy shared"));
}

TEST_CASE("a file that others can write is refused to root" * doctest::skip(::geteuid() != 0)) {
    File file("command = [\"x\"]\n");
    good(file);
    for (mode_t mode : {0664, 0646}) {
        REQUIRE(::chmod(file.path.c_str(), mode) == 0);
        auto config = configured(file);
        REQUIRE_FALSE(config);
        CHECK(mentions(config.error().text, "chmod go-w " + file.path));
    }
    std::filesystem::remove(file.path);
    CHECK(mentions(configured(file).error().text, "No such file"));
    std::filesystem::create_directory(file.path);
    CHECK(mentions(configured(file).error().text, "no file"));
}

TEST_CASE("config check looks at all clusters") {
    File file("[web]\nworkers = 2\n[api]\ncommand = [\"x\"]\nenv_file = \"none.env\"\n");
    auto checked = check_config_file(file.path);
    REQUIRE(checked.problems.size() == 2);
    CHECK(checked.problems[0].line == 1);
    CHECK(mentions(checked.problems[0].text, "[web] has no command"));
    CHECK(checked.problems[1].line == 3);
    CHECK(mentions(checked.problems[1].text, file.folder + "/none.env"));
    file.write(kTwo);
    checked = check_config_file(file.path);
    CHECK(checked.problems.empty());
    CHECK(checked.clusters == std::vector<std::string>{"api", "web"});
    file.write("command = [\"node\", \"server.js\"]\n");
    CHECK(check_config_file(file.path).clusters == std::vector<std::string>{"server"});
}

TEST_CASE("a reload reads the file anew: what can change does, the rest is refused by its line") {
    File file("[web]\ncommand = [\"a\"]\nport = 80\nenv = { A = 1 }\nworkers = 2\n");
    auto before = good(file, {{"env", "X=1"}, {"drain-timeout", "7s"}});
    REQUIRE(is_by_file(before, {}));
    auto same = changed_by_file(before, {});
    REQUIRE(same);
    CHECK(same->config == before);
    CHECK_FALSE(same->policy);
    CHECK_FALSE(same->workers);

    file.write(
        "[web]\ncommand = [\"b\"]\nport = 80\nenv = { A = 2 }\nworkers = 3\n"
        "drain_timeout = \"1s\"\npolicy = \"hash\"\n");
    auto changed = changed_by_file(before, {{{"env", "Y=1"}}, {}, 1, {}});
    REQUIRE(changed);
    CHECK(changed->config.command == std::vector<std::string>{"b"});
    CHECK(changed->config.env == std::vector<std::string>{"A=2", "X=1", "Y=1"});
    CHECK(changed->config.drain_timeout == 7s);  // of the command line
    CHECK(changed->policy == PolicyChoice(Policy::hash));
    CHECK(changed->workers == 3);
    // What a reload says is the command line's from then on.
    CHECK(changed_by_file(changed->config, {})->config.env.back() == "Y=1");
    auto canary = changed_by_file(before, {{}, {}, 1, Share{1, false}});
    REQUIRE_FALSE(canary);
    CHECK(mentions(canary.error().text, ":5: workers cannot change"));

    file.write("[web]\ncommand = [\"b\"]\nenv = { A = 2 }\nport = 81\nworkers = 2\n");
    auto refused = changed_by_file(before, {});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == "usage");
    CHECK(mentions(refused.error().text, file.path + ":4: port cannot change in a reload"));
    file.write("\n[web]\ncommand = [\"b\"]\nworkers = 2\n");
    CHECK(mentions(changed_by_file(before, {}).error().text, ":2: port cannot change"));
    file.write("[api]\ncommand = [\"b\"]\n");
    CHECK(mentions(changed_by_file(before, {}).error().text, "no cluster [web]"));
    file.write("[web\n");
    CHECK(mentions(changed_by_file(before, {}).error().text, ":1: this is no TOML"));
}

TEST_CASE("a reload can bring a file to a cluster that had none") {
    File file("[web]\ncommand = [\"b\"]\nworkers = 2\ndrain_timeout = \"1s\"\n");
    Config before;
    REQUIRE(set_option(before, "workers", "2"));
    before.name = "web";
    before.command = {"a"};
    CHECK_FALSE(is_by_file(before, {}));
    ReloadRequest request{{{"config", file.path}}, {}, 1, {}};
    REQUIRE(is_by_file(before, request));
    auto changed = changed_by_file(before, request);
    REQUIRE(changed);
    CHECK(changed->config.drain_timeout == 1s);
    CHECK(changed->config.command == std::vector<std::string>{"a"});  // of the command line
    CHECK(changed->config.source.file == file.path);
    CHECK_FALSE(changed->workers);
}

TEST_CASE("config show is TOML that is read back as the same configuration") {
    File file(std::string(kTwo) +
              "user = \"nobody\"\numask = \"027\"\nmax_memory = \"512M\"\n"
              "controller = \"echo \\\"a\\\\b\\\" \\u001b é\"\n");
    auto config = good(file, {{"name", "api"}});
    auto text = cli::render_config(cli::Json::parse(admin::to_line(admin::to_json(config))));
    CAPTURE(text);
    CHECK(mentions(text, "# from " + file.path));
    CHECK(mentions(text, "[api]\n"));
    CHECK(mentions(text, "workers = 3\n"));
    CHECK(mentions(text, "umask = \"027\"\n"));
    CHECK(mentions(text, "drain_timeout = \"10s\"\n"));
    CHECK_FALSE(mentions(text, "\033"));
    File again(text);
    auto back = good(again);
    back.source = config.source;
    CHECK(back == config);
}

TEST_SUITE_END();
