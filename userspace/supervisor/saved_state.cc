// SPDX-License-Identifier: MIT
#include "supervisor/saved_state.h"

#include <drover/steer_abi.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/fd.h"

namespace drover::supervisor {

namespace {

using Json = nlohmann::json;

constexpr int kVersion = 1;

std::string path_of(const Paths& paths, const std::string& cluster) {
    return paths.run(cluster) + "/state.json";
}

// As the user gave it: each option as a text, so that it is read back by what read it first.
Json to_json(const Config& config) {
    return {{"name", config.name},
            {"cwd", config.cwd},
            {"options", config.given.all},
            {"command", config.command},
            {"file_env", config.file_env},
            {"workers", config.workers.value_or(1)},
            {"source",
             {{"file", config.source.file},
              {"options", config.source.options},
              {"command", config.source.command}}}};
}

// Absent from what an older drover wrote down: then there was no file.
Source source_of(const Json& config) {
    Source source;
    if (!config.contains("source")) return source;
    const Json& json = config.at("source");
    source.file = json.at("file");
    source.options = json.at("options").get<std::vector<std::pair<std::string, std::string>>>();
    source.command = json.at("command").get<std::vector<std::string>>();
    return source;
}

Result<Config> config_of(const Json& json) {
    Config config;
    for (const auto& [name, value] :
         json.at("options").get<std::vector<std::pair<std::string, std::string>>>())
        if (auto set = set_option(config, name, value); !set) return tl::unexpected(set.error());
    config.name = json.at("name");
    config.cwd = json.at("cwd");
    config.command = json.at("command").get<std::vector<std::string>>();
    config.file_env = json.at("file_env").get<std::vector<std::string>>();
    config.workers = json.at("workers").get<int>();
    config.source = source_of(json);
    return complete(std::move(config));
}

template <class T>
Json or_null(const std::optional<T>& value) {
    return value ? Json(*value) : Json(nullptr);
}

std::optional<int> optional_int(const Json& json) {
    return json.is_null() ? std::nullopt : std::optional(json.get<int>());
}

// An argument or a variable may be no UTF-8, which a JSON text has to be: such a string is written
// as {"bytes": […]}, so that it is read back as it was.
void write_as_bytes_where_no_utf8(Json& json) {
    if (json.is_structured()) {
        for (Json& element : json) write_as_bytes_where_no_utf8(element);
        return;
    }
    if (!json.is_string()) return;
    try {
        (void)json.dump();
    } catch (const Json::type_error&) {
        Json bytes = Json::array();
        for (unsigned char byte : json.get_ref<const std::string&>()) bytes.push_back(byte);
        json = {{"bytes", bytes}};
    }
}

void read_bytes(Json& json) {
    if (json.is_object() && json.size() == 1 && json.contains("bytes")) {
        std::string text;
        for (const Json& byte : json.at("bytes")) text += static_cast<char>(byte.get<uint8_t>());
        json = text;
    } else if (json.is_structured()) {
        for (Json& element : json) read_bytes(element);
    }
}

// Throws where something is missing or of another type: parse_saved_state() catches it.
Result<SavedState> state_of(const Json& json) {
    SavedState state;
    for (const Json& release : json.at("releases")) {
        auto config = config_of(release.at("config"));
        if (!config) return tl::unexpected(config.error());
        state.releases[release.at("generation").get<int>()] = std::move(*config);
    }
    state.stable = json.at("stable");
    state.trial = optional_int(json.at("trial"));
    state.is_canary = json.at("is_canary");
    state.former = optional_int(json.at("former"));
    state.last_generation = json.at("last_generation");
    state.last_id = json.at("last_id");
    state.is_drained = json.value("is_drained", false);
    state.policy = json.at("policy");
    state.notify_address = json.at("notify_address");
    for (const Json& one : json.at("instances"))
        state.instances.push_back({one.at("instance"),
                                   one.at("generation"),
                                   one.at("weight"),
                                   one.at("restarts_total"),
                                   {one.value("former_accepted_total", uint64_t(0)),
                                    one.value("former_cpu_ms_total", uint64_t(0))}});
    for (const Json& one : json.at("workers"))
        state.workers.push_back({one.at("id"), one.at("instance"), one.at("generation"),
                                 one.at("is_ready"), one.at("is_held"), one.at("is_leaving"),
                                 one.at("started_at_ms"), one.at("pid"), one.at("pid_started"),
                                 one.at("slot"), one.at("is_node"), one.at("channel_fd"),
                                 one.value("is_unhealthy", false), one.value("is_out", false),
                                 one.value("is_stalled", false)});
    auto is_known = [&](int generation) { return state.releases.contains(generation); };
    bool all_known = is_known(state.stable) && (!state.trial || is_known(*state.trial)) &&
                     (!state.former || is_known(*state.former));
    for (const SavedInstance& one : state.instances) all_known &= is_known(one.generation);
    for (const SavedWorker& one : state.workers)
        all_known &= is_known(one.generation) && one.slot >= 0 &&
                     one.slot < static_cast<int>(DROVER_KEEPER_SLOT);
    if (!all_known || state.instances.empty())
        return fail("unusable", "what it left written down does not fit together");
    return state;
}

}  // namespace

std::string to_text(const SavedState& state) {
    Json releases = Json::array(), instances = Json::array(), workers = Json::array();
    for (const auto& [generation, config] : state.releases)
        releases.push_back({{"generation", generation}, {"config", to_json(config)}});
    for (const SavedInstance& one : state.instances)
        instances.push_back({{"instance", one.instance},
                             {"generation", one.generation},
                             {"weight", one.weight},
                             {"restarts_total", one.restarts_total},
                             {"former_accepted_total", one.former.accepted_total},
                             {"former_cpu_ms_total", one.former.cpu_ms_total}});
    for (const SavedWorker& one : state.workers)
        workers.push_back({{"id", one.id},
                           {"instance", one.instance},
                           {"generation", one.generation},
                           {"is_ready", one.is_ready},
                           {"is_held", one.is_held},
                           {"is_leaving", one.is_leaving},
                           {"started_at_ms", one.started_at_ms},
                           {"pid", one.pid},
                           {"pid_started", one.pid_started},
                           {"slot", one.slot},
                           {"is_node", one.is_node},
                           {"channel_fd", one.channel_fd},
                           {"is_unhealthy", one.is_unhealthy},
                           {"is_out", one.is_out},
                           {"is_stalled", one.is_stalled}});
    Json json = {{"v", kVersion},
                 {"maps", DROVER_ABI_VERSION},
                 {"releases", releases},
                 {"stable", state.stable},
                 {"trial", or_null(state.trial)},
                 {"is_canary", state.is_canary},
                 {"former", or_null(state.former)},
                 {"last_generation", state.last_generation},
                 {"last_id", state.last_id},
                 {"is_drained", state.is_drained},
                 {"policy", state.policy},
                 {"notify_address", state.notify_address}};
    write_as_bytes_where_no_utf8(json);
    // Numbers alone, and moved: this is done with each change of each of up to 256 workers.
    json["instances"] = std::move(instances);
    json["workers"] = std::move(workers);
    return json.dump(1);
}

// The library throws; nothing of that leaves this function.
Result<SavedState> parse_saved_state(const std::string& text) {
    try {
        Json json = Json::parse(text);
        read_bytes(json);
        if (json.at("v") != kVersion || json.at("maps") != DROVER_ABI_VERSION)
            return fail("unusable", "it was of another version of drover");
        return state_of(json);
    } catch (const Json::exception&) {
        return fail("unusable", "what it left written down cannot be read");
    }
}

Config config_of(const SavedState& saved) {
    Config config = saved.releases.at(saved.stable);
    if (auto policy = parse_policy(saved.policy)) config.policy = *policy;
    config.workers = static_cast<int>(saved.instances.size());
    return config;
}

Result<Changes> changes_since(const SavedState& saved, const Config& wanted) {
    Changes changes;
    changes.before = config_of(saved);
    bool differs = wanted.command != changes.before.command || wanted.cwd != changes.before.cwd ||
                   wanted.file_env != changes.before.file_env;
    for (const Option& option : option_table()) {
        if (option.name == "name" || option.name == "config") continue;
        auto now = values_of(wanted, option), before = values_of(changes.before, option);
        if (option.name == "policy") {
            if (!now.empty() && wanted.policy != changes.before.policy)
                changes.policy = wanted.policy;
        } else if (option.name == "workers") {
            if (!now.empty() && wanted.workers != changes.before.workers)
                changes.workers = wanted.workers;
        } else if (now == before) {
            continue;
        } else if (!option.fixed.empty()) {
            return fail(
                "usage",
                fmt::format("--{} was otherwise in the cluster whose workers live on: give it "
                            "as it was, or end them with \"drover stop {}\" first",
                            option.name, wanted.name));
        } else {
            differs = true;
        }
    }
    if (!differs) return changes;
    changes.release = wanted;
    changes.release->policy = changes.before.policy;
    return changes;
}

Result<void> save_state(const Paths& paths, const std::string& cluster, const SavedState& state) {
    std::string path = path_of(paths, cluster), fresh = path + ".new", text = to_text(state);
    Fd file(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file.is_open()) return fail_errno(errno, fmt::format("write {}", fresh));
    std::string_view rest = text;
    while (!rest.empty()) {
        ssize_t size = ::write(file.get(), rest.data(), rest.size());
        if (size < 0 && errno == EINTR) continue;
        if (size < 0) return fail_errno(errno, fmt::format("write {}", fresh));
        rest.remove_prefix(static_cast<size_t>(size));
    }
    if (::rename(fresh.c_str(), path.c_str()) != 0)
        return fail_errno(errno, fmt::format("replace {}", path));
    return {};
}

Result<SavedState> load_state(const Paths& paths, const std::string& cluster) {
    std::string path = path_of(paths, cluster);
    Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    struct stat info {};
    if (!file.is_open() || ::fstat(file.get(), &info) != 0)
        return fail("unusable", fmt::format("it has left no {}", path));
    if (info.st_uid != ::geteuid() || (info.st_mode & 022) != 0)
        return fail("unusable", fmt::format("{} could have been written by others", path));
    std::string text(static_cast<size_t>(info.st_size), '\0');
    if (::read(file.get(), text.data(), text.size()) != info.st_size)
        return fail("unusable", fmt::format("{} cannot be read", path));
    return parse_saved_state(text);
}

// The 22nd field; the second one, the program's name, may have spaces and brackets in it.
uint64_t start_of_process(int pid) {
    std::ifstream file(fmt::format("/proc/{}/stat", pid));
    std::string line;
    std::getline(file, line);
    auto bracket = line.rfind(')');
    if (bracket == std::string::npos) return 0;
    std::istringstream fields(line.substr(bracket + 1));
    constexpr int kBetween = 19;  // of the fields 3 to 21
    std::string skipped;
    for (int i = 0; i < kBetween; i++) fields >> skipped;
    uint64_t start = 0;
    fields >> start;
    return fields ? start : 0;
}

}  // namespace drover::supervisor
