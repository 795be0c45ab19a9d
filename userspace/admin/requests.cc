// SPDX-License-Identifier: MIT
#include "admin/requests.h"

#include <fmt/format.h>

#include "admin/schema.h"

namespace drover::admin {

namespace {

// A verb reads its arguments and asks for the deed. An error it returns is answered at once, and
// `done` is then not called.
using Verb = Result<void> (*)(Commands& commands, const Json& args, Commands::Done done);

Result<void> stop(Commands& commands, const Json& args, Commands::Done done) {
    auto worker = optional_worker(args);
    if (!worker) return tl::unexpected(worker.error());
    commands.stop(*worker, std::move(done));
    return {};
}

Result<void> restart(Commands& commands, const Json& args, Commands::Done done) {
    auto worker = optional_worker(args);
    if (!worker) return tl::unexpected(worker.error());
    commands.restart(*worker, std::move(done));
    return {};
}

Result<void> scale(Commands& commands, const Json& args, Commands::Done done) {
    auto workers = worker_count(args);
    if (!workers) return tl::unexpected(workers.error());
    commands.scale(*workers, std::move(done));
    return {};
}

Result<void> drain(Commands& commands, const Json& args, Commands::Done done) {
    auto worker = optional_worker(args);
    if (!worker) return tl::unexpected(worker.error());
    commands.drain(*worker, std::move(done));
    return {};
}

Result<void> resume(Commands& commands, const Json& args, Commands::Done done) {
    auto worker = optional_worker(args);
    if (!worker) return tl::unexpected(worker.error());
    commands.resume(*worker, std::move(done));
    return {};
}

Result<void> change_weight(Commands& commands, const Json& args, Commands::Done done) {
    auto worker = required_worker(args);
    if (!worker) return tl::unexpected(worker.error());
    auto wanted = weight(args);
    if (!wanted) return tl::unexpected(wanted.error());
    commands.weight(*worker, *wanted, std::move(done));
    return {};
}

Result<void> rescue(Commands& commands, const Json& args, Commands::Done done) {
    auto worker = required_worker(args);
    if (!worker) return tl::unexpected(worker.error());
    commands.rescue(*worker, std::move(done));
    return {};
}

Result<void> send_signal(Commands& commands, const Json& args, Commands::Done done) {
    auto worker = optional_worker(args);
    if (!worker) return tl::unexpected(worker.error());
    auto number = signal_number(args);
    if (!number) return tl::unexpected(number.error());
    commands.signal(*worker, *number, std::move(done));
    return {};
}

Result<void> change_policy(Commands& commands, const Json& args, Commands::Done done) {
    auto wanted = policy(args);
    if (!wanted) return tl::unexpected(wanted.error());
    commands.policy(*wanted, std::move(done));
    return {};
}

Result<void> send_message(Commands& commands, const Json& args, Commands::Done done) {
    auto worker = optional_worker(args);
    if (!worker) return tl::unexpected(worker.error());
    auto data = message_data(args);
    if (!data) return tl::unexpected(data.error());
    commands.send(*worker, *data, std::move(done));
    return {};
}

Result<void> reload(Commands& commands, const Json& args, Commands::Done done) {
    auto wanted = reload_request(args);
    if (!wanted) return tl::unexpected(wanted.error());
    commands.reload(*wanted, std::move(done));
    return {};
}

Result<void> upgrade(Commands& commands, const Json&, Commands::Done done) {
    commands.upgrade(std::move(done));
    return {};
}

Result<void> promote(Commands& commands, const Json&, Commands::Done done) {
    commands.promote(std::move(done));
    return {};
}

Result<void> roll_back(Commands& commands, const Json&, Commands::Done done) {
    commands.roll_back(std::move(done));
    return {};
}

struct NamedVerb {
    std::string_view name;
    Verb call;
};
constexpr NamedVerb kVerbs[] = {
    {"stop", stop},         {"restart", restart},      {"scale", scale},
    {"drain", drain},       {"weight", change_weight}, {"rescue", rescue},
    {"resume", resume},     {"signal", send_signal},   {"policy", change_policy},
    {"send", send_message}, {"reload", reload},        {"promote", promote},
    {"upgrade", upgrade},   {"rollback", roll_back},
};

Verb find_verb(std::string_view name) {
    for (const auto& verb : kVerbs)
        if (verb.name == name) return verb.call;
    return nullptr;
}

Json recent_events(const Commands& commands, const std::string& cluster) {
    Json events = Json::array();
    for (const auto& event : commands.recent_events()) events.push_back(to_json(event, cluster));
    return {{"events", std::move(events)}};
}

// A noun whose answer comes later.
Result<void> probe(Commands& commands, const Json& args, Commands::Asked done) {
    auto worker = required_worker(args);
    if (!worker) return tl::unexpected(worker.error());
    auto path = probed_path(args);
    if (!path) return tl::unexpected(path.error());
    commands.probe(*worker, *path, std::move(done));
    return {};
}

}  // namespace

void answer(Commands& commands, const std::string& cluster, std::string_view line, Asker asker) {
    auto request = parse_request(line);
    if (!request) return asker.reply(to_line(reply_error({}, request.error())));
    auto id = request->id;
    auto refuse = [&](const Error& error) { asker.reply(to_line(reply_error(id, error))); };

    if (request->verb == "status")
        return asker.reply(to_line(reply_ok(id, to_json(commands.status()))));
    if (request->verb == "config")
        return asker.reply(to_line(reply_ok(id, to_json(commands.config()))));
    if (request->verb == "events") {
        auto wants_more = follow(request->args);
        if (!wants_more) return refuse(wants_more.error());
        const auto& recent = commands.recent_events();
        auto reply = to_line(reply_ok(id, recent_events(commands, cluster)));
        // That the reply and what follows see the same sequence numbers is what lets no event be
        // missed or sent twice.
        if (*wants_more) asker.follow(recent.empty() ? 0 : recent.back().seq + 1);
        return asker.reply(reply);
    }
    if (request->verb == "probe") {
        auto tell = [reply = asker.reply, id](const Result<worker::ProbeAnswer>& probed) {
            reply(
                to_line(probed ? reply_ok(id, to_json(*probed)) : reply_error(id, probed.error())));
        };
        if (auto asked = probe(commands, request->args, tell); !asked) refuse(asked.error());
        return;
    }
    Verb verb = find_verb(request->verb);
    if (verb == nullptr)
        return refuse({"unknown-verb", fmt::format("there is no verb \"{}\" here", request->verb)});

    auto done = [reply = asker.reply, id](Result<void> result) {
        reply(to_line(result ? reply_ok(id, Json::object()) : reply_error(id, result.error())));
    };
    if (auto asked = verb(commands, request->args, done); !asked) refuse(asked.error());
}

}  // namespace drover::admin
