// SPDX-License-Identifier: MIT
//
// The command line of the load generator, each value bounded.
#pragma once

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace drover::bench {

inline constexpr double kMaxRate = 50'000;
inline constexpr double kMaxSeconds = 60;
inline constexpr size_t kMaxConnections = 50'000;

enum class Mode {
    fresh,       // a connection for each request
    keep_alive,  // a fixed set of connections, each with its own queue of requests
    hold,        // a connection for each request, and it stays open
};

// Requests that are counted together.
struct Class {
    std::string name;
    double weight = 1;
    std::string path = "/";
};

struct Options {
    uint16_t port = 0;
    Mode mode = Mode::fresh;
    double rate = 1000;  // requests a second
    double seconds = 3;  // of load; hold: of holding
    bool fixed = false;  // one request each 1/rate, no Poisson process
    uint64_t seed = 1;
    size_t connections = 0;                    // keep_alive and hold: how many
    std::chrono::milliseconds patience{5000};  // for one request, from its planned moment
    bool plan_only = false;
    std::vector<Class> classes;  // at least one
};

inline constexpr const char* kUsage =
    "usage: load --port N [--rate R] [--seconds S] [--fixed] [--seed N] [--timeout-ms N]\n"
    "            [--path /P | --class NAME:WEIGHT:/PATH …]\n"
    "            [--mode new | --mode keep-alive --connections N | --mode hold --connections N]\n"
    "            [--plan]\n";

template <class T>
bool number_into(std::string_view text, T& out, T least, T most) {
    T value{};
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) return false;
    if (!(value >= least && value <= most)) return false;
    out = value;
    return true;
}

inline bool class_into(std::string_view text, std::vector<Class>& classes) {
    auto first = text.find(':');
    auto second = first == text.npos ? text.npos : text.find(':', first + 1);
    if (second == text.npos) return false;
    Class added{std::string(text.substr(0, first)), 0, std::string(text.substr(second + 1))};
    if (!number_into(text.substr(first + 1, second - first - 1), added.weight, 1e-6, 1e6))
        return false;
    bool known = std::any_of(classes.begin(), classes.end(),
                             [&](const Class& other) { return other.name == added.name; });
    classes.push_back(added);
    return !known && !added.name.empty() && added.path.starts_with('/');
}

inline bool mode_into(std::string_view text, Mode& mode) {
    if (text == "keep-alive") mode = Mode::keep_alive;
    if (text == "hold") mode = Mode::hold;
    return text == "new" || mode != Mode::fresh;
}

inline bool option_into(std::string_view name, std::string_view value, Options& options) {
    if (name == "--port") return number_into<uint16_t>(value, options.port, 1, 65535);
    if (name == "--rate") return number_into<double>(value, options.rate, 1, kMaxRate);
    if (name == "--seconds") return number_into(value, options.seconds, 0.01, kMaxSeconds);
    if (name == "--seed") return number_into<uint64_t>(value, options.seed, 0, UINT64_MAX);
    if (name == "--mode") return mode_into(value, options.mode);
    if (name == "--class") return class_into(value, options.classes);
    if (name == "--path" && value.starts_with('/') && options.classes.empty()) {
        options.classes.push_back({"all", 1, std::string(value)});
        return true;
    }
    if (name == "--connections")
        return number_into<size_t>(value, options.connections, 1, kMaxConnections);
    int64_t patience = 0;
    if (name != "--timeout-ms" || !number_into<int64_t>(value, patience, 1, 60'000)) return false;
    options.patience = std::chrono::milliseconds(patience);
    return true;
}

// Empty where the command line is wrong.
inline std::optional<Options> parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        std::string_view name = argv[i];
        if (name == "--fixed") {
            options.fixed = true;
        } else if (name == "--plan") {
            options.plan_only = true;
        } else if (i + 1 == argc || !option_into(name, argv[++i], options)) {
            return std::nullopt;
        }
    }
    if (options.port == 0 && !options.plan_only) return std::nullopt;
    if ((options.mode == Mode::fresh) != (options.connections == 0)) return std::nullopt;
    if (options.classes.empty()) options.classes.push_back({"all", 1, "/"});
    return options;
}

}  // namespace drover::bench
