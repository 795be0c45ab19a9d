// SPDX-License-Identifier: MIT
#include "cli/verbs.h"

#include <fmt/format.h>

#include <algorithm>

#include "supervisor/config.h"

namespace drover::cli {

namespace {

std::string heading(std::string_view text, bool color) {
    return color ? fmt::format("\033[1m{}\033[0m\n", text) : fmt::format("{}\n", text);
}

// "-n, --workers N"
std::string left_column(const supervisor::Option& option) {
    auto letter = option.letter == 0 ? std::string("    ") : fmt::format("-{}, ", option.letter);
    return fmt::format("{}--{} {}", letter, option.name, option.argument);
}

std::string run_options(bool color, bool is_reload) {
    auto text = heading(is_reload ? "Options that change" : "Options", color);
    size_t width = 0;
    for (const auto& option : supervisor::option_table())
        width = std::max(width, left_column(option).size());
    for (const auto& option : supervisor::option_table()) {
        if (is_reload && !option.fixed.empty()) continue;
        text += fmt::format("  {:<{}}  {}", left_column(option), width, option.help);
        if (!option.initial.empty()) text += fmt::format(" [{}]", option.initial);
        if (option.repeatable) text += " (repeatable)";
        text += "\n";
    }
    return text + "\nDurations: 500ms, 10s, 5m, 24h. In brackets: the default.\n";
}

std::string other_options(const Verb& verb, bool color) {
    if (verb.target == Target::reload)
        return heading("Options", color) +
               "      --parallel N     replace so many at the same time [1]\n"
               "      --canary N|N%    replace just so many, until promote or rollback\n\n" +
               run_options(color, true);
    if (!verb.json && !verb.follow) return "";
    auto text = heading("Options", color);
    if (verb.name == "logs")
        text +=
            "  -n, --lines N  the last N lines [100; with --since all]\n"
            "      --since T  from then on: 10m ago, or 2026-01-31T10:00:00Z\n";
    if (verb.follow) text += "  -f, --follow   go on with what happens from now on\n";
    if (verb.json) text += "      --json     for programs\n";
    return text;
}

std::string about_target(const Verb& verb) {
    switch (verb.target) {
        case Target::none:
        case Target::command:
            return "";
        case Target::cluster:
        case Target::reload:
            return "CLUSTER may be left out where just one runs.\n";
        case Target::cluster_or_worker:
            if (verb.name == "logs")
                return "With /ID what just that worker printed, also when it is gone, else all. "
                       "CLUSTER may be\nleft out where just one runs; it need not run.\n";
            return "With /ID just that worker, else all. CLUSTER may be left out where just one "
                   "runs.\n";
        case Target::worker:
            return "CLUSTER may be left out where just one runs; ID is the worker's, as in drover "
                   "status.\n";
    }
    return "";
}

}  // namespace

const std::vector<Verb>& verbs() {
    // name, group, target, argument, help, json, follow
    static const std::vector<Verb> table = {
        {"run", "run", Target::command, "", "run a cluster of workers in the foreground", false,
         false},
        {"ls", "look", Target::none, "", "the clusters that run here", true, false},
        {"status", "look", Target::cluster, "", "a cluster, its ports and its workers", true,
         false},
        {"events", "look", Target::cluster, "", "what happened; -f: and what happens", true, true},
        {"logs", "look", Target::cluster_or_worker, "",
         "what workers printed; -f: and what they print", true, true},
        {"doctor", "look", Target::none, "", "whether this machine can run drover", true, false},
        {"scale", "change", Target::cluster, "N", "change the number of workers", false, false},
        {"restart", "change", Target::cluster_or_worker, "", "replace workers by new ones", false,
         false},
        {"reload", "change", Target::reload, "",
         "replace workers, without a gap; also what they run", false, false},
        {"promote", "change", Target::cluster, "", "after a canary: its release for all", false,
         false},
        {"rollback", "change", Target::cluster, "", "back to the former release", false, false},
        {"upgrade", "change", Target::cluster, "", "go on with the drover that is installed now",
         false, false},
        {"drain", "change", Target::worker, "", "give a worker no new connections", false, false},
        {"resume", "change", Target::worker, "", "give it connections again", false, false},
        {"weight", "change", Target::worker, "W",
         "give it W times the share of weight 1 (1 to 100)", false, false},
        {"rescue", "change", Target::worker, "", "move what waits for a worker to the others",
         false, false},
        {"signal", "change", Target::cluster_or_worker, "SIGNAL", "send workers a signal", false,
         false},
        {"send", "change", Target::cluster_or_worker, "JSON", "send workers a message", false,
         false},
        {"policy", "change", Target::cluster, "POLICY|FILE.o", "change how connections are spread",
         false, false},
        {"stop", "change", Target::cluster_or_worker, "", "drain and end workers, or all of it",
         false, false},
        {"help", "look", Target::none, "VERB", "this text, or all about one verb", false, false},
    };
    return table;
}

const Verb* find_verb(std::string_view name) {
    for (const auto& verb : verbs())
        if (verb.name == name) return &verb;
    return nullptr;
}

std::vector<std::string> verb_names() {
    std::vector<std::string> names;
    for (const auto& verb : verbs()) names.emplace_back(verb.name);
    return names;
}

std::string usage_of(const Verb& verb) {
    if (verb.name == "help") return "drover help [VERB]";
    auto usage = fmt::format("drover {}", verb.name);
    switch (verb.target) {
        case Target::none:
            break;
        case Target::command:
            usage += " [OPTIONS] [--] CMD [ARG…]";
            break;
        case Target::cluster:
            usage += " [CLUSTER]";
            break;
        case Target::reload:
            usage += " [CLUSTER] [OPTIONS] [-- CMD [ARG…]]";
            break;
        case Target::cluster_or_worker:
            usage += " [CLUSTER][/ID]";
            break;
        case Target::worker:
            usage += " [CLUSTER]/ID";
            break;
    }
    if (!verb.argument.empty()) usage += fmt::format(" {}", verb.argument);
    return usage;
}

std::string help_text(bool color) {
    std::string text =
        "drover: N copies of any server share its ports; the kernel spreads the connections.\n\n"
        "  sudo drover run -n 4 -- node server.js\n";
    for (std::string_view group : {"run", "look", "change"}) {
        text += "\n" + heading(group, color);
        for (const auto& verb : verbs()) {
            if (verb.group != group) continue;
            // The usage without "drover "; the ellipsis is three bytes but one column.
            auto usage =
                verb.target == Target::command  ? fmt::format("{} [OPTIONS] -- CMD", verb.name)
                : verb.target == Target::reload ? fmt::format("{} [CLUSTER] [-- CMD]", verb.name)
                                                : usage_of(verb).substr(7);
            text += fmt::format("  {:<29} {}\n", usage, verb.help);
        }
    }
    return text + "\ndrover help VERB says more. drover --version prints the version.\n";
}

std::string help_text(const Verb& verb, bool color) {
    auto text = fmt::format("usage: {}\n\n{}\n", usage_of(verb), verb.help);
    if (auto target = about_target(verb); !target.empty()) text += target;
    auto options =
        verb.target == Target::command ? run_options(color, false) : other_options(verb, color);
    if (!options.empty()) text += "\n" + options;
    return text;
}

}  // namespace drover::cli
