// SPDX-License-Identifier: MIT
//
// Under systemd: what the workers print goes to the journal, with fields. A systemd-journald of the
// test's own takes it, in a /run of the test's own.
#include <fmt/format.h>
#include <signal.h>
#include <sys/mount.h>

#include <filesystem>
#include <sstream>

#include "harness.h"

namespace drover::test {

namespace {

namespace fs = std::filesystem;

constexpr const char* kJournald = "/lib/systemd/systemd-journald";

class Journal {
  public:
    explicit Journal(Sandbox& sandbox) : sandbox_(sandbox) {
        REQUIRE(::mount("tmpfs", "/run", "tmpfs", 0, "mode=755") == 0);
        // It is not to take the machine's own messages.
        fs::create_directories("/run/systemd/journald.conf.d");
        write_file("/run/systemd/journald.conf.d/test.conf",
                   "[Journal]\nAudit=no\nReadKMsg=no\nStorage=volatile\n");
        daemon_ = sandbox.start(
            {.command = {kJournald}, .extra_environment = {}, .identity = {}, .cwd = {}});
        REQUIRE(eventually([] { return fs::exists("/run/systemd/journal/stdout"); }));
    }
    ~Journal() {
        daemon_ = Child();
        ::umount2("/run", MNT_DETACH);
    }
    Journal(const Journal&) = delete;
    Journal& operator=(const Journal&) = delete;

    // Starts the words as systemd does: standard output and error are the journal.
    Child start(const Words& words) {
        Words command = {
            "systemd-cat", "-t", "unit",
            "sh",          "-c", "export JOURNAL_STREAM=$(stat -L -c %d:%i /dev/fd/2); exec \"$@\"",
            "sh"};
        command.insert(command.end(), words.begin(), words.end());
        return sandbox_.start(
            {.command = command, .extra_environment = {}, .identity = {}, .cwd = {}});
    }

    // The entries that match, the oldest first.
    std::vector<Json> entries(const Words& matches) {
        Words command = {"journalctl", "-q", "-o", "json"};
        command.insert(command.end(), matches.begin(), matches.end());
        auto outcome =
            sandbox_.run({.command = command, .extra_environment = {}, .identity = {}, .cwd = {}});
        std::vector<Json> entries;
        std::istringstream lines(outcome.out);
        for (std::string line; std::getline(lines, line);)
            entries.push_back(Json::parse(line, nullptr, false));
        return entries;
    }

  private:
    Sandbox& sandbox_;
    Child daemon_;
};

}  // namespace

TEST_SUITE_BEGIN("logs");

TEST_CASE("under systemd lines go to the journal, with the cluster and the worker as fields") {
    if (!find_program("journalctl") || !find_program("systemd-cat")) return;
    Sandbox sandbox;
    Journal journal(sandbox);
    auto master = journal.start({build_folder() + "/drover", "run", "--name", "web", "-n", "2",
                                 "--ready", "exec", "--", "/bin/sh", "-c",
                                 "echo hello from $DROVER_INSTANCE; echo 'oops\033[2J' >&2; "
                                 "exec sleep 1000"});
    REQUIRE(eventually([&] { return journal.entries({"DROVER_CLUSTER=web"}).size() >= 6; }));

    auto out = journal.entries({"DROVER_CLUSTER=web", "DROVER_INSTANCE=1", "DROVER_STREAM=out"});
    REQUIRE(out.size() == 1);
    CHECK(out[0]["MESSAGE"] == "hello from 1");
    CHECK(out[0]["PRIORITY"] == "6");
    CHECK(out[0]["SYSLOG_IDENTIFIER"] == "web");
    CHECK(out[0]["DROVER_WORKER_ID"] == "2");
    auto err = journal.entries({"DROVER_WORKER_ID=1", "DROVER_STREAM=err"});
    REQUIRE(err.size() == 1);
    CHECK(err[0]["MESSAGE"] == "oops\\x1b[2J");
    CHECK(err[0]["PRIORITY"] == "4");
    auto own = journal.entries({"DROVER_CLUSTER=web", "DROVER_STREAM=drover", "PRIORITY=6"});
    REQUIRE(own.size() == 1);
    CHECK(own[0]["MESSAGE"] == "web: 2 workers are ready");
    CHECK(own[0].contains("DROVER_WORKER_ID") == false);
    // Nothing comes twice, and nothing is in a file besides.
    int hellos = 0, ready = 0;
    for (const Json& entry : journal.entries({})) {
        auto message = entry["MESSAGE"].is_string() ? entry["MESSAGE"].get<std::string>() : "";
        hellos += contains(message, "hello from");
        ready += contains(message, "workers are ready");
    }
    CHECK(hellos == 2);
    CHECK(ready == 1);
    CHECK_FALSE(fs::exists(sandbox.log_folder()));

    auto logs = [&](Words words) {
        words.insert(words.begin(), {"logs", "web"});
        return sandbox.drover(words).out;
    };
    CHECK(contains(logs({}), "Z [web/1] hello from 1\n"));
    CHECK(contains(logs({}), "Z [web/0] oops\\x1b[2J\n"));
    CHECK(contains(logs({}), "Z drover: web: 2 workers are ready\n"));
    CHECK(count_lines(logs({"-n", "2"})) == 2);
    CHECK(count_lines(logs({"-n", "1000"})) == count_lines(logs({"--since", "1h"})));
    CHECK(logs({"--since", "2100-01-01T00:00:00Z"}).empty());
    auto of_one = sandbox.drover({"logs", "web/2", "--json"}).out;
    CHECK(count_lines(of_one) == 2);
    CHECK(
        contains(of_one, R"("worker":{"id":2,"instance":1},"stream":"out","text":"hello from 1")"));

    Child follower =
        sandbox.start({.command = {build_folder() + "/drover", "logs", "-f", "-n", "9", "web/3"},
                       .extra_environment = {},
                       .identity = {},
                       .cwd = {}});
    CHECK(sandbox.drover({"restart", "web/1"}).status == 0);
    CHECK(eventually([&] { return contains(follower.out(), "[web/0] hello from 0\n"); }));

    // Also when the cluster is gone.
    CHECK(sandbox.drover({"stop", "web"}).status == 0);
    CHECK(master.wait() == 0);
    CHECK(contains(logs({}), "[web/1] hello from 1\n"));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("with a log file asked for, it is written besides the journal") {
    if (!find_program("journalctl") || !find_program("systemd-cat")) return;
    Sandbox sandbox;
    Journal journal(sandbox);
    auto file = sandbox.path("web.log");
    auto master = journal.start({build_folder() + "/drover", "run", "--name", "web", "-n", "1",
                                 "--ready", "exec", "--log-file", file, "--", "/bin/sh", "-c",
                                 "echo hello; exec sleep 1000"});
    CHECK(eventually([&] { return contains(read_file(file), " 0/1 out hello\n"); }));
    CHECK(eventually([&] { return journal.entries({"DROVER_WORKER_ID=1"}).size() == 1; }));
    CHECK(sandbox.drover({"stop", "web"}).status == 0);
    CHECK(master.wait() == 0);
}

}  // namespace drover::test
