// SPDX-License-Identifier: MIT
#include "worker/node_command.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "worker/exec_error.h"

namespace drover::worker {

namespace {

bool is_node_name(const std::string& path) {
    std::string name = std::filesystem::path(path).filename();
    return name == "node" || name == "nodejs";
}

}  // namespace

bool is_node_shebang(std::string_view first_line) {
    if (!first_line.starts_with("#!")) return false;
    std::istringstream words{std::string(first_line.substr(2))};
    std::string word;
    words >> word;
    if (std::filesystem::path(word).filename() != "env") return is_node_name(word);
    while (words >> word && (word.starts_with("-") || word.find('=') != std::string::npos)) {
    }
    return is_node_name(word);
}

bool is_node(const SpawnRequest& request) {
    if (request.command.empty()) return false;
    if (is_node_name(request.command.front())) return true;
    for (const std::string& candidate : program_candidates(request)) {
        std::string path = candidate.starts_with('/') || request.cwd.empty()
                               ? candidate
                               : request.cwd + "/" + candidate;
        std::ifstream file(path);
        if (!file) continue;
        std::string line(128, '\0');
        file.read(line.data(), static_cast<std::streamsize>(line.size()));
        line.resize(static_cast<size_t>(file.gcount()));
        return is_node_shebang(std::string_view(line).substr(0, line.find('\n')));
    }
    return false;
}

}  // namespace drover::worker
