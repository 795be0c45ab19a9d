// SPDX-License-Identifier: MIT
//
// A cluster's name where none was given: what a person would call the command. That is the program,
// or, where the program is an interpreter, the script or module that it runs.
#include <algorithm>
#include <cctype>
#include <filesystem>
#include <span>

#include "supervisor/config.h"

namespace drover::supervisor {

namespace {

using Words = std::span<const std::string>;

struct Interpreter {
    std::string_view name;
    std::vector<std::string_view> takes_value;  // options whose value is the next word
    std::vector<std::string_view> takes_code;   // options that bring a program instead of a script
    std::vector<std::string_view> subcommands;  // words that may stand before the script
};

const std::vector<Interpreter>& interpreters() {
    static const std::vector<Interpreter> table = {
        {"node",
         {"-r", "--require", "--import", "--loader", "--env-file", "-C", "--conditions", "--title"},
         {"-e", "--eval", "-p", "--print"},
         {}},
        {"nodejs",
         {"-r", "--require", "--import", "--loader"},
         {"-e", "--eval", "-p", "--print"},
         {}},
        {"python", {"-W", "-X"}, {"-c"}, {}},
        {"ruby", {"-I", "-r", "-C", "-E"}, {"-e"}, {}},
        {"perl", {"-I"}, {"-e", "-E"}, {}},
        {"php", {"-S", "-t", "-d", "-c"}, {"-r"}, {}},
        {"bash", {"-o", "-O", "--rcfile", "--init-file"}, {"-c", "-lc", "-ec", "-xc"}, {}},
        {"sh", {"-o"}, {"-c", "-lc", "-ec", "-xc"}, {}},
        {"deno", {"-c", "--config", "--import-map"}, {"eval"}, {"run", "serve"}},
        {"bun", {"-c", "--config", "-r", "--preload"}, {"-e", "--eval"}, {"run"}},
        {"java", {"-cp", "-classpath", "--class-path", "-p", "--module-path"}, {}, {}},
    };
    return table;
}

bool contains(const std::vector<std::string_view>& words, std::string_view word) {
    return std::find(words.begin(), words.end(), word) != words.end();
}

// "/srv/web/" → "web".
std::string file_name(std::string path) {
    while (path.size() > 1 && path.back() == '/') path.pop_back();
    return std::filesystem::path(path).filename();
}

// "/srv/server.js" → "server".
std::string stem(const std::string& path) {
    return std::filesystem::path(file_name(path)).stem();
}

// "python3.11" → python.
const Interpreter* find_interpreter(const std::string& program) {
    auto name = file_name(program);
    name.erase(name.find_last_not_of("0123456789.") + 1);
    for (const auto& interpreter : interpreters())
        if (interpreter.name == name) return &interpreter;
    return nullptr;
}

// What the interpreter is told to run; "" where that has no name.
std::string script_name(const Interpreter& interpreter, Words arguments) {
    if (!arguments.empty() && contains(interpreter.subcommands, arguments.front()))
        arguments = arguments.subspan(1);
    for (size_t i = 0; i < arguments.size(); ++i) {
        const auto& word = arguments[i];
        if (contains(interpreter.takes_code, word)) return "";
        if (word == "-m" && interpreter.name == "python")
            return i + 1 < arguments.size() ? arguments[i + 1] : "";
        if (contains(interpreter.takes_value, word)) {
            ++i;
            continue;
        }
        if (!word.starts_with('-')) return stem(word);
    }
    return "";
}

// Makes it a name: "My App.v2" → "my-app-v2"; "" where no letter is left.
std::string sanitize(const std::string& text) {
    std::string name;
    for (unsigned char c : text) {
        auto lower = static_cast<char>(std::tolower(c));
        bool letter = lower >= 'a' && lower <= 'z';
        bool other = (lower >= '0' && lower <= '9') || lower == '_';
        if (letter || (other && !name.empty())) {
            name += lower;
        } else if (!name.empty() && name.back() != '-') {
            name += '-';
        }
    }
    name.resize(std::min<size_t>(name.size(), 32));
    name.erase(name.find_last_not_of("-_") + 1);
    if (name == "ports") name = "ports-1";  // check_name says why
    return name;
}

}  // namespace

std::string name_from_command(const std::vector<std::string>& command) {
    Words words(command);
    if (!words.empty() && file_name(words.front()) == "env") {  // env NAME=VALUE… CMD
        words = words.subspan(1);
        while (!words.empty() && words.front().find('=') != std::string::npos)
            words = words.subspan(1);
    }
    if (words.empty()) return "cluster";

    if (const auto* interpreter = find_interpreter(words.front())) {
        auto name = sanitize(script_name(*interpreter, words.subspan(1)));
        if (!name.empty()) return name;
    }
    auto name = sanitize(stem(words.front()));
    return name.empty() ? "cluster" : name;
}

}  // namespace drover::supervisor
