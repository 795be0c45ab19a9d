// SPDX-License-Identifier: MIT
//
// Configuration files in real life, the man pages, and the completion in a real bash and zsh.
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>

#include <filesystem>
#include <sstream>

#include "harness.h"
#include "http.h"

namespace drover::test {

namespace {

std::string drover_path() {
    return build_folder() + "/drover";
}

void write_config(const std::string& path, const std::string& content) {
    write_file(path, content);
    REQUIRE(::chmod(path.c_str(), 0644) == 0);
}

// `drover run --config FILE …` in the foreground.
Child run_file(Sandbox& sandbox, const Words& arguments) {
    Words command = {drover_path(), "run", "--config", sandbox.path("drover.toml")};
    command.insert(command.end(), arguments.begin(), arguments.end());
    return sandbox.start({.command = command, .extra_environment = {}, .identity = {}, .cwd = "/"});
}

Json status_of(Sandbox& sandbox, const std::string& cluster) {
    auto outcome = sandbox.drover({"status", cluster, "--json"});
    Json json = Json::parse(outcome.out, nullptr, false);
    return json.is_discarded() ? Json() : json;
}

bool wait_ready(Sandbox& sandbox, const std::string& cluster, int workers) {
    return eventually([&] {
        Json status = status_of(sandbox, cluster);
        return status.is_object() && status["ready"] == workers &&
               static_cast<int>(status["workers"].size()) == workers;
    });
}

std::string web(const std::string& more) {
    return fmt::format("[web]\ncommand = [\"{}\"]\nworkers = 2\nport = 8080\n{}", hello_path(),
                       more);
}

std::string environment() {
    return get("127.0.0.1", 8080, "/env").body;
}

}  // namespace

TEST_SUITE_BEGIN("config");

TEST_CASE("a file with two clusters: each runs by its name, and the command line wins") {
    Sandbox sandbox;
    write_config(sandbox.path("drover.toml"),
                 fmt::format("env = {{ FROM = \"file\", LEVEL = 1 }}\ncommand = [\"{}\"]\n"
                             "[web]\nport = 8080\nworkers = 2\n"
                             "[api]\nport = 8081\nworkers = 1\n"
                             "command = [\"{}\", \"--port\", 8081]\n",
                             hello_path(), hello_path()));
    auto check = sandbox.drover({"config", "check", sandbox.path("drover.toml")});
    INFO(check.err);
    CHECK(check.status == 0);
    CHECK(contains(check.out, "api, web"));
    auto several = sandbox.drover({"run", "--config", "drover.toml"});
    CHECK(several.status == 2);
    CHECK(contains(several.err, "api, web"));
    Child web = run_file(sandbox, {"web", "-n", "3", "--env", "LEVEL=2"});
    Child api = run_file(sandbox, {"--name", "api"});
    REQUIRE(wait_ready(sandbox, "web", 3));
    REQUIRE(wait_ready(sandbox, "api", 1));
    CHECK(contains(environment(), "FROM=file"));
    CHECK(contains(environment(), "LEVEL=2"));
    CHECK(contains(get("127.0.0.1", 8081, "/env").body, "LEVEL=1"));
    auto shown = sandbox.drover({"config", "show", "web"});
    CHECK(shown.status == 0);
    CHECK(contains(shown.out, "[web]\n"));
    CHECK(contains(shown.out, "workers = 3\n"));
    CHECK(contains(shown.out, "drain_timeout = \"10s\"\n"));
    write_config(sandbox.path("shown.toml"), shown.out);
    CHECK(sandbox.drover({"config", "check", "shown.toml"}).status == 0);
    auto json =
        Json::parse(sandbox.drover({"config", "show", "web", "--json"}).out, nullptr, false);
    CHECK(json["file"] == sandbox.path("drover.toml"));
    CHECK(json["options"]["workers"] == "3");
    // Without --config nothing is read: the words behind the options are a command.
    CHECK(sandbox.drover({"stop", "web"}).status == 0);
    CHECK(sandbox.drover({"stop", "api"}).status == 0);
    CHECK(web.wait() == 0);
    CHECK(api.wait() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("config check prints each error by file, line and key, and exits 2") {
    Sandbox sandbox;
    write_config(sandbox.path("drover.toml"),
                 "[web]\ncommand = [\"x\"]\ndrain_timeout = \"soon\"\nportt = 80\n"
                 "[api]\nworkers = true\n");
    auto check = sandbox.drover({"config", "check", "drover.toml"});
    CHECK(check.status == 2);
    INFO(check.err);
    CHECK(count_lines(check.err) == 3);
    CHECK(contains(check.err, "drover.toml:3: drain_timeout: \"soon\" is no duration"));
    CHECK(contains(check.err, "drover.toml:4: [web] has no key \"portt\": did you mean port?"));
    CHECK(contains(check.err, "drover.toml:6: workers: "));
    auto json = Json::parse(sandbox.drover({"config", "check", "drover.toml", "--json"}).out,
                            nullptr, false);
    CHECK(json["ok"] == false);
    CHECK(json["problems"][0]["line"] == 3);
    auto run = sandbox.drover({"run", "--config", "drover.toml", "web"});
    CHECK(run.status == 2);
    CHECK(contains(run.err, "drover.toml:3: drain_timeout"));
    REQUIRE(::chmod(sandbox.path("drover.toml").c_str(), 0666) == 0);
    run = sandbox.drover({"run", "--config", "drover.toml", "web"});
    CHECK(run.status == 2);
    CHECK(contains(run.err, "chmod go-w"));
    CHECK(sandbox.drover({"config", "check", "nosuch.toml"}).status == 2);
    CHECK(sandbox.drover({"config"}).status == 2);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a reload reads the file anew, also after a take-over and by SIGHUP") {
    Sandbox sandbox;
    std::string path = sandbox.path("drover.toml");
    write_config(path, web("env = { RELEASE = 1, OWN = \"file\" }\n"));
    Child first = run_file(sandbox, {"--env", "OWN=line"});
    REQUIRE(wait_ready(sandbox, "web", 2));
    CHECK(contains(environment(), "RELEASE=1"));
    write_config(path, web("env = { RELEASE = 2, OWN = \"file\" }\npolicy = \"hash\"\n"));
    auto reload = sandbox.drover({"reload", "web"});
    INFO(reload.err);
    REQUIRE(reload.status == 0);
    CHECK(contains(environment(), "RELEASE=2"));
    CHECK(contains(environment(), "OWN=line"));  // what was said at the start still wins
    CHECK(status_of(sandbox, "web")["policy"] == "hash");

    // What cannot change is refused by its line, what is broken too, and nothing happens.
    write_config(path, web("user = \"nobody\"\n"));
    auto refused = sandbox.drover({"reload", "web"});
    CHECK(refused.status != 0);
    CHECK(contains(refused.err, "drover.toml:5: user cannot change"));
    write_config(path, web("policy = \"best\"\n"));
    CHECK(contains(sandbox.drover({"reload", "web"}).err, "drover.toml:5: policy"));
    CHECK(status_of(sandbox, "web")["generation"] == 2);

    // A later master knows the file, too: a take-over changes nothing, a reload reads it.
    write_config(path, web("env = { RELEASE = 2, OWN = \"file\" }\npolicy = \"hash\"\n"));
    first.send(SIGKILL);
    REQUIRE(first.wait() == 128 + SIGKILL);
    Child second = run_file(sandbox, {"--env", "OWN=line"});
    REQUIRE(wait_ready(sandbox, "web", 2));
    CHECK(status_of(sandbox, "web")["generation"] == 2);
    write_config(path, fmt::format("[web]\ncommand = [\"{}\"]\nworkers = 3\nport = 8080\n"
                                   "env = {{ RELEASE = 3 }}\npolicy = \"hash\"\n",
                                   hello_path()));
    second.send(SIGHUP);
    REQUIRE(wait_ready(sandbox, "web", 3));
    CHECK(contains(environment(), "RELEASE=3"));
    CHECK(contains(environment(), "OWN=line"));
    CHECK(sandbox.drover({"stop", "web"}).status == 0);
    CHECK(second.wait() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("an upgraded master still knows its file") {
    Sandbox sandbox;
    std::string path = sandbox.path("drover.toml");
    write_config(path, web("env = { RELEASE = 1 }\n"));
    Child master = run_file(sandbox, {});
    REQUIRE(wait_ready(sandbox, "web", 2));
    auto upgrade = sandbox.drover({"upgrade", "web"});
    INFO(upgrade.err);
    REQUIRE(upgrade.status == 0);
    write_config(path, web("env = { RELEASE = 2 }\n"));
    REQUIRE(sandbox.drover({"reload", "web"}).status == 0);
    CHECK(contains(environment(), "RELEASE=2"));
    CHECK(sandbox.drover({"stop", "web"}).status == 0);
    CHECK(master.wait() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("the man pages are clean and have every option") {
    auto mandoc = find_program("mandoc");
    if (!mandoc) return;
    Sandbox sandbox;
    for (const char* section : {"8", "5"}) {
        auto page = sandbox.drover({"man", section});
        REQUIRE(page.status == 0);
        std::string file = sandbox.path(std::string("page.") + section);
        write_file(file, page.out);
        auto lint = sandbox.run({.command = {*mandoc, "-T", "lint", "-W", "warning", file},
                                 .extra_environment = {},
                                 .identity = {},
                                 .cwd = {}});
        INFO(lint.out, lint.err);
        CHECK(lint.status == 0);
        auto shown = sandbox.run({.command = {*mandoc, "-T", "ascii", file},
                                  .extra_environment = {},
                                  .identity = {},
                                  .cwd = {}});
        CHECK(contains(shown.out, section[0] == '8' ? "--" : "drain_timeout = "));
    }
}

namespace {

// What bash offers for the words, of which the last one is being written.
std::string completed(Sandbox& sandbox, const Words& words) {
    std::string script = "source <(\"$0\" completion bash)\nCOMP_WORDS=(";
    for (const auto& word : words) script += fmt::format(" '{}'", word);
    script += fmt::format(
        " )\nCOMP_WORDS[0]=$0\nCOMP_CWORD={}\n_drover\n"
        "printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        words.size() - 1);
    auto outcome = sandbox.run({.command = {"bash", "--norc", "-c", script, drover_path()},
                                .extra_environment = {},
                                .identity = {},
                                .cwd = {}});
    CHECK(outcome.err == "");
    std::istringstream lines(outcome.out);
    std::string all;
    for (std::string line; std::getline(lines, line);)
        if (!line.empty()) all += line + " ";
    return all;
}

}  // namespace

TEST_CASE("bash completes verbs, options, values, files, and names of clusters and workers") {
    Sandbox sandbox;
    write_config(sandbox.path("drover.toml"), "");
    std::filesystem::create_directory(sandbox.path("some folder"));
    CHECK(completed(sandbox, {"drover", "sta"}) == "start status ");
    CHECK(completed(sandbox, {"drover", "run", "--drain"}) == "--drain-timeout ");
    CHECK(completed(sandbox, {"drover", "reload", "web", "--user"}) == "");  // it cannot change
    CHECK(completed(sandbox, {"drover", "reload", "--can"}) == "--canary ");
    CHECK(
        contains(completed(sandbox, {"drover", "run", "--policy", "l"}), "least-busy least-conn "));
    CHECK(completed(sandbox, {"drover", "run", "--restart", "=", "n"}) == "never ");
    CHECK(completed(sandbox, {"drover", "run", "--restart", "="}) == "always on-failure never ");
    CHECK(completed(sandbox, {"drover", "run", "--workers", ""}) == "");
    CHECK(completed(sandbox, {"drover", "run", "--config", "dro"}) == "drover.toml ");
    CHECK(completed(sandbox, {"drover", "run", "--cwd", "some"}) == "some folder ");
    CHECK(contains(completed(sandbox, {"drover", "run", "--", "ca"}), "cat "));
    CHECK(completed(sandbox, {"drover", "run", "--", "cat", "dro"}) == "drover.toml ");
    CHECK(completed(sandbox, {"drover", "config", ""}) == "check show ");
    CHECK(completed(sandbox, {"drover", "config", "check", "dro"}) == "drover.toml ");
    CHECK(completed(sandbox, {"drover", "completion", "b"}) == "bash ");
    CHECK(completed(sandbox, {"drover", "stop", ""}) == "");  // none runs
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(cluster.wait_ready(2));
    CHECK(completed(sandbox, {"drover", "stop", ""}) == "web web/1 web/2 ");
    CHECK(completed(sandbox, {"drover", "drain", "web/2"}) == "web/2 ");
    CHECK(completed(sandbox, {"drover", "scale", ""}) == "web ");
    CHECK(completed(sandbox, {"drover", "config", "show", "w"}) == "web ");
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

namespace {

// Types $1 and Tab into an interactive zsh, which puts all that it offers into the line, and prints
// that. $2: a folder with _drover, in which the first zsh leaves what it found out of zsh's own
// functions; $3: one with drover.
constexpr const char* kTypeIntoZsh = R"(
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PROMPT=; fpath=($2 \$fpath); path=($3 \$path); autoload -Uz compinit; compinit -d $2/dump -u
zstyle ':completion:*' completer _all_matches _complete; zstyle ':completion:*' insert yes
tell() { print -rn -- \"<<\$BUFFER>>\"; BUFFER= }; zle -N tell; bindkey '^X' tell
bindkey '^I' complete-word; print rea''dy"
zpty -r -m shell out '*ready*' || exit 1
zpty -w -n shell "$1"$'\t\C-x'
zpty -r -m shell out '*<<*>>*' || exit 1
out=${out##*<<}
print -rn -- "${out%%>>*}"
zpty -d shell
)";

std::string completed_by_zsh(Sandbox& sandbox, const std::string& zsh, const std::string& line) {
    write_file(sandbox.path("functions/_drover"), sandbox.drover({"completion", "zsh"}).out);
    auto outcome = sandbox.run({.command = {zsh, "-f", "-c", kTypeIntoZsh, zsh, line,
                                            sandbox.path("functions"), build_folder()},
                                .extra_environment = {"TERM=dumb"},
                                .identity = {},
                                .cwd = {}},
                               4 * kDeadline);
    INFO(line, ": ", outcome.out, outcome.err);
    CHECK(outcome.status == 0);
    return outcome.out;
}

}  // namespace

TEST_CASE("zsh completes verbs, options, values, files, and names of clusters and workers") {
    auto zsh = find_program("zsh");
    if (!zsh) return;
    Sandbox sandbox;
    write_config(sandbox.path("drover.toml"), "");
    std::filesystem::create_directory(sandbox.path("functions"));
    auto completed = [&](const std::string& line) { return completed_by_zsh(sandbox, *zsh, line); };
    CHECK(completed("drover sta") == "drover start status ");
    CHECK(completed("drover run --drain") == "drover run --drain-timeout ");
    CHECK(completed("drover run --policy l") == "drover run --policy least-busy least-conn ");
    CHECK(completed("drover run --config dro") == "drover run --config drover.toml ");
    CHECK(completed("drover config ") == "drover config check show ");
    Cluster cluster(sandbox, "web", {"-n", "2"}, hello());
    REQUIRE(cluster.wait_ready(2));
    CHECK(completed("drover stop ") == "drover stop web web/1 web/2 ");
    CHECK(completed("drover drain web/2") == "drover drain web/2 ");
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
