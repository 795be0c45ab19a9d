// SPDX-License-Identifier: MIT
#include "cli/completion.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "cli/cli.h"
#include "cli/clusters.h"
#include "cli/connection.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "supervisor/config.h"

namespace drover::cli {

namespace {

using Words = std::vector<std::string>;

bool takes_options(const Verb& verb) {
    return verb.target == Target::command || verb.target == Target::reload;
}

// "--name", "--json" …
Words options_of(const Verb& verb) {
    Words options;
    if (takes_options(verb))
        for (const auto& option : supervisor::option_table())
            if (verb.target == Target::command || option.fixed.empty())
                options.push_back(fmt::format("--{}", option.name));
    if (verb.target == Target::reload) options.insert(options.end(), {"--parallel", "--canary"});
    if (verb.json) options.emplace_back("--json");
    if (verb.follow) options.emplace_back("--follow");
    options.emplace_back("--help");
    return options;
}

// What can stand behind an option.
enum class Value { none, words, file, folder };

struct OptionValue {
    std::string option;  // "--policy"; with its letter "--workers|-n"
    Value value = Value::none;
    Words words;
};

std::vector<OptionValue> option_values() {
    std::vector<OptionValue> values;
    for (const auto& option : supervisor::option_table()) {
        OptionValue one{fmt::format("--{}", option.name), Value::none, {}};
        if (option.letter != 0) one.option += fmt::format("|-{}", option.letter);
        for (auto choice : supervisor::choices_of(option)) one.words.emplace_back(choice);
        if (!one.words.empty()) one.value = Value::words;
        if (option.argument == "FILE") one.value = Value::file;
        if (option.argument == "FOLDER") one.value = Value::folder;
        values.push_back(std::move(one));
    }
    values.push_back({"--parallel", Value::none, {}});
    values.push_back({"--canary", Value::none, {}});
    return values;
}

// First words of the verbs; "config" once.
Words first_words() {
    Words words;
    for (const auto& verb : verbs()) {
        std::string word(verb.name.substr(0, verb.name.find(' ')));
        if (std::ranges::find(words, word) == words.end()) words.push_back(word);
    }
    return words;
}

Words policies() {
    Words words;
    for (auto choice : supervisor::choices_of(*supervisor::find_option("policy")))
        words.emplace_back(choice);
    return words;
}

std::string join(const Words& words, std::string_view between = " ") {
    return fmt::format("{}", fmt::join(words, between));
}

enum class Shell { bash, zsh };

std::string offer(Shell shell, const Words& words) {
    return shell == Shell::bash ? fmt::format("_drover_offer '{}'", join(words))
                                : fmt::format("compadd -- {}", join(words));
}

std::string offer_files(Shell shell, bool only_folders) {
    if (shell == Shell::zsh) return only_folders ? "_files -/" : "_files";
    return only_folders ? "_drover_files -d" : "_drover_files -f";
}

std::string offer_names(Shell shell, const Verb& verb) {
    bool is_worker = verb.target == Target::cluster_or_worker || verb.target == Target::worker;
    const char* what = is_worker ? "workers" : "clusters";
    if (shell == Shell::bash)
        return fmt::format("_drover_offer \"$(\"${{COMP_WORDS[0]}}\" complete {} 2>/dev/null)\"",
                           what);
    return fmt::format("compadd -- ${{(f)\"$(${{words[1]}} complete {} 2>/dev/null)\"}}", what);
}

// What the verb's own words can be, by place: place 2 is the first one.
std::string offer_words(Shell shell, const Verb& verb) {
    std::string name(verb.name);
    if (name == "help") return offer(shell, first_words());
    if (name == "completion") return offer(shell, {"bash", "zsh"});
    if (name == "config check") return offer_files(shell, false);
    if (verb.target == Target::command) return offer_files(shell, false);
    std::string names = verb.target == Target::none ? ":" : offer_names(shell, verb);
    if (name == "policy")
        return fmt::format("if [ $place = 2 ]; then {}; {}; else {}; fi", names,
                           offer(shell, policies()), offer(shell, policies()));
    return fmt::format("if [ $place = 2 ]; then {}; fi", names);
}

// case branches that are written alike in both shells.
std::string value_branches(Shell shell) {
    std::string text;
    Words without;
    for (const auto& one : option_values()) {
        if (one.value == Value::none) {
            without.push_back(one.option);
            continue;
        }
        auto what = one.value == Value::words ? offer(shell, one.words)
                                              : offer_files(shell, one.value == Value::folder);
        if (one.option == "--policy") what += "; " + offer_files(shell, false);
        text += fmt::format("    {}) {}; return ;;\n", one.option, what);
    }
    return text + fmt::format("    {}) return ;;\n", join(without, "|"));
}

std::string verb_branches(Shell shell) {
    std::string text;
    for (const auto& verb : verbs())
        text += fmt::format(
            "    '{}')\n        case $word in\n        -*) {} ;;\n"
            "        *) {} ;;\n        esac ;;\n",
            verb.name, offer(shell, options_of(verb)), offer_words(shell, verb));
    return text;
}

// "config" → its second words.
std::string longer_branches(Shell shell) {
    Words seconds;
    for (const auto& verb : verbs())
        if (verb.name.starts_with("config "))
            seconds.emplace_back(verb.name.substr(std::string_view("config ").size()));
    return fmt::format(
        "    if [ \"$verb\" = config ]; then\n"
        "        if [ $place = 2 ]; then {}; return; fi\n",
        offer(shell, seconds));
}

}  // namespace

std::string bash_completion() {
    std::string text = R"(# bash completion for drover, made by: drover completion bash

_drover_offer() {
    COMPREPLY+=($(compgen -W "$1" -- "$word"))
}

_drover_files() {
    compopt -o filenames 2>/dev/null
    local line
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen "$1" -- "$word")
}

_drover() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    local verb=${COMP_WORDS[1]} place=$COMP_CWORD i
    COMPREPLY=()
    if [ $place = 1 ]; then
        )" + offer(Shell::bash, first_words()) +
                       R"(
        return
    fi
    # --policy=ha is three words.
    if [ "$word" = = ]; then
        word=
    elif [ "$before" = = ]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    # Behind -- stands a command.
    for ((i = 2; i < COMP_CWORD; i++)); do
        [ "${COMP_WORDS[i]}" = -- ] || continue
        [ $((i + 1)) != "$COMP_CWORD" ] || COMPREPLY=($(compgen -c -- "$word"))
        _drover_files -f
        return
    done
)" + longer_branches(Shell::bash) +
                       R"(        verb="config ${COMP_WORDS[2]}"
        place=$((place - 1))
    fi
    case $before in
)" + value_branches(Shell::bash) +
                       R"(    esac
    case $verb in
)" + verb_branches(Shell::bash) +
                       R"(    esac
}

complete -F _drover drover
)";
    return text;
}

std::string zsh_completion() {
    std::string described;
    for (const auto& word : first_words()) {
        const Verb* verb = find_verb(word);
        std::string help(verb != nullptr ? verb->help : "configuration files");
        std::string escaped;
        for (char c : help) escaped += c == '\'' ? "'\\''" : c == ':' ? "\\:" : std::string(1, c);
        described += fmt::format("            '{}:{}'\n", word, escaped);
    }
    return R"(#compdef drover
# zsh completion for drover, made by: drover completion zsh

_drover() {
    local word=${words[CURRENT]} before=${words[CURRENT-1]} verb=${words[2]}
    local place=$((CURRENT - 1)) dashes=${words[(i)--]}
    local -a described
    if [ $place = 1 ]; then
        described=(
)" + described +
           R"(        )
        _describe verb described
        return
    fi
    # Behind -- stands a command.
    if (( dashes < CURRENT )); then
        if (( dashes + 1 == CURRENT )); then _command_names -e; fi
        _files
        return
    fi
)" + longer_branches(Shell::zsh) +
           R"(        verb="config ${words[3]}"
        place=$((place - 1))
    fi
    case $before in
)" + value_branches(Shell::zsh) +
           R"(    esac
    case $verb in
)" + verb_branches(Shell::zsh) +
           R"(    esac
}

if [ "${funcstack[1]}" = _drover ]; then _drover "$@"; else compdef _drover drover; fi
)";
}

int print_completion(const std::string& shell) {
    put(shell == "bash" ? bash_completion() : zsh_completion());
    return kDone;
}

int print_names(const std::string& what, const Paths& paths) {
    for (const auto& cluster : find_clusters(paths).running) {
        put(cluster + "\n");
        if (what != "workers") continue;
        auto connection = Connection::open(paths.control_socket(cluster));
        if (!connection || !connection->send(make_request("status", Json::object()))) continue;
        auto line = connection->read_line();
        auto status = line && *line ? parse_reply(**line) : fail("closed", "");
        if (!status || !status->is_object() || !(*status)["workers"].is_array()) continue;
        for (const auto& worker : (*status)["workers"])
            if (worker.is_object()) put(fmt::format("{}/{}\n", cluster, worker.value("id", 0)));
    }
    return kDone;
}

}  // namespace drover::cli
