// SPDX-License-Identifier: MIT
//
// README's tour, as it stands there: its app.js is written, and each of its commands is run in
// turn. Each has to succeed, and what it prints has to be what README shows, but for numbers and
// the width of columns. `drover run` goes on meanwhile, as in a shell of its own; on a slow machine
// its workers have longer until they must be ready.
#include <fmt/format.h>
#include <sys/stat.h>

#include <filesystem>
#include <regex>
#include <sstream>

#include "harness.h"
#include "node_programs.h"

namespace drover::test {

namespace {

constexpr seconds kLongest{60};
constexpr std::string_view kIndent = "    ";

struct Step {
    std::string command;
    Words shown;  // lines that it prints
};
struct Tour {
    std::string app;
    std::vector<Step> steps;
};

// The lines of the section; blank ones within a step are left out, as in what it prints.
Words section(const std::string& text, const std::string& heading) {
    Words lines;
    bool inside = false;
    std::istringstream all(text);
    for (std::string line; std::getline(all, line);) {
        if (line.starts_with("## ")) inside = line == "## " + heading;
        if (inside && !line.empty()) lines.push_back(line);
    }
    return lines;
}

// What is indented is the program's text up to the first "$ COMMAND", then commands, each with what
// it prints.
Tour read_tour(const Words& lines) {
    Tour tour;
    for (const auto& line : lines) {
        if (!line.starts_with(kIndent)) continue;
        std::string text = line.substr(kIndent.size());
        if (text.starts_with("$ ")) {
            tour.steps.push_back({text.substr(2), {}});
        } else if (tour.steps.empty()) {
            tour.app += text + "\n";
        } else {
            tour.steps.back().shown.push_back(text);
        }
    }
    return tour;
}

// "3.6s" stands for any time, "56M" for any size, "9799" for any number; a gap is as wide as it is.
bool is_like(const std::string& line, const std::string& shown) {
    static const std::regex kSpecial(R"([.^$|()\[\]{}*+?\\])");
    static const std::regex kMeasure(R"(\b\d+(\\\.\d+)?(ms|[smhKMG])\b)");
    static const std::regex kNumber(R"(\d+)");
    static const std::regex kGap(" +");
    std::string pattern = std::regex_replace(shown, kSpecial, R"(\$&)");
    pattern = std::regex_replace(pattern, kMeasure, "@");
    pattern = std::regex_replace(pattern, kNumber, R"(\d+)");
    pattern = std::regex_replace(pattern, std::regex("@"), R"((?:\d+(?:\.\d+)?[a-zA-Z]+)+)");
    pattern = std::regex_replace(pattern, kGap, " +");
    return std::regex_match(line, std::regex(" *" + pattern + " *"));
}

Words lines_of(const std::string& text) {
    Words lines;
    std::istringstream all(text);
    for (std::string line; std::getline(all, line);)
        if (!line.empty()) lines.push_back(line);
    return lines;
}

std::string joined(const Words& lines) {
    std::string text;
    for (const auto& line : lines) text += line + "\n";
    return text;
}

std::string for_this_machine(const std::string& command) {
    static const std::regex kRun(R"(\bdrover run )");
    if (slowness() == 1) return command;
    return std::regex_replace(command, kRun, "$&--ready-timeout " + patient(30'000) + " ");
}

bool prints_each(const std::string& text, const Words& shown) {
    auto lines = lines_of(text);
    return std::ranges::all_of(shown, [&](const std::string& one) {
        return std::ranges::any_of(lines, [&](const auto& line) { return is_like(line, one); });
    });
}

// A folder like a clone's with app.js in it, where `node` and `sudo` are what the tests have.
struct Clone {
    Sandbox sandbox;
    std::string folder = sandbox.path("clone");

    Clone(const std::string& node, const std::string& app) {
        namespace fs = std::filesystem;
        fs::create_directories(folder + "/bin");
        fs::create_symlink(fs::absolute(build_folder()), folder + "/build");
        fs::create_symlink(fs::absolute(modules()), folder + "/node_modules");
        fs::create_symlink(fs::absolute(node), folder + "/bin/node");
        write_file(folder + "/bin/sudo", "#!/bin/sh\nexec \"$@\"\n");
        fs::permissions(folder + "/bin/sudo", fs::perms(0755));
        write_file(folder + "/app.js", app);
    }
    [[nodiscard]] Start start(const std::string& command) const {
        return {.command = {"/bin/bash", "-o", "pipefail", "-c", command},
                .extra_environment = {"PATH=" + folder + "/bin:" + std::getenv("PATH")},
                .identity = {},
                .cwd = folder};
    }
    // Where logs are kept by default.
    [[nodiscard]] std::string as_installed(const std::string& text) const {
        return std::regex_replace(text, std::regex(sandbox.log_folder()), "/var/log/drover");
    }
};

void take_step(Clone& clone, const Step& step) {
    auto outcome = clone.sandbox.run(clone.start(step.command), kLongest);
    auto printed = lines_of(clone.as_installed(outcome.out));
    INFO("$ ", step.command, "\n", joined(printed), outcome.err, "README has:\n",
         joined(step.shown));
    CHECK(outcome.status == 0);
    CHECK(outcome.err == "");
    REQUIRE(printed.size() == step.shown.size());
    for (size_t i = 0; i < printed.size(); i++) CHECK(is_like(printed[i], step.shown[i]));
}

}  // namespace

TEST_SUITE_BEGIN("tour");

TEST_CASE("a line is like another when only numbers and gaps differ") {
    CHECK(is_like("4   3     25475  ready  850ms   0  316ms  63M",
                  "4   3     9802  ready  3.6s    0     137ms  56M"));
    CHECK(is_like("port  tcp [::]:3000, active 0 1", "port  tcp [::]:3000, active 0 1"));
    CHECK_FALSE(is_like("stopped app", "stoped app"));
    CHECK_FALSE(is_like("app has 6 workers now", "app has 6 workers"));
    CHECK_FALSE(is_like("app has six workers", "app has 6 workers"));
}

TEST_CASE("README's tour works line by line, and prints what README shows") {
    auto node = find_node<Node18>();
    if (!node) return;
    Tour tour = read_tour(section(read_file("README.md"), "A tour"));
    REQUIRE(tour.steps.size() > 10);
    REQUIRE(contains(tour.app, "require('express')"));
    Clone clone(*node, tour.app);
    std::optional<Child> cluster;
    for (const Step& step : tour.steps) {
        if (!contains(step.command, "drover run ")) {
            INFO("drover run has printed:\n", cluster ? cluster->out() + cluster->err() : "");
            take_step(clone, step);
            continue;
        }
        REQUIRE_FALSE(cluster);
        cluster = clone.sandbox.start(clone.start(for_this_machine(step.command)));
        bool begun = eventually(
            [&] { return prints_each(cluster->out() + cluster->err(), step.shown); }, kLongest);
        INFO("$ ", step.command, "\n", cluster->out(), cluster->err());
        REQUIRE(begun);
    }
    REQUIRE(cluster);
    CHECK(cluster->wait() == 0);
    CHECK(clone.sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
