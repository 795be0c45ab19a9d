// SPDX-License-Identifier: MIT
#include "supervisor/config_toml.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

// The library is asked not to throw. This is the only file that it is compiled in: it takes long.
// Its assertions are off, because a wrong one ("[#") would end the master: where what they claim
// does not hold, it goes on to its error paths, as the fuzz target shows.
#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 1
#define TOML_ASSERT(expr) static_assert(true)
#include <toml++/toml.h>

#include "base/nearest.h"
#include "supervisor/toml_shield.h"

namespace drover::supervisor {

namespace {

constexpr std::string_view kCommand = "command";

int line_of(const toml::source_region& source) {
    return static_cast<int>(source.begin.line);
}

std::string_view type_name(const toml::node& node) {
    switch (node.type()) {
        case toml::node_type::table:
            return "a table";
        case toml::node_type::array:
            return "an array";
        case toml::node_type::string:
            return "a string";
        case toml::node_type::integer:
            return "a number";
        case toml::node_type::floating_point:
            return "a number with a point";
        case toml::node_type::boolean:
            return "true or false";
        default:
            return "a date or time";
    }
}

std::string name_of(const toml::key& key) {
    return unshielded(key.str());
}

Result<std::string> text_of_string(const toml::node& node) {
    auto text = unshielded(*node.value<std::string>());
    if (text.find('\0') != std::string::npos) return fail("usage", "there is a zero byte in it");
    return text;
}

// One value as it would be written on the command line.
Result<std::string> text_of(const toml::node& node, const Option& option) {
    if (node.is_string()) return text_of_string(node);
    if (!node.is_integer() || !is_number(option))
        return fail("usage", fmt::format("it is {}: write {}{}", type_name(node),
                                         is_number(option) ? "a number or a string" : "a string",
                                         option.repeatable ? ", or an array of them" : ""));
    auto number = *node.value<int64_t>();
    if (option.argument != "OCTAL") return std::to_string(number);
    bool is_octal = node.as_integer()->flags() == toml::value_flags::format_as_octal;
    if (!is_octal || number < 0)
        return fail("usage", fmt::format("{} is not octal: write 0o022 or \"022\"", number));
    return fmt::format("{:o}", number);
}

// The value of a variable of the workers' environment.
Result<std::string> text_of_variable(const toml::node& node) {
    if (node.is_string()) return text_of_string(node);
    if (auto number = node.value_exact<int64_t>()) return std::to_string(*number);
    if (auto truth = node.value_exact<bool>()) return *truth ? "true" : "false";
    return fail("usage", fmt::format("it is {}: write a string", type_name(node)));
}

std::vector<std::string> keys() {
    std::vector<std::string> all = {std::string(kCommand)};
    for (const auto& option : option_table())
        if (option.name != "config") all.push_back(key_of(option));
    return all;
}

class Reader {
  public:
    explicit Reader(std::string folder) : folder_(std::move(folder)) {}

    // Reads all keys of a table but those that are clusters.
    void read(const toml::table& table, FileCluster& cluster, bool is_top) {
        for (const auto& [key, node] : table) {
            if (is_top && is_cluster(key, node)) continue;
            if (name_of(key) == kCommand) {
                read_command(node, cluster);
            } else {
                read_option(key, node, cluster);
            }
        }
    }

    // Only `env` among the options can be a table.
    static bool is_cluster(const toml::key& key, const toml::node& node) {
        return node.is_table() && name_of(key) != "env";
    }

    void complain(const toml::source_region& at, std::string text) {
        problems_.push_back({line_of(at), std::move(text)});
    }

    std::vector<Problem> take_problems() {
        std::ranges::stable_sort(problems_, {}, &Problem::line);
        return std::move(problems_);
    }

  private:
    void read_command(const toml::node& node, FileCluster& cluster) {
        const auto* words = node.as_array();
        if (words == nullptr || words->empty())
            return complain(node.source(),
                            "command: write an array of words, as in [\"node\", "
                            "\"server.js\"]; no shell takes it apart");
        for (const auto& word : *words) {
            auto text = text_of_variable(word);
            if (!text)
                return complain(word.source(), fmt::format("command: {}", text.error().text));
            cluster.command.push_back(*text);
        }
    }

    void read_option(const toml::key& key, const toml::node& node, FileCluster& cluster) {
        const Option* option = nullptr;
        for (const auto& known : option_table())
            if (known.name != "config" && key_of(known) == name_of(key)) option = &known;
        if (option == nullptr)
            return complain(
                key.source(),
                fmt::format("{} no key \"{}\"{}",
                            cluster.is_table ? fmt::format("[{}] has", cluster.name) : "there is",
                            name_of(key), did_you_mean(name_of(key), keys())));
        if (option->name == "name" && cluster.is_table)
            return complain(key.source(),
                            fmt::format("name: the cluster is [{}] already", cluster.name));
        if (option->name == "env" && node.is_table()) return read_env(node, *option, cluster);
        if (!node.is_array()) return read_value(node, *option, cluster);
        if (!option->repeatable)
            return complain(node.source(),
                            fmt::format("{}: it is an array, but there can be just one: write {}",
                                        name_of(key), option->argument));
        for (const auto& element : *node.as_array()) read_value(element, *option, cluster);
    }

    void read_env(const toml::node& node, const Option& option, FileCluster& cluster) {
        for (const auto& [name, variable] : *node.as_table()) {
            auto text = text_of_variable(variable);
            if (!text) {
                complain(variable.source(),
                         fmt::format("env: {}: {}", name_of(name), text.error().text));
                continue;
            }
            add(variable.source(), option, fmt::format("{}={}", name_of(name), *text), cluster);
        }
    }

    void read_value(const toml::node& node, const Option& option, FileCluster& cluster) {
        auto text = text_of(node, option);
        if (!text)
            return complain(node.source(),
                            fmt::format("{}: {}", key_of(option), text.error().text));
        bool is_object = option.name == "policy" &&
                         (text->ends_with(".o") || text->find('/') != std::string::npos);
        if ((is_path(option) || is_object) && !text->empty())
            text = (std::filesystem::path(folder_) / *text).string();
        add(node.source(), option, *text, cluster);
    }

    // Whether the option takes it is found out by a configuration that nobody uses.
    void add(const toml::source_region& at, const Option& option, std::string value,
             FileCluster& cluster) {
        Config ignored;
        if (auto set = option.set(ignored, value); !set)
            return complain(at, fmt::format("{}: {}", key_of(option), set.error().text));
        if (option.name == "name") cluster.name = value;
        cluster.values.push_back({&option, std::move(value), line_of(at)});
    }

    std::string folder_;
    std::vector<Problem> problems_;
};

// What the table does not say itself.
void add_defaults(FileCluster& cluster, const FileCluster& defaults) {
    std::vector<FileValue> values;
    for (const auto& value : defaults.values) {
        bool is_replaced =
            !adds_up(*value.option) && std::ranges::any_of(cluster.values, [&](const auto& own) {
                return own.option == value.option;
            });
        if (!is_replaced) values.push_back(value);
    }
    values.insert(values.end(), cluster.values.begin(), cluster.values.end());
    cluster.values = std::move(values);
    if (cluster.command.empty()) cluster.command = defaults.command;
}

// All that the file names is relative to its folder: so are the command's own words.
void add_cwd(FileCluster& cluster, const std::string& folder) {
    const Option* cwd = find_option("cwd");
    bool is_given =
        std::ranges::any_of(cluster.values, [&](const auto& value) { return value.option == cwd; });
    if (!is_given) cluster.values.push_back({cwd, folder, cluster.line});
}

}  // namespace

ParsedFile parse_config_toml(std::string_view content, const std::string& folder) {
    ParsedFile parsed;
    auto result = toml::parse(shielded(content));
    if (!result) {
        parsed.problems = {
            {line_of(result.error().source()),
             fmt::format("this is no TOML: {}", unshielded(result.error().description()))}};
        return parsed;
    }
    Reader reader(folder);
    FileCluster defaults;
    reader.read(result.table(), defaults, /*is_top=*/true);
    for (const auto& [key, node] : result.table()) {
        if (!Reader::is_cluster(key, node)) continue;
        if (auto checked = check_name(name_of(key)); !checked) {
            reader.complain(key.source(),
                            fmt::format("[{}]: {}", name_of(key), checked.error().text));
            continue;
        }
        FileCluster cluster;
        cluster.name = name_of(key);
        cluster.is_table = true;
        cluster.line = line_of(key.source());
        reader.read(*node.as_table(), cluster, /*is_top=*/false);
        cluster.values.insert(cluster.values.begin(),
                              FileValue{find_option("name"), cluster.name, cluster.line});
        add_defaults(cluster, defaults);
        parsed.clusters.push_back(std::move(cluster));
    }
    if (!parsed.clusters.empty() && !defaults.name.empty())
        for (const auto& value : defaults.values)
            if (value.option->name == "name")
                parsed.problems.push_back(
                    {value.line, "name: the clusters have the names of their tables"});
    if (parsed.clusters.empty()) parsed.clusters.push_back(std::move(defaults));
    for (FileCluster& cluster : parsed.clusters) add_cwd(cluster, folder);
    auto problems = reader.take_problems();
    parsed.problems.insert(parsed.problems.end(), problems.begin(), problems.end());
    std::ranges::stable_sort(parsed.problems, {}, &Problem::line);
    return parsed;
}

}  // namespace drover::supervisor
