// SPDX-License-Identifier: MIT
//
// The command line → Invocation.
//
// One CLI::App per verb, filled from option_table() for run. CLI11 splits the words into
// options and the rest; what the rest means (a command, CLUSTER[/ID], an argument) is decided here.
// CLI11 throws; nothing of that leaves this file.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>

#include "base/nearest.h"
#include "base/paths.h"
#include "cli/cli.h"
#include "cli/log_query.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "supervisor/config_file.h"

#ifndef DROVER_VERSION
#define DROVER_VERSION "unknown"
#endif

namespace drover::cli {

namespace {

using Words = std::vector<std::string>;

tl::unexpected<Error> refuse(std::string text) {
    return fail("usage", std::move(text));
}

struct Options {
    CLI::App app;
    std::map<std::string_view, CLI::Option*> values;  // of option_table()

    explicit Options(const Verb& verb) {
        app.allow_extras();
        // The first word that is no option begins the command.
        bool runs = verb.target == Target::command || verb.target == Target::install;
        if (runs) app.prefix_command();
        if (verb.target == Target::reload)
            for (const char* name : {"parallel", "canary"}) add(name, fmt::format("--{}", name));
        if (runs || verb.target == Target::reload) {
            for (const auto& option : supervisor::option_table()) {
                auto names = fmt::format("--{}", option.name);
                if (option.letter != 0) names += fmt::format(",-{}", option.letter);
                add(option.name, names);
            }
        }
    }

    // TakeAll also for those that may be given once: so it is us who refuse them.
    void add(std::string_view name, const std::string& names) {
        values[name] = app.add_option(names)->allow_extra_args(false)->multi_option_policy(
            CLI::MultiOptionPolicy::TakeAll);
    }

    [[nodiscard]] Words names() const {
        Words names;
        for (const auto* option : app.get_options())
            for (const auto& name : option->get_lnames()) names.push_back(name);
        return names;
    }
};

tl::unexpected<Error> unknown_option(const Options& options, const std::string& word) {
    auto shown = word.substr(0, word.find('='));
    auto name = shown.substr(std::min(shown.find_first_not_of('-'), shown.size()));
    return refuse(fmt::format("unknown option {}{}", escape(shown),
                              did_you_mean(name, options.names(), "--")));
}

Result<void> set_options(const Options& options, supervisor::Config& config) {
    for (const auto& option : supervisor::option_table()) {
        const auto& values = options.values.at(option.name)->results();
        if (values.size() > 1 && !option.repeatable)
            return refuse(fmt::format("--{} is given twice", option.name));
        for (const auto& value : values)
            if (auto set = supervisor::set_option(config, option.name, value); !set) return set;
    }
    return {};
}

// What changes in a reload: checked here, so that the master is not asked for what cannot be.
Result<void> set_changes(const Options& options, Invocation& invocation) {
    supervisor::Config ignored;
    for (const auto& option : supervisor::option_table()) {
        const auto& values = options.values.at(option.name)->results();
        if (values.empty()) continue;
        if (!option.fixed.empty())
            return refuse(
                fmt::format("--{} cannot change in a reload: {}", option.name, option.fixed));
        if (values.size() > 1 && !option.repeatable)
            return refuse(fmt::format("--{} is given twice", option.name));
        for (const auto& value : values) {
            if (auto set = supervisor::set_option(ignored, option.name, value); !set) return set;
            // The master may stand in another folder.
            invocation.changes.emplace_back(
                option.name, supervisor::is_path(option) ? absolute_path(value) : value);
        }
    }
    return {};
}

// The value of --parallel or --canary; empty where it is not given.
Result<std::string> value_of(const Options& options, std::string_view name) {
    const auto& values = options.values.at(name)->results();
    if (values.size() > 1) return refuse(fmt::format("--{} is given twice", name));
    return values.empty() ? "" : values.front();
}

Result<void> parse_reload(const Options& options, Invocation& invocation) {
    if (auto set = set_changes(options, invocation); !set) return set;
    auto parallel = value_of(options, "parallel");
    if (!parallel) return tl::unexpected(parallel.error());
    if (!parallel->empty()) {
        supervisor::Config as_workers;
        auto set = supervisor::set_option(as_workers, "workers", *parallel);
        if (!set || !as_workers.workers)
            return refuse(
                fmt::format("--parallel: \"{}\" is not a number from 1 to 256", *parallel));
        invocation.parallel = *as_workers.workers;
    }
    auto canary = value_of(options, "canary");
    if (!canary) return tl::unexpected(canary.error());
    if (!canary->empty())
        if (auto share = supervisor::parse_share(*canary); !share)
            return wrap(share.error(), "--canary");
    invocation.canary = *canary;
    return {};
}

// install NAME, before what run has, too.
Result<std::string> take_name(Words& words, const Verb& verb) {
    if (words.empty() || words.front().starts_with('-'))
        return refuse(fmt::format("{} needs a name first: {}", verb.name, usage_of(verb)));
    auto name = words.front();
    words.erase(words.begin());
    return name;
}

// The options of a command line that systemd is to repeat.
Result<void> keep_options(const Options& options, Invocation& invocation) {
    for (const auto& option : supervisor::option_table())
        for (const auto& value : options.values.at(option.name)->results()) {
            if (option.name == "name")
                return refuse("--name: the name stands behind install already");
            invocation.changes.emplace_back(
                option.name, supervisor::is_path(option) ? absolute_path(value) : value);
        }
    return {};
}

Result<void> parse_logs(const Options& options, Invocation& invocation) {
    auto lines = value_of(options, "lines");
    if (!lines) return tl::unexpected(lines.error());
    uint64_t count = 0;
    const char* end = lines->data() + lines->size();
    auto [stop, error] = std::from_chars(lines->data(), end, count);
    if (!lines->empty() && (error != std::errc() || stop != end))
        return refuse(fmt::format("--lines: \"{}\" is not a number of lines", *lines));
    if (!lines->empty()) invocation.last = count;
    auto since = value_of(options, "since");
    if (!since) return tl::unexpected(since.error());
    if (since->empty()) return {};
    auto time = parse_since(*since, std::chrono::system_clock::now());
    if (!time) return wrap(time.error(), "--since");
    invocation.since = *time;
    return {};
}

// run and start with --config take a cluster's name in front of the command or of more options:
// takes it out of the words, of which `rest` are the last ones.
std::optional<std::string> take_cluster(const Options& options, const Words& rest, Words& words) {
    bool has_file = !options.values.at("config")->results().empty();
    if (!has_file || rest.empty() || rest.front().starts_with('-')) return std::nullopt;
    words.erase(words.end() - static_cast<ptrdiff_t>(rest.size()));
    return rest.front();
}

// The options that CLI11 did not know are in `rest`, in front of the command.
Result<Words> command_of(const Options& options, const Words& rest) {
    for (size_t i = 0; i < rest.size(); ++i) {
        if (rest[i] == "--") return Words(rest.begin() + static_cast<ptrdiff_t>(i) + 1, rest.end());
        if (rest[i].size() > 1 && rest[i].front() == '-') return unknown_option(options, rest[i]);
        return Words(rest.begin() + static_cast<ptrdiff_t>(i), rest.end());
    }
    return Words();
}

Result<uint64_t> parse_worker_id(std::string_view text) {
    uint64_t id = 0;
    if (text == "0")
        return refuse(
            "\"0\" is no worker id, for they count from 1: drover status shows them beside "
            "their instances");
    const char* end = text.data() + text.size();
    auto [stop, error] = std::from_chars(text.data(), end, id);
    if (text.empty() || error != std::errc() || stop != end || id == 0)
        return refuse(fmt::format("\"{}\" is no worker id: write CLUSTER/ID, as in web/3", text));
    return id;
}

// "web", "web/3" or "/3".
Result<void> parse_target(std::string_view word, const Verb& verb, Invocation& invocation) {
    auto slash = word.find('/');
    invocation.cluster = std::string(word.substr(0, slash));
    if (slash == std::string_view::npos && parse_worker_id(word))
        return refuse(fmt::format("\"{}\" is no cluster: worker {} of the only one is /{}", word,
                                  word, word));
    if (slash != 0)
        if (auto checked = supervisor::check_name(invocation.cluster); !checked) return checked;
    if (slash == std::string_view::npos) return {};
    auto id = parse_worker_id(word.substr(slash + 1));
    if (!id) return tl::unexpected(id.error());
    if (verb.target == Target::cluster || verb.target == Target::reload ||
        verb.target == Target::name)
        return refuse(fmt::format("{} is about a whole cluster, not about one worker: {}",
                                  verb.name, usage_of(verb)));
    invocation.worker = *id;
    return {};
}

Result<void> check_argument(const Verb& verb, const std::string& text) {
    if (verb.name == "scale") {
        supervisor::Config ignored;
        auto checked = supervisor::set_option(ignored, "workers", text);
        if (!checked || !ignored.workers)
            return refuse(fmt::format("scale: \"{}\" is not a number from 1 to 256: {}", text,
                                      usage_of(verb)));
    }
    if (verb.name == "weight") {
        int weight = 0;
        auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), weight);
        if (error != std::errc() || end != text.data() + text.size() || weight < 1 || weight > 100)
            return refuse(fmt::format("weight: \"{}\" is not a number from 1 to 100: {}", text,
                                      usage_of(verb)));
    }
    if (verb.name == "completion" && text != "bash" && text != "zsh")
        return refuse(fmt::format("completion: \"{}\" is neither bash nor zsh", text));
    if (verb.name == "probe" && !supervisor::is_http_path(text))
        return refuse(
            fmt::format("probe: \"{}\" is no path like /health: {}", escape(text), usage_of(verb)));
    if (verb.name == "signal")
        if (auto signal = supervisor::parse_signal(text); !signal)
            return wrap(signal.error(), "signal");
    if (verb.name == "send" && !nlohmann::json::accept(text))
        return refuse(fmt::format("send: {} is not JSON (a string needs its quotes): {}",
                                  text.size() > 40 ? text.substr(0, 40) + "…" : text,
                                  usage_of(verb)));
    if (verb.name == "policy")
        if (auto policy = supervisor::parse_policy(text); !policy)
            return wrap(policy.error(), "policy");
    return {};
}

// [CLUSTER[/ID]] [ARGUMENT]. A lone word is the argument where the verb has one.
Result<void> parse_words(const Verb& verb, Words words, Invocation& invocation) {
    if (!verb.argument.empty()) {
        if (words.empty())
            return refuse(fmt::format("{} is missing: {}", verb.argument, usage_of(verb)));
        if (auto checked = check_argument(verb, words.back()); !checked) return checked;
        invocation.arguments = {words.back()};
        words.pop_back();
    }
    size_t most = verb.target == Target::none ? 0 : 1;
    if (words.size() > most)
        return refuse(fmt::format("one word too many, \"{}\": {}", words[most], usage_of(verb)));
    if (!words.empty())
        if (auto target = parse_target(words.front(), verb, invocation); !target) return target;
    if (verb.target == Target::name && invocation.cluster.empty())
        return refuse(fmt::format("{} needs a name: {}", verb.name, usage_of(verb)));
    if (verb.target == Target::worker && !invocation.worker)
        return refuse(fmt::format("{} needs a worker: {}", verb.name, usage_of(verb)));
    return {};
}

Result<Words> words_of(const Options& options, const Words& rest) {
    Words words;
    bool only_words = false;
    for (const auto& word : rest) {
        if (!only_words && word == "--") {
            only_words = true;
        } else if (!only_words && word.size() > 1 && word.front() == '-') {
            return unknown_option(options, word);
        } else {
            words.push_back(word);
        }
    }
    return words;
}

// A value may be missing only at the end of the command line.
Error translate(const CLI::ParseError& error, const std::string& last_word) {
    if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr)
        return {"usage", fmt::format("{} needs a value", escape(last_word)), 0};
    return {"usage", escape(error.what()), 0};
}

// Splits the words. False: the help was asked for.
Result<bool> split(Options& options, Words words) {
    std::string last_word = words.empty() ? "" : words.back();
    std::reverse(words.begin(), words.end());  // as CLI11 wants it
    try {
        options.app.parse(std::move(words));
    } catch (const CLI::CallForHelp&) {
        return false;
    } catch (const CLI::ParseError& error) {
        return tl::unexpected(translate(error, last_word));
    }
    return true;
}

// run, start, install. `cluster` is "" where none was named in front of the command.
Result<std::optional<Invocation>> parse_command(const Verb& verb, Words words,
                                                const std::string& cluster) {
    Invocation invocation;
    invocation.verb = verb.name;
    Options options(verb);
    if (verb.target == Target::install) {
        options.app.add_flag("--print", invocation.print);
        options.app.add_flag("--no-start", invocation.no_start);
    }
    auto is_split = split(options, words);
    if (!is_split) return tl::unexpected(is_split.error());
    if (!*is_split) return std::nullopt;
    auto rest = options.app.remaining();
    auto named = take_cluster(options, rest, words);
    if (named && !cluster.empty())
        return refuse(fmt::format("one word too many, \"{}\": a command stands behind --", *named));
    if (named) return parse_command(verb, std::move(words), *named);

    auto command = command_of(options, rest);
    if (!command) return tl::unexpected(command.error());
    if (verb.target == Target::install) {
        invocation.command = *command;
        if (auto kept = keep_options(options, invocation); !kept)
            return tl::unexpected(kept.error());
    }
    if (auto set = set_options(options, invocation.config); !set)
        return tl::unexpected(set.error());
    if (!cluster.empty() && !invocation.config.name.empty())
        return refuse(fmt::format("the cluster is named twice, {} and --name {}", cluster,
                                  invocation.config.name));
    if (!cluster.empty())
        if (auto set = supervisor::set_option(invocation.config, "name", cluster); !set)
            return tl::unexpected(set.error());
    invocation.config.command = std::move(*command);
    auto config = supervisor::configure(std::move(invocation.config));
    if (!config) return tl::unexpected(config.error());
    invocation.config = std::move(*config);
    invocation.cluster = invocation.config.name;
    return invocation;
}

// Nothing: the help was asked for.
Result<std::optional<Invocation>> parse_verb(const Verb& verb, Words words) {
    if (verb.target == Target::command) return parse_command(verb, std::move(words), "");
    if (verb.target == Target::install) {
        if (words == Words{"--help"} || words == Words{"-h"}) return std::nullopt;
        auto name = take_name(words, verb);
        if (!name) return tl::unexpected(name.error());
        return parse_command(verb, std::move(words), *name);
    }
    Invocation invocation;
    invocation.verb = verb.name;
    Options options(verb);
    if (verb.json) options.app.add_flag("--json", invocation.json);
    if (verb.follow) options.app.add_flag("-f,--follow", invocation.follow);
    if (verb.name == "logs") {
        options.add("lines", "-n,--lines");
        options.add("since", "--since");
    }

    if (verb.target == Target::reload) {
        auto dashes = std::find(words.begin(), words.end(), "--");
        if (dashes != words.end()) {
            invocation.command.assign(dashes + 1, words.end());
            words.erase(dashes, words.end());
            if (invocation.command.empty())
                return refuse(fmt::format("there is no command behind --: {}", usage_of(verb)));
        }
    }
    auto is_split = split(options, std::move(words));
    if (!is_split) return tl::unexpected(is_split.error());
    if (!*is_split) return std::nullopt;
    auto parsed = words_of(options, options.app.remaining());
    if (!parsed) return tl::unexpected(parsed.error());
    auto understood = parse_words(verb, std::move(*parsed), invocation);
    if (!understood) return tl::unexpected(understood.error());
    if (verb.target == Target::reload)
        if (auto reload = parse_reload(options, invocation); !reload)
            return tl::unexpected(reload.error());
    if (verb.name == "logs")
        if (auto logs = parse_logs(options, invocation); !logs) return tl::unexpected(logs.error());
    return invocation;
}

int complain(const std::string& text) {
    std::fputs(fmt::format("drover: {}\n", text).c_str(), stderr);
    return kUsage;
}

int print_help(const Verb* verb) {
    bool color = use_color(STDOUT_FILENO);
    put(verb != nullptr ? help_text(*verb, color) : help_text(color));
    return kDone;
}

int complain_about_verb(const std::string& word) {
    std::string longer;  // "config" → "config check" and "config show"
    for (const auto& verb : verbs())
        if (verb.name.starts_with(word + " "))
            longer += fmt::format("{} {}", longer.empty() ? "" : " or", usage_of(verb));
    if (!longer.empty()) return complain(fmt::format("{} what? Write{}", word, longer));
    auto shown = escape(word);
    if (auto meant = verb_meant_by(word))
        return complain(fmt::format("no verb \"{}\": did you mean \"{}\"?", shown, *meant));
    return complain(fmt::format(
        "no verb \"{0}\": see \"drover help\"; a command: \"drover run -- {0}\"", shown));
}

// The verb of that word, or of that and the next one, which is taken away then.
const Verb* take_verb(const std::string& first, Words& rest) {
    if (!rest.empty())
        if (const Verb* verb = find_verb(fmt::format("{} {}", first, rest.front()))) {
            rest.erase(rest.begin());
            return verb;
        }
    return find_verb(first);
}

int complain_about_option(const std::string& word) {
    Options of_run(*find_verb("run"));
    auto name = word.substr(0, word.find('='));
    for (const auto& [option, value] : of_run.values)
        if (value->check_name(name))
            return complain(fmt::format("{} stands behind the verb: drover run {} …", escape(name),
                                        escape(name)));
    auto bare = name.substr(std::min(name.find_first_not_of('-'), name.size()));
    return complain(fmt::format("unknown option {}{}", escape(name),
                                did_you_mean(bare, {"version", "help"}, "--")));
}

}  // namespace

tl::expected<Invocation, int> parse(int argc, const char* const* argv) {
    Words words(argv + std::min(argc, 1), argv + argc);
    if (words.empty()) return tl::unexpected(print_help(nullptr));

    auto first = words.front();
    words.erase(words.begin());
    if (first == "--version" || first == "-V" || first == "-v") {
        put("drover " DROVER_VERSION "\n");
        return tl::unexpected(kDone);
    }
    if (first == "--help" || first == "-h") first = "help";
    if (first.starts_with('-')) return tl::unexpected(complain_about_option(first));

    const Verb* verb = take_verb(first, words);
    if (verb == nullptr) return tl::unexpected(complain_about_verb(first));
    if (verb->name == "help") {
        if (words.empty()) return tl::unexpected(print_help(nullptr));
        auto word = words.front();
        words.erase(words.begin());
        const Verb* about = take_verb(word, words);
        return tl::unexpected(about != nullptr ? print_help(about) : complain_about_verb(word));
    }

    auto invocation = parse_verb(*verb, std::move(words));
    if (!invocation) return tl::unexpected(complain(invocation.error().text));
    if (!*invocation) return tl::unexpected(print_help(verb));
    return std::move(**invocation);
}

}  // namespace drover::cli
