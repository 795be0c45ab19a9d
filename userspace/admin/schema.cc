// SPDX-License-Identifier: MIT
#include "admin/schema.h"

#include <fmt/format.h>

#include <climits>

namespace drover::admin {

using namespace supervisor;

namespace {

constexpr int kVersion = 1;

template <class T>
Json or_null(const std::optional<T>& value) {
    return value ? Json(*value) : Json(nullptr);
}

Json or_null(const std::optional<WallTime>& time) {
    return time ? Json(format_time(*time)) : Json(nullptr);
}

Json or_null(const std::string& text) {
    return text.empty() ? Json(nullptr) : Json(text);
}

Json to_json(const GroupStatus& group) {
    return {{"proto", group.proto},   {"addr", group.addr},     {"port", group.port},
            {"v6only", group.v6only}, {"active", group.active}, {"parked", group.parked}};
}

Json to_json(const Exit& exit) {
    return {{"code", or_null(exit.code)},
            {"signal", or_null(exit.signal)},
            {"reason", name_of(exit.reason)}};
}

Json to_json(const WorkerStatus& worker) {
    Json out = {{"id", worker.id},
                {"instance", worker.instance},
                {"slot", or_null(worker.slot)},
                {"generation", worker.generation},
                {"pid", or_null(worker.pid)},
                {"state", name_of(worker.state)},
                {"flags", worker.flags},
                {"reason", or_null(worker.reason)},
                {"retry_at", or_null(worker.retry_at)},
                {"started_at", or_null(worker.started_at)},
                {"restarts_total", worker.restarts_total},
                {"live", or_null(worker.live)},
                {"queued", or_null(worker.queued)},
                {"accepted_total", or_null(worker.accepted_total)},
                {"weight", worker.weight},
                {"cpu_ms_total", worker.cpu_ms_total},
                {"memory_bytes", worker.memory_bytes},
                {"log_dropped_total", worker.log_dropped_total},
                {"last_exit", worker.last_exit ? to_json(*worker.last_exit) : Json(nullptr)}};
    if (worker.load) out["load"] = *worker.load;
    if (worker.status) out["status"] = *worker.status;  // only of a worker that has said it
    return out;
}

Json to_json(const Decisions& decisions) {
    return {{"picked", decisions.picked}, {"fallback", decisions.fallback},
            {"keeper", decisions.keeper}, {"dropped", decisions.dropped},
            {"moved", decisions.moved},   {"stray", decisions.stray},
            {"pinned", decisions.pinned}};
}

Json to_json(const WorkerRef& worker) {
    return {{"id", worker.id},
            {"instance", worker.instance},
            {"slot", worker.slot},
            {"pid", worker.pid},
            {"generation", worker.generation}};
}

template <class T>
Json list(const std::vector<T>& items) {
    Json out = Json::array();
    for (const auto& item : items) out.push_back(to_json(item));
    return out;
}

// The data of an event: one overload a kind.
Json data_of(const std::monostate&) {
    return Json::object();
}

Json data_of(const ListeningData& data) {
    return {{"proto", data.proto}, {"addr", data.addr}, {"port", data.port}};
}

Json data_of(const ExitData& data) {
    return {{"code", or_null(data.exit.code)},
            {"signal", or_null(data.exit.signal)},
            {"uptime_ms", data.uptime.count()},
            {"reason", name_of(data.exit.reason)}};
}

Json data_of(const StateData& data) {
    return {
        {"from", name_of(data.from)}, {"to", name_of(data.to)}, {"reason", or_null(data.reason)}};
}

Json data_of(const ErrorData& data) {
    return {{"code", data.code}, {"text", data.text}};
}

Json data_of(const ConflictData& data) {
    return {{"port", data.port},
            {"pid", data.pid != 0 ? Json(data.pid) : Json(nullptr)},
            {"command", or_null(data.command)},
            {"text", data.text}};
}

Json data_of(const ScaledData& data) {
    return {{"from", data.from}, {"to", data.to}};
}

Json data_of(const RestartLimitData& data) {
    return {{"restarts", data.restarts}, {"within_ms", data.within.count()}};
}

Json data_of(const StalledData& data) {
    return {{"queued", data.queued}};
}

Json data_of(const RescuedData& data) {
    return {{"moved", data.moved}};
}

Json data_of(const RecoveredData& data) {
    return {{"after_ms", data.after.count()}};
}

Json data_of(const ReloadData& data) {
    return {{"phase", name_of(data.phase)},
            {"done", data.done},
            {"total", data.total},
            {"error", or_null(data.error)}};
}

Json data_of(const MessageData& data) {
    using Kind = worker::Address::Kind;
    Json from = data.from != 0 ? Json(data.from) : Json("master");
    Json to = data.to.kind == Kind::worker ? Json(data.to.worker)
              : data.to.kind == Kind::all  ? Json("all")
                                           : Json("master");
    // What the JSON library cannot hold (a number like 1e999) is shown as null.
    Json value = Json::parse(data.data, nullptr, /*allow_exceptions=*/false);
    return {{"from", from}, {"to", to}, {"data", value.is_discarded() ? Json(nullptr) : value}};
}

// Whether arrays and objects lie in each other deeper than allowed. Looked at before the parser is
// let loose, for its memory grows with the depth. Brackets within strings do not count.
bool is_too_deep(std::string_view text) {
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.size(); ++i) {
        char c = text[i];
        if (in_string) {
            if (c == '\\') ++i;
            if (c == '"') in_string = false;
            continue;
        }
        if (c == '"') in_string = true;
        if (c == '[' || c == '{') ++depth;
        if (c == ']' || c == '}') --depth;
        if (depth > kMaxRequestDepth) return true;
    }
    return false;
}

tl::unexpected<Error> bad_request(std::string text) {
    return fail("bad-request", std::move(text));
}
tl::unexpected<Error> bad_value(std::string text) {
    return fail("bad-value", std::move(text));
}

// The member of that name; null where it is absent.
const Json& member(const Json& object, const char* name) {
    static const Json kAbsent = nullptr;
    auto found = object.find(name);
    return found == object.end() ? kAbsent : *found;
}

// An integer from `least` to `most`; nothing for whatever else.
std::optional<int64_t> integer(const Json& json, int64_t least, int64_t most) {
    if (!json.is_number_integer()) return std::nullopt;
    if (json.is_number_unsigned() && json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
        return std::nullopt;
    auto value = json.get<int64_t>();
    if (value < least || value > most) return std::nullopt;
    return value;
}

}  // namespace

Json to_json(const Status& status) {
    return {{"v", kVersion},
            {"cluster", status.cluster},
            {"pid", status.pid},
            {"version", status.version},
            {"state", status.state},
            {"drained", status.is_drained},
            {"policy", status.policy},
            {"generation", status.generation},
            {"wanted", status.wanted},
            {"ready", status.ready},
            {"log", or_null(status.log)},
            {"groups", list(status.groups)},
            {"workers", list(status.workers)},
            {"decisions_total", to_json(status.decisions_total)},
            {"corrections_total", status.corrections_total},
            {"moved_total", status.moved_total}};
}

Json to_public_json(const Status& status) {
    Json json = to_json(status);
    for (Json& worker : json["workers"]) worker.erase("reason");
    return json;
}

// What was given, as it was; else the default. The number of workers and the policy can have been
// changed since.
Json to_json(const Config& config) {
    Json options = Json::object();
    for (const Option& option : option_table()) {
        if (option.name == "config") continue;
        auto values = values_of(config, option);
        if (option.name == "name") values = {config.name};
        if (option.name == "cwd" && !config.cwd.empty()) values = {config.cwd};
        if (option.name == "workers" && config.workers) values = {std::to_string(*config.workers)};
        if (option.name == "policy")
            values = {config.policy == Policy::custom ? config.policy.file
                                                      : name_of(config.policy)};
        if (values.empty() && !option.initial.empty()) values = {std::string(option.initial)};
        if (values.empty()) continue;
        options[key_of(option)] = option.repeatable ? Json(values) : Json(values.front());
    }
    return {{"v", kVersion},
            {"cluster", config.name},
            {"file", or_null(config.source.file)},
            {"options", std::move(options)},
            {"command", config.command}};
}

Json to_json(const Event& event, const std::string& cluster) {
    return {{"v", kVersion},
            {"seq", event.seq},
            {"time", format_time(event.time)},
            {"cluster", cluster},
            {"event", name_of(event.kind)},
            {"worker", event.worker ? to_json(*event.worker) : Json(nullptr)},
            {"data", std::visit([](const auto& data) { return data_of(data); }, event.data)}};
}

Json to_json(const worker::ProbeAnswer& answer) {
    return {{"status", answer.status},
            {"line", answer.line},
            {"took_ms", static_cast<double>(answer.took.count()) / 1000},
            {"body_bytes", answer.body_bytes},
            {"body", answer.body}};
}

Json lost_notice(const Event& latest, const Lost& lost, const std::string& cluster) {
    Event notice;
    notice.seq = latest.seq;
    notice.time = latest.time;
    notice.kind = EventKind::error;
    notice.data =
        ErrorData{"lost", fmt::format("dropped, for they were not read in time: {} events and {} "
                                      "replies",
                                      lost.events, lost.replies)};
    Json json = to_json(notice, cluster);
    json["data"]["events"] = lost.events;
    json["data"]["replies"] = lost.replies;
    return json;
}

std::string to_line(const Json& json) {
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json reply_ok(int64_t id, Json data) {
    Json reply = {{"id", id}, {"ok", true}};
    reply["data"] = std::move(data);
    return reply;
}

Json reply_error(std::optional<int64_t> id, const Error& error) {
    return {{"id", or_null(id)},
            {"ok", false},
            {"error", {{"code", error.code}, {"text", error.text}}}};
}

Result<Request> parse_request(std::string_view line) {
    if (line.size() > kMaxRequestBytes) return bad_request("a request is at most 1 MiB long");
    // The parser takes a NUL for the end of its input and would pass over what follows.
    if (line.find('\0') != std::string_view::npos) return bad_request("a request has no NUL byte");
    if (is_too_deep(line))
        return bad_request(fmt::format("a request nests at most {} levels", kMaxRequestDepth));
    Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded())
        return bad_request("a request is one JSON value in UTF-8, in one line");
    if (!json.is_object()) return bad_request("a request is a JSON object");
    if (!integer(member(json, "v"), kVersion, kVersion))
        return bad_request(fmt::format("\"v\" must be {}", kVersion));

    auto id = integer(member(json, "id"), INT64_MIN, INT64_MAX);
    if (!id) return bad_request("\"id\" must be an integer of 64 bits");
    const Json& verb = member(json, "verb");
    if (!verb.is_string() || verb.get_ref<const std::string&>().empty())
        return bad_request("\"verb\" must be a string that is not empty");
    const Json& args = member(json, "args");
    if (!args.is_object() && !args.is_null()) return bad_request("\"args\" must be an object");
    return Request{*id, verb.get<std::string>(), args.is_null() ? Json::object() : args};
}

Result<std::optional<WorkerId>> optional_worker(const Json& args) {
    const Json& json = member(args, "worker");
    if (json.is_null()) return std::nullopt;
    auto id = integer(json, 1, INT64_MAX);
    if (!id) return bad_value("\"worker\" must be the id of a worker: 1 or above");
    return static_cast<WorkerId>(*id);
}

Result<WorkerId> required_worker(const Json& args) {
    auto worker = optional_worker(args);
    if (!worker) return tl::unexpected(worker.error());
    if (!*worker) return bad_value("\"worker\" is missing: the id of the worker that is meant");
    return **worker;
}

Result<std::string> probed_path(const Json& args) {
    const Json& json = member(args, "path");
    if (!json.is_string() || !is_http_path(json.get_ref<const std::string&>()))
        return bad_value("\"path\" must be like \"/health\"");
    return json.get<std::string>();
}

Result<int> worker_count(const Json& args) {
    auto count = integer(member(args, "n"), 0, INT_MAX);
    if (!count) return bad_value("\"n\" must be the wanted number of workers");
    return static_cast<int>(*count);
}

Result<int> weight(const Json& args) {
    auto weight = integer(member(args, "weight"), 0, INT_MAX);
    if (!weight) return bad_value("\"weight\" must be a number: 1 to 100");
    return static_cast<int>(*weight);
}

Result<int> signal_number(const Json& args) {
    const Json& json = member(args, "signal");
    auto number = integer(json, 1, INT_MAX);
    if (!number && !json.is_string())
        return bad_value("\"signal\" must be a signal's name or number, such as \"HUP\"");
    auto signal = parse_signal(number ? std::to_string(*number) : json.get<std::string>());
    if (!signal) return bad_value(signal.error().text);
    return *signal;
}

Result<PolicyChoice> policy(const Json& args) {
    const Json& json = member(args, "policy");
    if (!json.is_string()) return bad_value("\"policy\" must be the name of a policy");
    auto policy = parse_policy(json.get_ref<const std::string&>());
    if (!policy) return bad_value(policy.error().text);
    // Relative to what? The asker's folder is not known here.
    if (policy->kind == Policy::custom && !policy->file.starts_with('/'))
        return bad_value("the path of a policy must begin with /");
    return *policy;
}

Result<ReloadRequest> reload_request(const Json& args) {
    ReloadRequest request;
    const Json& options = member(args, "options");
    if (!options.is_null() && !options.is_object())
        return bad_value("\"options\" must be an object of options and their values");
    for (const auto& [name, given] : options.items()) {
        for (const Json& value : given.is_array() ? given : Json::array({given})) {
            if (!value.is_string())
                return bad_value(
                    fmt::format("the option \"{}\" must be a string, as on the command "
                                "line, or a list of them",
                                name));
            request.options.emplace_back(name, value);
        }
    }
    const Json& command = member(args, "command");
    if (!command.is_null() && !command.is_array())
        return bad_value("\"command\" must be a list of words");
    for (const Json& word : command) {
        if (!word.is_string()) return bad_value("\"command\" must be a list of words");
        request.command.push_back(word);
    }
    const Json& parallel = member(args, "parallel");
    auto number = parallel.is_null() ? std::optional<int64_t>(1) : integer(parallel, 1, 256);
    if (!number) return bad_value("\"parallel\" must be a number of instances: 1 to 256");
    request.parallel = static_cast<int>(*number);
    const Json& canary = member(args, "canary");
    if (canary.is_null()) return request;
    if (!canary.is_string()) return bad_value("\"canary\" must be like \"2\" or \"10%\"");
    auto share = parse_share(canary.get_ref<const std::string&>());
    if (!share) return bad_value(share.error().text);
    request.canary = *share;
    return request;
}

Result<std::string> message_data(const Json& args) {
    if (!args.contains("data"))
        return bad_value("\"data\" is missing: the message, any JSON value");
    return args["data"].dump();
}

Result<bool> follow(const Json& args) {
    const Json& json = member(args, "follow");
    if (json.is_null()) return false;
    if (!json.is_boolean()) return bad_value("\"follow\" must be true or false");
    return json.get<bool>();
}

}  // namespace drover::admin
