// SPDX-License-Identifier: MIT
//
// Options: the table, the values' parsers, the name of a cluster, "did you mean".
#include <doctest/doctest.h>

#include <csignal>
#include <map>

#include "base/nearest.h"
#include "supervisor/config.h"

using namespace drover;
using namespace drover::supervisor;
using namespace std::chrono_literals;

namespace {

// A good value of every option, other than its default.
const std::map<std::string_view, std::string> kGoodValues = {
    {"config", "/etc/web.toml"},
    {"name", "web"},
    {"workers", "4"},
    {"port", "80"},
    {"policy", "hash"},
    {"source-prefix", "24/56"},
    {"slow-start", "30s"},
    {"stall-after", "2s"},
    {"stall-kill", "1m"},
    {"user", "nobody"},
    {"group", "nogroup"},
    {"cwd", "/srv"},
    {"env", "A=1"},
    {"env-file", "/etc/web.env"},
    {"umask", "027"},
    {"nofile", "65536"},
    {"backlog", "511"},
    {"ready", "exec"},
    {"ready-timeout", "5s"},
    {"restart", "never"},
    {"max-restarts", "3/1m"},
    {"drain-timeout", "1m"},
    {"stop-signal", "QUIT"},
    {"stop-timeout", "2s"},
    {"ipc", "node"},
    {"listen", "tcp://127.0.0.1:80"},
    {"watchdog", "20s"},
    {"controller", "./scale"},
    {"admin", "9090"},
    {"max-lifetime", "24h"},
    {"max-memory", "512M"},
    {"max-connections", "100000"},
    {"log-file", "/var/log/web.log"},
    {"log-size", "64K"},
    {"log-keep", "3"},
    {"log-rate", "50/10s"},
    {"health", "http:/health"},
    {"health-interval", "2s"},
    {"health-failures", "2"},
    {"agent", "10.0.0.1:9000"},
    {"stop-delay", "3s"},
};

std::string error_of(std::string_view option, const std::string& value) {
    Config config;
    auto set = set_option(config, option, value);
    return set ? "" : set.error().text;
}

bool mentions(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("every option of the table can be set and changes the configuration") {
    for (const auto& option : option_table()) {
        CAPTURE(option.name);
        REQUIRE(kGoodValues.contains(option.name));
        Config config;
        auto set = set_option(config, option.name, kGoodValues.at(option.name));
        CHECK(set.has_value());
        CHECK(config != Config{});
    }
    CHECK(option_table().size() == kGoodValues.size());
}

TEST_CASE("the default that the table shows is the one that Config has") {
    for (const auto& option : option_table()) {
        if (option.initial.empty()) continue;
        CAPTURE(option.name);
        Config config;
        // From another value, so that a setter that does nothing is noticed.
        REQUIRE(set_option(config, option.name, kGoodValues.at(option.name)).has_value());
        REQUIRE(set_option(config, option.name, std::string(option.initial)).has_value());
        CHECK(config == Config{});
    }
}

TEST_CASE("health checks and the agent: what they take, and what not") {
    Config config;
    REQUIRE(set_option(config, "health", "tcp").has_value());
    CHECK(config.health == HealthCheck::tcp);
    CHECK(config.health_path.empty());
    REQUIRE(set_option(config, "health", "http:/a?b").has_value());
    CHECK(config.health_path == "/a?b");
    for (const char* bad : {"", "http", "http:", "http:a", "http:/a b", "https:/a", "listening"})
        CHECK(mentions(error_of("health", bad), "--health"));
    CHECK(mentions(error_of("health-interval", "50ms"), "less than 100 ms"));
    CHECK(mentions(error_of("health-failures", "0"), "1 to 1000"));
    REQUIRE(set_option(config, "agent", "9000").has_value());
    CHECK(config.agent == Port{9000, "127.0.0.1"});
    CHECK(stop_delay_of(config) == 5s);
    REQUIRE(set_option(config, "stop-delay", "0s").has_value());
    CHECK(stop_delay_of(config) == 0s);
    CHECK(stop_delay_of(Config{}) == 0s);
    config.command = {"server"};
    config.policy = Policy::shared;
    config.listen = {{80, "::"}};
    CHECK(mentions(complete(config).error().text, "--health"));
}

TEST_CASE("a size or a file of nothing is refused") {
    CHECK(mentions(error_of("max-memory", "0"), "must not be 0"));
    CHECK(mentions(error_of("config", ""), "empty"));
}

TEST_CASE("repeatable options add up, the others replace") {
    Config config;
    for (const char* port : {"80", "443"}) REQUIRE(set_option(config, "port", port).has_value());
    for (const char* policy : {"hash", "round-robin"})
        REQUIRE(set_option(config, "policy", policy).has_value());
    CHECK(config.ports == std::vector<Port>{{80, ""}, {443, ""}});
    CHECK(config.policy == Policy::round_robin);
}

TEST_CASE("an option's error names the option, the value and what is allowed") {
    auto text = error_of("policy", "hsah");
    CHECK(mentions(text, "--policy"));
    CHECK(mentions(text, "hsah"));
    CHECK(mentions(text, "least-busy, least-conn, round-robin, hash, source or shared"));
    CHECK(mentions(error_of("polcy", "hash"), "--polcy"));
}

TEST_CASE("a policy with a slash or .o at its end is an object file, shown by its name") {
    for (const char* path : {"my.bpf.o", "/srv/my.bpf.o", "./my", "policies/my.o"}) {
        CAPTURE(path);
        CHECK(parse_policy(path) == PolicyChoice(Policy::custom, path));
    }
    CHECK(name_of(*parse_policy("/srv/my.bpf.o")) == "my.bpf.o");
    CHECK(mentions(error_of("policy", "my.bpf"), "FILE.o"));
}

TEST_CASE("the policy is least-busy where none is named, and each other one has its name") {
    CHECK(Config{}.policy == Policy::least_busy);
    const std::map<std::string, Policy> policies = {
        {"least-busy", Policy::least_busy},   {"least-conn", Policy::least_conn},
        {"round-robin", Policy::round_robin}, {"hash", Policy::hash},
        {"source", Policy::source},           {"shared", Policy::shared}};
    for (const auto& [name, policy] : policies) {
        CAPTURE(name);
        CHECK(parse_policy(name) == policy);
        CHECK(name_of(policy) == name);
    }
}

TEST_CASE("source-prefix: bits of an IPv4 address, and after a slash of an IPv6 one") {
    auto prefix_of = [](const std::string& text) {
        Config config;
        config.source_prefix = {1, 1};  // what is left out gets its default, not what there was
        REQUIRE(set_option(config, "source-prefix", text).has_value());
        return config.source_prefix;
    };
    CHECK(Config{}.source_prefix == SourcePrefix{32, 64});
    CHECK(prefix_of("24") == SourcePrefix{24, 64});
    CHECK(prefix_of("24/56") == SourcePrefix{24, 56});
    CHECK(prefix_of("0/0") == SourcePrefix{0, 0});
    CHECK(prefix_of("32/128") == SourcePrefix{32, 128});
    for (const char* value : {"", "33", "-1", "24/129", "24/", "/56", "24/56/8", "24 ", "x"}) {
        CAPTURE(value);
        CHECK(mentions(error_of("source-prefix", value), "--source-prefix"));
    }
}

TEST_CASE("slow-start: none where it is not named") {
    CHECK(Config{}.slow_start == 0ms);
    Config config;
    REQUIRE(set_option(config, "slow-start", "1500ms").has_value());
    CHECK(config.slow_start == 1500ms);
    REQUIRE(set_option(config, "slow-start", "0s").has_value());
    CHECK(config.slow_start == 0ms);
    CHECK(mentions(error_of("slow-start", "soon"), "--slow-start"));
}

TEST_CASE("stall-after and stall-kill: a time, or never") {
    Config config;
    CHECK(config.stall_after == 500ms);
    CHECK(config.stall_kill == 0ms);
    for (const char* option : {"stall-after", "stall-kill"}) {
        CAPTURE(option);
        REQUIRE(set_option(config, option, "750ms").has_value());
        CHECK(mentions(error_of(option, "0s"), "or never"));
        CHECK(mentions(error_of(option, "seldom"), "or never"));
    }
    CHECK(config.stall_after == 750ms);
    CHECK(config.stall_kill == 750ms);
    for (const char* option : {"stall-after", "stall-kill"})
        REQUIRE(set_option(config, option, "never").has_value());
    CHECK(config.stall_after == 0ms);
    CHECK(config.stall_kill == 0ms);
}

TEST_CASE("values outside of an option's range are refused") {
    for (const char* value : {"0", "257", "-1", "four", "", "4x"}) {
        CAPTURE(value);
        CHECK(mentions(error_of("workers", value), "1 to 256, or auto"));
    }
    for (const char* value : {"1", "256", "auto"}) CHECK(error_of("workers", value).empty());
    for (const char* value : {"8", "1000", "0x1", ""}) CHECK(!error_of("umask", value).empty());
    for (const char* value : {"0", "777", "0022"}) CHECK(error_of("umask", value).empty());
    for (const char* value : {"0", "-1", "many"}) CHECK(!error_of("nofile", value).empty());
    for (const char* option : {"user", "group", "cwd", "env-file"})
        CHECK(!error_of(option, "").empty());
    CHECK(!error_of("ready-timeout", "0s").empty());
    CHECK(error_of("drain-timeout", "0s").empty());
    CHECK(!error_of("restart", "sometimes").empty());
    CHECK(!error_of("ready", "soon").empty());
}

TEST_CASE("the umask is read as octal") {
    Config config;
    REQUIRE(set_option(config, "umask", "027").has_value());
    CHECK(config.umask == 027);
}

TEST_CASE("durations") {
    CHECK(parse_duration("500ms") == 500ms);
    CHECK(parse_duration("10s") == 10s);
    CHECK(parse_duration("5m") == 5min);
    CHECK(parse_duration("24h") == 24h);
    CHECK(parse_duration("0") == 0ms);
    CHECK(parse_duration("0s") == 0ms);
    CHECK(parse_duration("8760h") == 8760h);
    for (const char* bad : {"", "s", "10", "-1s", "1.5s", "10 s", "10S", "8761h", "1d",
                            "99999999999999999999s", "18446744073709551615h"}) {
        CAPTURE(bad);
        CHECK(!parse_duration(bad).has_value());
    }
    CHECK(mentions(parse_duration("10").error().text, "no unit"));
}

TEST_CASE("sizes") {
    CHECK(parse_size("512") == 512);
    CHECK(parse_size("10K") == 10240);
    CHECK(parse_size("10k") == 10240);
    CHECK(parse_size("512M") == 536870912);
    CHECK(parse_size("2G") == 2147483648);
    CHECK(parse_size("18446744073709551615") == UINT64_MAX);
    for (const char* bad : {"", "K", "1KB", "-1", "1.5G", "18446744073709551616", "16777216T"}) {
        CAPTURE(bad);
        CHECK(!parse_size(bad).has_value());
    }
}

TEST_CASE("signals") {
    CHECK(parse_signal("TERM") == SIGTERM);
    CHECK(parse_signal("SIGTERM") == SIGTERM);
    CHECK(parse_signal("hup") == SIGHUP);
    CHECK(parse_signal("15") == SIGTERM);
    CHECK(parse_signal("1") == SIGHUP);
    CHECK(parse_signal("64") == SIGRTMAX);
    CHECK(parse_signal("RTMIN+3") == SIGRTMIN + 3);
    for (const char* bad : {"", "SIG", "0", "65", "-9", "FOO", "TERMINATE"}) {
        CAPTURE(bad);
        CHECK(!parse_signal(bad).has_value());
    }
    CHECK(signal_name(SIGKILL) == "KILL");
    for (int number = 1; number <= SIGRTMAX; ++number)
        CHECK(parse_signal(signal_name(number)) == number);
}

TEST_CASE("ports") {
    CHECK(parse_port("80") == Port{80, ""});
    CHECK(parse_port("1") == Port{1, ""});
    CHECK(parse_port("65535") == Port{65535, ""});
    CHECK(parse_port("127.0.0.1:80") == Port{80, "127.0.0.1"});
    CHECK(parse_port("[::]:80") == Port{80, "::"});
    CHECK(parse_port("[0:0::1]:8080") == Port{8080, "::1"});
    for (const char* bad :
         {"", "0", "65536", "-1", "http", ":80", "127.0.0.1:", "127.0.0.1", "127.0.0.1:0", "::1:80",
          "[::1]", "[::1]80", "[127.0.0.1]:80", "localhost:80", "1.2.3:80", "[]:80"}) {
        CAPTURE(bad);
        CHECK(!parse_port(bad).has_value());
    }
    CHECK(mentions(parse_port("::1:80").error().text, "brackets"));
}

TEST_CASE("restart limits") {
    CHECK(parse_restart_limit("5/60s") == RestartLimit{5, 60s});
    CHECK(parse_restart_limit("1/500ms") == RestartLimit{1, 500ms});
    for (const char* bad : {"", "5", "/60s", "5/", "0/60s", "5/0s", "5/60", "-5/60s", "5/60s/1"}) {
        CAPTURE(bad);
        CHECK(!parse_restart_limit(bad).has_value());
    }
}

TEST_CASE("policies have the names that they are read by") {
    for (auto policy : {Policy::hash, Policy::round_robin, Policy::least_conn, Policy::shared})
        CHECK(parse_policy(name_of(policy)) == policy);
    CHECK(!parse_policy("least_conn").has_value());
}

TEST_CASE("ready: words, or the path that an HTTP request asks for") {
    Config config;
    CHECK(set_option(config, "ready", "http:/health?full=1").has_value());
    CHECK(config.ready == Ready::http);
    CHECK(config.ready_path == "/health?full=1");
    CHECK(set_option(config, "ready", "tcp").has_value());
    CHECK(config.ready == Ready::tcp);
    CHECK(config.ready_path.empty());
    for (const char* bad :
         {"http", "http:", "http:health", "http:/a b", "http:/\n", "http:/\x7f", "udp"}) {
        CAPTURE(bad);
        auto refused = set_option(config, "ready", bad);
        REQUIRE_FALSE(refused.has_value());
        CHECK(mentions(refused.error().text, "http:/"));
    }
}

TEST_CASE("the policy shared is for sockets that drover makes") {
    auto completes = [](const std::vector<std::pair<const char*, const char*>>& options) {
        Config config;
        config.command = {"server"};
        for (const auto& [name, value] : options)
            REQUIRE(set_option(config, name, value).has_value());
        auto completed = complete(config);
        return completed ? "" : completed.error().text;
    };
    CHECK(completes({{"policy", "shared"}, {"listen", "tcp://0.0.0.0:80"}}).empty());
    CHECK(completes({{"policy", "shared"}}).empty());  // it may be a Node program
    CHECK(mentions(completes({{"policy", "shared"}, {"ipc", "pipe"}}), "--listen"));
    CHECK(mentions(completes({{"policy", "shared"}, {"ready", "http:/"}}), "--ready"));
}

TEST_CASE("the admin port is this machine's alone unless an address is named") {
    auto parsed = [](const std::string& text) {
        Config config;
        if (!set_option(config, "admin", text)) return Port{};
        return *config.admin;
    };
    CHECK(parsed("9090") == Port{9090, "127.0.0.1"});
    CHECK(parsed(":9090") == Port{9090, "127.0.0.1"});
    CHECK(parsed("0.0.0.0:9090") == Port{9090, "0.0.0.0"});
    CHECK(parsed("[0:0::1]:9090") == Port{9090, "::1"});
    CHECK(parsed("[::]:9090") == Port{9090, "::"});
    for (const char* wrong : {"", ":", "0", "65536", "::1:9090", ":::9090", ":[::1]:9090",
                              "localhost:9090", "9090:", "http://127.0.0.1:9090"}) {
        CAPTURE(wrong);
        CHECK(mentions(error_of("admin", wrong), "--admin: "));
    }
    CHECK_FALSE(find_option("admin")->fixed.empty());
}

TEST_CASE("the admin port is none that the workers share") {
    for (const char* option : {"port", "listen"}) {
        Config config;
        config.command = {"server"};
        REQUIRE(set_option(config, "admin", "9090"));
        bool is_port = std::string_view(option) == "port";
        REQUIRE(set_option(config, option, is_port ? "9090" : "tcp://0.0.0.0:9090"));
        auto completed = complete(config);
        REQUIRE_FALSE(completed);
        CHECK(mentions(completed.error().text, "9090"));
        config.admin->number = 9091;
        CHECK(complete(config));
    }
}

TEST_CASE("an environment file: comments, quotes, empty lines") {
    auto variables = parse_env_file(
        "# the database\n"
        "\n"
        "DB=postgres://a:b@c/d#e\n"
        "  export PATH=/bin  \r\n"
        "EMPTY=\n"
        "SINGLE='a \\n \"b\"'  # said so\n"
        "DOUBLE=\"a \\\"b\\\" \\$c\\n\\d\"\n"
        "   # indented\n"
        "LAST=x=y");
    REQUIRE(variables.has_value());
    CHECK(*variables == std::vector<std::string>{"DB=postgres://a:b@c/d#e", "PATH=/bin",
                                                 "EMPTY=", "SINGLE=a \\n \"b\"",
                                                 "DOUBLE=a \"b\" $c\n\\d", "LAST=x=y"});
    CHECK(parse_env_file("")->empty());
    CHECK(parse_env_file("\n\n#")->empty());
}

TEST_CASE("an environment file's error names the line") {
    CHECK(mentions(parse_env_file("A=1\n\nB 2\n").error().text, "line 3"));
    CHECK(mentions(parse_env_file("A=\"1\n").error().text, "line 1: the quote is not closed"));
    CHECK(!parse_env_file("A='1' 2").has_value());
    CHECK(!parse_env_file("=1").has_value());
    CHECK(!parse_env_file("A B=1").has_value());
    CHECK(!parse_env_file(std::string_view("A=1\0", 4)).has_value());
    CHECK(!parse_env_file("A=\"\\").has_value());
}

TEST_CASE("names of clusters") {
    for (const char* good : {"a", "web", "web-2_x", "abcdefghijklmnopqrstuvwxyz012345"})
        CHECK(check_name(good).has_value());
    for (const char* bad : {"", "Web", "2web", "-web", "_web", "web.1", "web/1", "..", "web ",
                            "abcdefghijklmnopqrstuvwxyz0123456", "ports"}) {
        CAPTURE(bad);
        CHECK(!check_name(bad).has_value());
    }
}

TEST_CASE("a command has the name that a person would give it") {
    struct {
        std::vector<std::string> command;
        const char* name;
    } const cases[] = {
        {{"node", "server.js"}, "server"},
        {{"/usr/bin/node", "--inspect", "-r", "dotenv/config", "./src/Api Server.mjs", "8080"},
         "api-server"},
        {{"node", "-e", "require('http')"}, "node"},
        {{"node", "."}, "node"},
        {{"node", "/srv/web/"}, "web"},
        {{"python3", "-m", "http.server", "8000"}, "http-server"},
        {{"python3.11", "-u", "app.py"}, "app"},
        {{"python3", "-c", "import x"}, "python3"},
        {{"ruby", "-I", "lib", "web.rb"}, "web"},
        {{"perl", "daemon.pl"}, "daemon"},
        {{"php", "-S", "0.0.0.0:80", "router.php"}, "router"},
        {{"php", "-S", "0.0.0.0:80"}, "php"},
        {{"bash", "-c", "exec foo"}, "bash"},
        {{"sh", "run.sh"}, "run"},
        {{"deno", "run", "--allow-net", "main.ts"}, "main"},
        {{"bun", "run", "index.ts"}, "index"},
        {{"java", "-Xmx1g", "-jar", "/opt/shop.jar"}, "shop"},
        {{"nginx", "-g", "daemon off;"}, "nginx"},
        {{"/usr/bin/foo.bin"}, "foo"},
        {{"env", "A=1", "node", "server.js"}, "server"},
        {{"/opt/7Zip_Server!!x"}, "zip_server-x"},
        {{"abcdefghijklmnopqrstuvwxyz0123456789"}, "abcdefghijklmnopqrstuvwxyz012345"},
        {{"ports"}, "ports-1"},
        {{"\xc3\xa9"}, "cluster"},
        {{"123"}, "cluster"},
        {{""}, "cluster"},
        {{"env"}, "cluster"},
        {{}, "cluster"},
    };
    for (const auto& [command, name] : cases) {
        auto derived = name_from_command(command);
        CHECK(derived == name);
        CHECK(check_name(derived).has_value());
    }
}

TEST_CASE("complete() derives the name and refuses what does not fit together") {
    Config config;
    CHECK(complete(config).error().code == "usage");
    config.command = {"node", "server.js"};
    REQUIRE(complete(config).has_value());
    CHECK(complete(config)->name == "server");
    config.name = "web";
    CHECK(complete(config)->name == "web");
    CHECK(*complete(*complete(config)) == *complete(config));
    config.ports = {{80, ""}, {80, "::1"}};
    CHECK(complete(config).has_value());
    config.ports.push_back({80, ""});
    CHECK(mentions(complete(config).error().text, "--port 80 is given twice"));
}

TEST_CASE("a cpu.max quota is rounded up") {
    CHECK(cpus_of_quota("max 100000") == std::nullopt);
    CHECK(cpus_of_quota("") == std::nullopt);
    CHECK(cpus_of_quota("0 100000") == std::nullopt);
    CHECK(cpus_of_quota("100000 100000") == 1);
    CHECK(cpus_of_quota("100001 100000") == 2);
    CHECK(cpus_of_quota("150000 100000\n") == 2);
    CHECK(cpus_of_quota("1000 100000") == 1);
    CHECK(usable_cpus() >= 1);
}

TEST_CASE("the nearest word is the one that was meant") {
    CHECK(edit_distance("", "abc") == 3);
    CHECK(edit_distance("same", "same") == 0);
    CHECK(edit_distance("stpo", "stop") == 1);
    CHECK(edit_distance("polcy", "policy") == 1);
    CHECK(nearest("polcy", {"port", "policy", "name"}) == "policy");
    CHECK(nearest("stauts", {"start", "status", "stop"}) == "status");
    CHECK(nearest("frobnicate", {"start", "status"}) == std::nullopt);
    CHECK(nearest("xy", {"ls"}) == std::nullopt);
    CHECK(nearest("", {"a"}) == std::nullopt);
    CHECK(nearest("a", {}) == std::nullopt);
    CHECK(nearest("cat", {"bat", "rat"}) == "bat");
    CHECK(nearest(std::string(1000, 'a'), {"a"}) == std::nullopt);
    CHECK(did_you_mean("polcy", {"policy"}, "--") == ": did you mean --policy?");
    CHECK(did_you_mean("xyzzy", {"policy"}).empty());
}

TEST_CASE("--listen takes tcp:// with an address and a port, and nothing else") {
    Config config;
    REQUIRE(set_option(config, "listen", "tcp://0.0.0.0:8080").has_value());
    REQUIRE(set_option(config, "listen", "tcp://[::]:443").has_value());
    REQUIRE(config.listen.size() == 2);
    CHECK(config.listen[0] == Port{8080, "0.0.0.0"});
    CHECK(config.listen[1] == Port{443, "::"});
    for (const char* bad : {"8080", "tcp://8080", "tcp://:8080", "udp://0.0.0.0:80", "tcp://", ""})
        CHECK(mentions(error_of("listen", bad), "tcp://0.0.0.0:8080"));
}
