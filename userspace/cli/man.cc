// SPDX-License-Identifier: MIT
//
// In the man(7) language. What comes from a table goes through roff(), so that nothing of it is
// taken for a request or an escape.
#include "cli/man.h"

#include <fmt/format.h>

#include "cli/cli.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "supervisor/config.h"

namespace drover::cli {

namespace {

constexpr std::string_view kDate = "2026-11-26";

std::string roff(std::string_view text) {
    std::string result;
    for (size_t i = 0; i < text.size(); ++i) {
        char c = text[i];
        bool begins_line = i == 0 || text[i - 1] == '\n';
        if (begins_line && (c == '.' || c == '\'')) result += "\\&";
        if (c == '\\') {
            result += "\\e";
        } else if (c == '-') {
            result += "\\-";
        } else if (text.substr(i).starts_with("…")) {
            result += "...";
            i += std::string_view("…").size() - 1;
        } else {
            result += c;
        }
    }
    return result;
}

std::string section(std::string_view title, const std::string& text) {
    return fmt::format(".SH {}\n{}", title, text);
}

// The tag is in a request's line, where a quote begins an argument.
std::string item(std::string_view tag, std::string_view text) {
    std::string bold;
    for (char c : roff(tag)) bold += c == '"' ? "\\(dq" : std::string(1, c);
    return fmt::format(".TP\n.B {}\n{}\n", bold, roff(text));
}

std::string example(std::string_view text) {
    return fmt::format(".nf\n.RS 4\n{}.RE\n.fi\n", roff(text));
}

std::string option_text(const supervisor::Option& option) {
    std::string text(option.help);
    if (!option.initial.empty()) text += fmt::format("; by default {}", option.initial);
    if (option.repeatable) text += "; repeatable";
    if (option.fixed.starts_with("use ")) {
        text += fmt::format(". While the cluster runs, {}", option.fixed);
    } else if (!option.fixed.empty()) {
        text += ". Fixed while the cluster runs";
    }
    return text + ".";
}

std::string options() {
    std::string text;
    for (const auto& option : supervisor::option_table()) {
        auto letter = option.letter == 0 ? std::string() : fmt::format("-{}, ", option.letter);
        text += item(fmt::format("{}--{} {}", letter, option.name, option.argument),
                     option_text(option));
    }
    return text;
}

std::string verb_list() {
    std::string text;
    for (const auto& verb : verbs()) {
        std::string help(verb.help);
        if (verb.json) help += "; --json: for programs";
        text += item(usage_of(verb).substr(std::string_view("drover ").size()), help + ".");
    }
    return text;
}

// What is written for the key.
std::string form_of(const supervisor::Option& option) {
    std::string form(option.argument);
    if (option.name == "env") return "{ NAME = \"VALUE\" } or [\"NAME=VALUE\"]";
    if (form != "N") form = fmt::format("\"{}\"", form);
    return option.repeatable ? fmt::format("[{}]", form) : form;
}

std::string keys() {
    auto text = item("command = [\"PROGRAM\", \"ARGUMENT\"]",
                     "what each worker runs: an array of words, which no shell takes apart.");
    for (const auto& option : supervisor::option_table()) {
        if (option.name == "config") continue;
        text += item(fmt::format("{} = {}", supervisor::key_of(option), form_of(option)),
                     option_text(option));
    }
    return text;
}

}  // namespace

std::string man_page_of_drover() {
    auto text = fmt::format(".TH DROVER 8 \"{}\" \"drover {}\" \"System Administration\"\n", kDate,
                            DROVER_VERSION);
    text += section("NAME", "drover \\- N copies of any server share its ports\n");
    text += section("SYNOPSIS",
                    ".B drover\n.I VERB\n[\\fIOPTIONS\\fR]\n[\\fICLUSTER\\fR[/\\fIID\\fR]]\n"
                    "[\\fIARGUMENT\\fR]\n");
    text += section(
        "DESCRIPTION",
        roff("A cluster is one master, which runs as root, and its workers: unmodified copies of "
             "any\nserver, which all listen on the same port. The kernel picks a worker for each "
             "new connection,\nby a BPF program that follows the workers' lives.\n") +
            ".PP\n" +
            roff("CLUSTER may be left out where just one runs. ID is a worker's, as in drover "
                 "status.\nAll verbs but help, config check and completion need root.\n"));
    text += section("VERBS", verb_list());
    text += section(
        "\"OPTIONS OF RUN AND START\"",
        options() + ".PP\n" +
            roff("Durations are written as 500ms, 10s, 5m or 24h, sizes as 512M or 2G. "
                 "reload takes the options\nthat are not fixed, and also:\n") +
            item("--parallel N", "replace so many at the same time; by default 1.") +
            item("--canary N|N%", "replace just so many instances, until promote or rollback."));
    text += section("\"EXIT STATUS\"", item("0", "done.") +
                                           item("1", "failed; the reason is on standard error.") +
                                           item("2", "bad usage, or a wrong configuration file."));
    text += section("FILES",
                    item("/run/drover/CLUSTER", "the control socket and the state of a cluster.") +
                        item("/var/log/drover/CLUSTER.log",
                             "what a cluster that was started with start prints.") +
                        item("/sys/fs/bpf/drover/CLUSTER", "its programs and maps."));
    text += section("ENVIRONMENT",
                    item("DROVER_RUN_DIR, DROVER_LOG_ROOT, DROVER_BPFFS, DROVER_CGROUP",
                         "other places for these, and for the cgroups; the same for the master and "
                         "the client."));
    text += section("EXAMPLES", example("drover run -n 4 -- node server.js\n"
                                        "drover start --config /etc/drover/web.toml\n"
                                        "drover reload web\n"));
    return text + section("\"SEE ALSO\"", ".BR drover.toml (5)\n");
}

std::string man_page_of_config_file() {
    auto text = fmt::format(".TH DROVER.TOML 5 \"{}\" \"drover {}\" \"File Formats\"\n", kDate,
                            DROVER_VERSION);
    text += section("NAME", "drover.toml \\- configuration of drover clusters\n");
    text += section("SYNOPSIS", ".B drover run \\-\\-config\n.I FILE\n[\\fICLUSTER\\fR]\n");
    text += section(
        "DESCRIPTION",
        roff("A TOML file. Its keys are the options of drover run with '_' for '-', and "
             "command.\nValues are written as on the command line; those that are numbers may be "
             "bare.\n") +
            ".PP\n" +
            roff(
                "A table is a cluster of that name. The keys above the first table are the "
                "defaults of all\nclusters; without a table they are those of the one cluster.\n") +
            ".PP\n" +
            roff("A table's key replaces the default, and an option on the command line replaces "
                 "the file's;\nbut env and env_file add up, and of a variable with several values "
                 "the last one counts.\n") +
            ".PP\n" +
            roff(
                "Relative paths begin in the file's folder, which is also the working directory of "
                "the workers\nwhere there is no cwd. A file that others than its owner can write "
                "is refused to root.\n") +
            ".PP\n" +
            roff("drover reload reads the file anew. drover config check says what is wrong with a "
                 "file,\ndrover config show prints the configuration that a cluster has.\n"));
    text += section("KEYS", keys());
    text += section("EXAMPLES", example("workers = 4\n"
                                        "\n"
                                        "[web]\n"
                                        "command = [\"node\", \"server.js\"]\n"
                                        "port = 80\n"
                                        "user = \"www-data\"\n"
                                        "env = { RELEASE = \"7\" }\n"
                                        "\n"
                                        "[api]\n"
                                        "command = [\"/srv/api/server\"]\n"
                                        "port = [\"127.0.0.1:9000\"]\n"
                                        "drain_timeout = \"30s\"\n"));
    return text + section("\"SEE ALSO\"", ".BR drover (8)\n");
}

int print_man_page(const std::string& section) {
    if (section != "8" && section != "5") return kUsage;
    put(section == "8" ? man_page_of_drover() : man_page_of_config_file());
    return kDone;
}

}  // namespace drover::cli
