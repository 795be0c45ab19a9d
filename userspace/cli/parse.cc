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
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "base/nearest.h"
#include "cli/cli.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

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
        if (verb.target == Target::command) app.prefix_command();
        if (verb.target == Target::reload)
            for (const char* name : {"parallel", "canary"}) add(name, fmt::format("--{}", name));
        if (verb.target == Target::command || verb.target == Target::reload) {
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
            bool is_path = option.name == "cwd" || option.name == "env-file";
            invocation.changes.emplace_back(
                option.name, is_path ? std::filesystem::absolute(value).string() : value);
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
    if (verb.target == Target::cluster || verb.target == Target::reload)
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

// Nothing: the help was asked for.
Result<std::optional<Invocation>> parse_verb(const Verb& verb, Words words) {
    Invocation invocation;
    invocation.verb = verb.name;
    Options options(verb);
    if (verb.json) options.app.add_flag("--json", invocation.json);
    if (verb.follow) options.app.add_flag("-f,--follow", invocation.follow);

    if (verb.target == Target::reload) {
        auto dashes = std::find(words.begin(), words.end(), "--");
        if (dashes != words.end()) {
            invocation.command.assign(dashes + 1, words.end());
            words.erase(dashes, words.end());
            if (invocation.command.empty())
                return refuse(fmt::format("there is no command behind --: {}", usage_of(verb)));
        }
    }
    std::string last_word = words.empty() ? "" : words.back();
    std::reverse(words.begin(), words.end());  // as CLI11 wants it
    try {
        options.app.parse(std::move(words));
    } catch (const CLI::CallForHelp&) {
        return std::nullopt;
    } catch (const CLI::ParseError& error) {
        return tl::unexpected(translate(error, last_word));
    }

    auto rest = options.app.remaining();
    if (verb.target != Target::command) {
        auto parsed = words_of(options, rest);
        if (!parsed) return tl::unexpected(parsed.error());
        auto understood = parse_words(verb, std::move(*parsed), invocation);
        if (!understood) return tl::unexpected(understood.error());
        if (verb.target == Target::reload)
            if (auto reload = parse_reload(options, invocation); !reload)
                return tl::unexpected(reload.error());
        return invocation;
    }

    auto command = command_of(options, rest);
    if (!command) return tl::unexpected(command.error());
    if (auto set = set_options(options, invocation.config); !set)
        return tl::unexpected(set.error());
    invocation.config.command = std::move(*command);
    auto config = supervisor::complete(std::move(invocation.config));
    if (!config) return tl::unexpected(config.error());
    invocation.config = std::move(*config);
    invocation.cluster = invocation.config.name;
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
    return complain(
        fmt::format("unknown verb {}{}", escape(word), did_you_mean(word, verb_names())));
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
    if (first == "--version" || first == "-V") {
        put("drover " DROVER_VERSION "\n");
        return tl::unexpected(kDone);
    }
    if (first == "--help" || first == "-h") first = "help";
    if (first.starts_with('-')) return tl::unexpected(complain_about_option(first));

    const Verb* verb = find_verb(first);
    if (verb == nullptr) return tl::unexpected(complain_about_verb(first));
    if (verb->name == "help") {
        const Verb* about = words.empty() ? nullptr : find_verb(words.front());
        bool known = words.empty() || about != nullptr;
        return tl::unexpected(known ? print_help(about) : complain_about_verb(words.front()));
    }

    auto invocation = parse_verb(*verb, std::move(words));
    if (!invocation) return tl::unexpected(complain(invocation.error().text));
    if (!*invocation) return tl::unexpected(print_help(verb));
    return std::move(**invocation);
}

}  // namespace drover::cli
