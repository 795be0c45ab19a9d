// SPDX-License-Identifier: MIT
//
// One table for all: whatever tells of options and verbs has each of them. README is written by
// hand, so it is what can fall behind.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "cli/completion.h"
#include "cli/man.h"
#include "cli/verbs.h"
#include "supervisor/config.h"

using namespace drover;
using namespace drover::cli;

namespace {

bool mentions(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

// README is above the folder that this is built in.
std::string readme() {
    auto folder = std::filesystem::read_symlink("/proc/self/exe").parent_path();
    while (folder != "/" && !std::filesystem::exists(folder / "README.md"))
        folder = folder.parent_path();
    std::stringstream content;
    content << std::ifstream(folder / "README.md").rdbuf();
    REQUIRE(!content.str().empty());
    return content.str();
}

// As roff writes it.
std::string in_man(std::string text) {
    for (size_t at = 0; (at = text.find('-', at)) != std::string::npos; at += 2)
        text.insert(at, "\\");
    return text;
}

// The rows of README's table under that heading: the first column of each.
std::string first_columns(const std::string& readme, const std::string& heading) {
    auto begin = readme.find("\n## " + heading);
    REQUIRE(begin != std::string::npos);
    std::istringstream lines(readme.substr(begin + 1));
    std::string columns, line;
    std::getline(lines, line);
    while (std::getline(lines, line) && !line.starts_with("## "))
        if (line.starts_with("| ")) columns += line.substr(0, line.find(" | ")) + "\n";
    return columns;
}

}  // namespace

TEST_SUITE_BEGIN("documents");

TEST_CASE("every option is in README, in the help, in both man pages and in the completions") {
    auto options = first_columns(readme(), "Options of run and start");
    auto help = help_text(*find_verb("run"), false);
    for (const auto& option : supervisor::option_table()) {
        CAPTURE(option.name);
        auto name = fmt::format("--{} {}", option.name, option.argument);
        CHECK(mentions(options, name));
        CHECK(mentions(help, name));
        CHECK(mentions(man_page_of_drover(), in_man(name)));
        for (const auto& script : {bash_completion(), zsh_completion()})
            CHECK(mentions(script, fmt::format("--{}", option.name)));
        if (option.name == "config") continue;
        CHECK(mentions(man_page_of_config_file(), "\n.B " + supervisor::key_of(option) + " = "));
    }
}

TEST_CASE("README has no option and no verb that is not there") {
    std::istringstream options(first_columns(readme(), "Options of run and start"));
    for (std::string line; std::getline(options, line);)
        for (size_t at = 0; (at = line.find("--", at)) != std::string::npos;) {
            at += 2;
            auto name = line.substr(at, line.find_first_of(" `", at) - at);
            CAPTURE(name);
            CHECK((name.starts_with("-") || supervisor::find_option(name) != nullptr));
        }
    std::istringstream rows(first_columns(readme(), "Verbs"));
    for (std::string line; std::getline(rows, line);)
        for (size_t at = 0; (at = line.find('`', at)) != std::string::npos;) {
            auto end = line.find('`', at + 1);
            auto words = line.substr(at + 1, end - at - 1);
            at = end + 1;
            auto first = words.find(' '), second = words.find(' ', first + 1);
            CAPTURE(words);
            CHECK((find_verb(words.substr(0, first)) != nullptr ||
                   find_verb(words.substr(0, second)) != nullptr));
        }
}

TEST_CASE("every verb is in README, in the help, in drover(8) and in the completions") {
    auto rows = first_columns(readme(), "Verbs");
    for (const auto& verb : verbs()) {
        CAPTURE(verb.name);
        CHECK((mentions(rows, fmt::format("`{}`", verb.name)) ||
               mentions(rows, fmt::format("`{} ", verb.name))));
        CHECK(mentions(help_text(false), fmt::format("  {}", verb.name)));
        CHECK(mentions(man_page_of_drover(), "\n.B " + in_man(std::string(verb.name))));
        for (const auto& script : {bash_completion(), zsh_completion()})
            CHECK(mentions(script, fmt::format("'{}')", verb.name)));
    }
}

TEST_CASE("what comes from a table is not taken for a request of roff") {
    for (const auto& page : {man_page_of_drover(), man_page_of_config_file()}) {
        std::istringstream lines(page);
        for (std::string line; std::getline(lines, line);) {
            CAPTURE(line);
            for (unsigned char c : line) CHECK(c < 0x80);
            if (!line.starts_with('.') && !line.starts_with('\'')) continue;
            bool is_known = false;
            for (const char* request :
                 {".TH ", ".SH ", ".TP", ".B ", ".BR ", ".I ", ".PP", ".nf", ".fi", ".RS 4", ".RE"})
                is_known = is_known || line.starts_with(request);
            CHECK(is_known);
        }
    }
}

TEST_SUITE_END();
