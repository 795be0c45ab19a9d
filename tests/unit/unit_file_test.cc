// SPDX-License-Identifier: MIT
#include "cli/unit_file.h"

#include <doctest/doctest.h>

#include "admin/service.h"

namespace drover::cli {

namespace {

bool has_line(const std::string& text, const std::string& line) {
    return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

UnitRequest web() {
    UnitRequest request;
    request.cluster = "web";
    request.program = "/usr/sbin/drover";
    request.command = {"/usr/bin/node", "server.js"};
    request.config.command = request.command;
    request.config.workers = 4;
    return request;
}

}  // namespace

TEST_SUITE_BEGIN("unit-file");

TEST_CASE("a word of a unit's command line means to systemd just what it says") {
    CHECK(unit_word("--port") == "--port");
    CHECK(unit_word("[::]:80") == "\"[::]:80\"");
    CHECK(unit_word("") == "\"\"");
    CHECK(unit_word("a b") == "\"a b\"");
    CHECK(unit_word("100%") == "\"100%%\"");
    CHECK(unit_word("$HOME") == "\"$$HOME\"");
    CHECK(unit_word("say \"hi\"") == R"("say \"hi\"")");
    CHECK(unit_word("back\\slash") == R"("back\\slash")");
    CHECK(unit_word("it's") == "\"it's\"");
    CHECK(unit_word(";") == "\";\"");
    CHECK(unit_word("two\nlines\t") == R"("two\x0alines\x09")");
    CHECK(unit_word("ä") == R"("\xc3\xa4")");
}

TEST_CASE("the unit runs the cluster with the options and the command that were given") {
    auto request = web();
    request.options = {{"workers", "4"}, {"env", "GREETING=good day"}};
    auto text = unit_text(request);
    CHECK(text.starts_with(kUnitMark));
    CHECK(has_line(text,
                   "ExecStart=/usr/sbin/drover run --name web --workers 4 "
                   "--env \"GREETING=good day\" -- /usr/bin/node server.js"));
    CHECK(has_line(text, "ExecReload=/usr/sbin/drover reload web"));
    CHECK(has_line(text, "ConditionFileIsExecutable=/usr/sbin/drover"));
    for (const char* line : {"Type=notify", "Delegate=yes", "KillMode=process", "Restart=always"})
        CHECK(has_line(text, line));
    CHECK(unit_name("web") == "drover-web.service");
}

TEST_CASE("without a command the options say where it is") {
    auto request = web();
    request.command.clear();
    request.options = {{"config", "/etc/web.toml"}};
    CHECK(has_line(unit_text(request),
                   "ExecStart=/usr/sbin/drover run --name web --config /etc/web.toml"));
}

TEST_CASE("systemd waits longer than the cluster itself does") {
    auto request = web();
    // Five starts of 30 s, with 10 s between them, and 15 s more; to stop, 10 s and 10 s.
    CHECK(has_line(unit_text(request), "TimeoutStartSec=215"));
    CHECK(has_line(unit_text(request), "TimeoutStopSec=35"));
    request.config.drain_timeout = std::chrono::milliseconds(60'500);
    request.config.workers = 100;
    CHECK(has_line(unit_text(request), "TimeoutStopSec=86"));
    // A reload takes the instances one by one.
    CHECK(has_line(unit_text(request), "TimeoutStartSec=10065"));
    request.config.nofile = 1'000'000;
    CHECK(has_line(unit_text(request), "LimitNOFILE=1024:1000000"));
}

TEST_CASE("what systemctl status shows of a cluster") {
    supervisor::Status status;
    status.state = "degraded";
    status.wanted = 4;
    status.ready = 3;
    CHECK(admin::status_text(status, false) == "3 of 4 ready; generation 1");
    status.groups = {{"tcp", "::", 80, false, {}, 0}, {"tcp", "127.0.0.1", 81, false, {}, 0}};
    status.generation = 2;
    CHECK(admin::status_text(status, true) ==
          "3 of 4 ready on [::]:80, 127.0.0.1:81; generation 2; reloading");
    status.state = "stopping";
    status.workers.resize(1);
    CHECK(admin::status_text(status, false) == "stopping; 1 worker is left");
}

TEST_SUITE_END();

}  // namespace drover::cli
