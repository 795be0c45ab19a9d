// SPDX-License-Identifier: MIT
#include "cli/verbs.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/nearest.h"
#include "cli/terminal.h"
#include "supervisor/config.h"

namespace drover::cli {

namespace {

constexpr size_t kWidth = 80;  // of the help

std::string heading(std::string_view text, bool color) {
    return color ? fmt::format("\033[1m{}\033[0m\n", text) : fmt::format("{}\n", text);
}

// "-n, --workers N"
std::string left_column(const supervisor::Option& option) {
    auto letter = option.letter == 0 ? std::string("    ") : fmt::format("-{}, ", option.letter);
    return fmt::format("{}--{} {}", letter, option.name, option.argument);
}

// The text behind `left`, set in; lines end before the 80th column.
std::string entry(std::string_view left, size_t left_width, std::string_view text) {
    std::string result, line(left);
    line.resize(line.size() + left_width - std::min(left_width, columns(left)), ' ');
    bool is_fresh = true;
    while (!text.empty()) {
        auto word = text.substr(0, text.find(' '));
        text.remove_prefix(std::min(word.size() + 1, text.size()));
        if (!is_fresh && columns(line) + 1 + columns(word) > kWidth) {
            result += line + "\n";
            line.assign(left_width, ' ');
            is_fresh = true;
        }
        line += fmt::format("{}{}", is_fresh ? "" : " ", word);
        is_fresh = false;
    }
    return result + line + "\n";
}

// Lines of a left column and a text, with the texts below each other.
std::string entries(const std::vector<std::pair<std::string, std::string>>& lines) {
    size_t width = 0;
    for (const auto& [left, text] : lines) width = std::max(width, columns(left));
    std::string result;
    for (const auto& [left, text] : lines) result += entry("  " + left, width + 4, text);
    return result;
}

std::string run_options(bool color, bool is_reload) {
    std::vector<std::pair<std::string, std::string>> lines;
    for (const auto& option : supervisor::option_table()) {
        if (is_reload && !option.fixed.empty()) continue;
        std::string text(option.help);
        if (!option.initial.empty()) text += fmt::format(" [{}]", option.initial);
        if (option.repeatable) text += " (repeatable)";
        lines.emplace_back(left_column(option), text);
    }
    return heading(is_reload ? "Options that change" : "Options", color) + entries(lines) +
           "\nDurations: 500ms, 10s, 5m, 24h. In brackets: the default.\n";
}

std::string other_options(const Verb& verb, bool color) {
    if (verb.target == Target::reload)
        return heading("Options", color) +
               entries({{"    --parallel N", "replace so many at the same time [1]"},
                        {"    --canary N|N%", "replace just so many, until promote or rollback"}}) +
               "\n" + run_options(color, true);
    if (verb.target == Target::install)
        return heading("Options", color) +
               entries({{"    --print", "only show the unit"},
                        {"    --no-start", "not now, but at the next boot"}}) +
               "\n" + run_options(color, false);
    std::vector<std::pair<std::string, std::string>> lines;
    if (verb.name == "logs") {
        lines.emplace_back("-n, --lines N", "the last N lines [100; with --since all]");
        lines.emplace_back("    --since WHEN", "from then on: 10m ago, or 2026-01-31T10:00:00Z");
    }
    if (verb.follow) lines.emplace_back("-f, --follow", "go on with what happens from now on");
    if (verb.json) lines.emplace_back("    --json", "for programs");
    return lines.empty() ? "" : heading("Options", color) + entries(lines);
}

std::string about_target(const Verb& verb) {
    switch (verb.target) {
        case Target::none:
        case Target::install:
        case Target::name:
            return "";
        case Target::command:
            return fmt::format(
                "With a file: drover {} --config FILE [CLUSTER]; the name may be left out\n"
                "where the file has just one. Options and a command behind -- win over the file.\n",
                verb.name);
        case Target::cluster:
        case Target::reload:
            return "CLUSTER may be left out where just one runs.\n";
        case Target::cluster_or_worker:
            if (verb.name == "logs")
                return "With /ID what just that worker printed, also when it is gone, else all.\n"
                       "CLUSTER may be left out where just one runs; it need not run.\n";
            return "With /ID just that worker, else all.\n"
                   "CLUSTER may be left out where just one runs.\n";
        case Target::worker:
            return "ID is the worker's, as in drover status.\n"
                   "CLUSTER may be left out where just one runs.\n";
    }
    return "";
}

}  // namespace

const std::vector<Verb>& verbs() {
    // name, group, target, argument, help, json, follow
    static const std::vector<Verb> table = {
        {"run", "run", Target::command, "", "run a cluster of workers in the foreground", false,
         false},
        {"start", "run", Target::command, "", "the same in the background; waits until it is ready",
         false, false},
        {"install", "run", Target::install, "", "run it as a systemd service, now and at each boot",
         false, false},
        {"uninstall", "run", Target::name, "", "end that service and remove it", false, false},
        {"ls", "look", Target::none, "", "the clusters that run here", true, false},
        {"status", "look", Target::cluster, "", "a cluster, its ports and its workers", true,
         false},
        {"top", "look", Target::cluster, "", "watch the workers, with keys to act on them", true,
         false},
        {"events", "look", Target::cluster, "", "what happened; -f: and what happens", true, true},
        {"logs", "look", Target::cluster_or_worker, "",
         "what workers printed; -f: and what they print", true, true},
        {"probe", "look", Target::worker, "PATH", "ask just that worker for a path, by HTTP", true,
         false},
        {"doctor", "look", Target::none, "", "whether this machine can run drover", true, false},
        {"scale", "change", Target::cluster, "N", "change the number of workers", false, false},
        {"restart", "change", Target::cluster_or_worker, "", "replace workers by new ones", false,
         false},
        {"reload", "release", Target::reload, "", "replace workers, or what they run, with no gap",
         false, false},
        {"promote", "release", Target::cluster, "", "after a canary: its release for all", false,
         false},
        {"rollback", "release", Target::cluster, "", "back to the former release", false, false},
        {"upgrade", "release", Target::cluster, "", "go on with the drover that is installed now",
         false, false},
        {"drain", "worker", Target::cluster_or_worker, "",
         "no new connections for a worker; or tell load balancers", false, false},
        {"resume", "worker", Target::cluster_or_worker, "", "connections again", false, false},
        {"weight", "worker", Target::worker, "W", "give it W times the share of weight 1", false,
         false},
        {"rescue", "worker", Target::worker, "", "move what waits for a worker to the others",
         false, false},
        {"signal", "worker", Target::cluster_or_worker, "SIGNAL", "send workers a signal", false,
         false},
        {"send", "worker", Target::cluster_or_worker, "JSON", "send workers a message", false,
         false},
        {"policy", "change", Target::cluster, "POLICY|FILE.o", "change how connections are spread",
         false, false},
        {"stop", "change", Target::cluster_or_worker, "", "drain and end workers, or all of it",
         false, false},
        {"config check", "look", Target::none, "FILE", "whether a configuration file is right",
         true, false},
        {"config show", "look", Target::cluster, "", "the configuration of a cluster, as TOML",
         true, false},
        {"completion", "look", Target::none, "bash|zsh", "a script that completes words in a shell",
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

std::optional<std::string> verb_meant_by(std::string_view word) {
    static constexpr std::pair<std::string_view, std::string_view> kElsewhere[] = {
        {"list", "ls"},
        {"ps", "ls"},
        {"l", "ls"},
        {"monit", "top"},
        {"monitor", "top"},
        {"dash", "top"},
        {"dashboard", "top"},
        {"delete", "stop"},
        {"del", "stop"},
        {"kill", "stop"},
        {"rm", "stop"},
        {"describe", "status"},
        {"desc", "status"},
        {"show", "status"},
        {"info", "status"},
        {"inspect", "status"},
        {"startup", "install"},
        {"save", "install"},
        {"resurrect", "install"},
        {"gracefulReload", "reload"},
        {"sendSignal", "signal"},
        {"trigger", "send"},
        {"log", "logs"},
        {"exec", "run"},
        {"launch", "run"},
        {"check", "doctor"},
        {"update", "upgrade"},
    };
    for (const auto& [name, verb] : kElsewhere)
        if (name == word && find_verb(verb) != nullptr) return std::string(verb);
    return nearest(word, verb_names());
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
        case Target::install:
            usage += " NAME [OPTIONS] [--] CMD [ARG…]";
            break;
        case Target::name:
            usage += " NAME";
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

namespace {

// Without "drover ", and without what needs an explanation.
std::string short_usage(const Verb& verb) {
    if (verb.target == Target::command) return fmt::format("{} [OPTIONS] -- CMD", verb.name);
    if (verb.target == Target::reload) return fmt::format("{} [CLUSTER] [-- CMD]", verb.name);
    if (verb.target == Target::install) return fmt::format("{} NAME -- CMD", verb.name);
    return usage_of(verb).substr(std::string_view("drover ").size());
}

}  // namespace

std::string help_text(bool color) {
    std::string text =
        "drover: copies of any server share its ports; the kernel spreads connections.\n\n"
        "  sudo drover run -n 4 -- node server.js\n";
    constexpr std::pair<std::string_view, std::string_view> kGroups[] = {
        {"run", "Run a cluster"},           {"look", "Look at it"},        {"change", "Change it"},
        {"release", "Bring a new release"}, {"worker", "Act on a worker"},
    };
    size_t width = 0;
    for (const auto& verb : verbs()) width = std::max(width, columns(short_usage(verb)));
    for (const auto& [group, title] : kGroups) {
        text += "\n" + heading(title, color);
        for (const auto& verb : verbs())
            if (verb.group == group) text += entry("  " + short_usage(verb), width + 4, verb.help);
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
