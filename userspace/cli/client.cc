// SPDX-License-Identifier: MIT
//
// The verbs against a running cluster: one request, one reply, and what is printed about it. A
// reply comes when the thing is done, which may take as long as a drain; there is no timeout here.
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/clusters.h"
#include "cli/completion.h"
#include "cli/config_verbs.h"
#include "cli/connection.h"
#include "cli/render.h"
#include "cli/terminal.h"
#include "cli/top.h"
#include "cli/verbs.h"

namespace drover::cli {

namespace {

constexpr std::chrono::minutes kLongestUpgrade{1};

int complain(const Error& error) {
    std::fputs(fmt::format("drover: {}\n", error.text).c_str(), stderr);
    return error.code == "usage" ? kUsage : kFailed;
}

Style style_of_stdout() {
    return {use_color(STDOUT_FILENO), std::chrono::system_clock::now()};
}

// The same JSON, in a form that no terminal takes for commands.
std::string dump(const Json& json) {
    return json.dump(-1, ' ', true, Json::error_handler_t::replace);
}

// The master has another working directory.
std::string policy_argument(const std::string& text) {
    auto policy = supervisor::parse_policy(text);  // parse() checked it
    if (policy->kind != supervisor::Policy::custom) return text;
    return std::filesystem::absolute(policy->file);
}

Json args_of(const Invocation& invocation) {
    Json args = Json::object();
    if (invocation.worker) args["worker"] = *invocation.worker;
    if (invocation.verb == "reload") {
        args["options"] = Json::object();
        for (const auto& [name, value] : invocation.changes) args["options"][name].push_back(value);
        if (!invocation.command.empty()) args["command"] = invocation.command;
        args["parallel"] = invocation.parallel;
        if (!invocation.canary.empty()) args["canary"] = invocation.canary;
    }
    if (invocation.arguments.empty()) return args;
    const auto& argument = invocation.arguments.front();
    if (invocation.verb == "scale") args["n"] = std::stoi(argument);  // parse() checked it
    if (invocation.verb == "policy") args["policy"] = policy_argument(argument);
    if (invocation.verb == "send") args["data"] = Json::parse(argument, nullptr, false);
    if (invocation.verb == "weight") args["weight"] = std::stoi(argument);
    if (invocation.verb == "signal")
        args["signal"] = supervisor::signal_name(*supervisor::parse_signal(argument));
    return args;
}

Error closed_early(const std::string& cluster) {
    return {"closed", fmt::format("the master of cluster {} ended before it answered", cluster), 0};
}

// Sends the request and reads its reply's data.
Result<Json> ask(Connection& connection, const std::string& cluster, const Json& request) {
    if (auto sent = connection.send(request); !sent) return wrap(sent.error(), cluster);
    auto line = connection.read_line();
    if (!line) return wrap(line.error(), cluster);
    if (!*line) return tl::unexpected(closed_early(cluster));
    return parse_reply(**line);
}

int list_clusters(const Invocation& invocation, const Paths& paths) {
    auto clusters = find_clusters(paths);
    if (clusters.denied) return complain(choose_cluster("", {{}, {}, true}).error());
    std::vector<Json> statuses;
    int result = kDone;
    for (const auto& cluster : clusters.running) {
        auto connection = Connection::open(paths.control_socket(cluster));
        if (!connection) continue;  // it ended since
        auto status = ask(*connection, cluster, make_request("status", Json::object()));
        if (status) {
            statuses.push_back(*status);
        } else {
            result = complain(status.error());
        }
    }
    if (invocation.json) {
        put(dump(Json(statuses)) + "\n");
        return result;
    }
    if (!statuses.empty()) put(render_clusters(statuses, style_of_stdout()));
    for (const auto& cluster : clusters.dead)
        put(choose_cluster(cluster, clusters).error().text + "\n");
    if (statuses.empty() && clusters.dead.empty())
        put(choose_cluster("", clusters).error().text + "\n");
    return result;
}

int show_status(Connection& connection, const Invocation& invocation) {
    auto status = ask(connection, invocation.cluster, make_request("status", Json::object()));
    if (!status) return complain(status.error());
    if (invocation.json) {
        put(dump(*status) + "\n");
    } else {
        put(render_status(*status, style_of_stdout()));
    }
    return kDone;
}

// Done where the worker answers as one that is well.
int probe(Connection& connection, const Invocation& invocation) {
    auto args = args_of(invocation);
    args["path"] = invocation.arguments.front();
    auto answer = ask(connection, invocation.cluster, make_request("probe", args));
    if (!answer) return complain(answer.error());
    put(invocation.json ? dump(*answer) + "\n" : render_probe(*answer));
    int status = answer->value("status", 0);
    return status >= 200 && status <= 399 ? kDone : kFailed;
}

void print_event(const Json& event, const Invocation& invocation) {
    put(invocation.json ? dump(event) + "\n" : render_event(event, style_of_stdout()));
}

int show_events(Connection& connection, const Invocation& invocation) {
    auto request = make_request("events", {{"follow", invocation.follow}});
    auto data = ask(connection, invocation.cluster, request);
    if (!data) return complain(data.error());
    if (data->is_object() && data->contains("events"))
        for (const auto& event : (*data)["events"]) print_event(event, invocation);
    std::fflush(stdout);
    while (invocation.follow) {
        auto line = connection.read_line();
        if (!line) return complain(line.error());
        if (!*line) break;  // the cluster ended
        auto event = Json::parse(**line, nullptr, false);
        if (event.is_discarded()) continue;
        print_event(event, invocation);
        std::fflush(stdout);
    }
    return kDone;
}

// What was done, in one line.
std::string done_text(const Invocation& invocation) {
    auto who = invocation.cluster;
    if (invocation.worker) who += fmt::format("/{}", *invocation.worker);
    auto argument = invocation.arguments.empty() ? "" : invocation.arguments.front();
    const auto& verb = invocation.verb;
    if (verb == "stop") return fmt::format("stopped {}", who);
    if (verb == "restart") return fmt::format("restarted {}", who);
    if (verb == "scale") return fmt::format("{} has {} workers", who, argument);
    if (verb == "drain" && !invocation.worker)
        return fmt::format(
            "load balancers are told to send nothing new to {0}; it serves on, until \"drover "
            "resume {0}\"",
            who);
    if (verb == "resume" && !invocation.worker)
        return fmt::format("load balancers may send connections to {} again", who);
    if (verb == "drain")
        return fmt::format("drained {}; it gets no new connections until \"drover resume {}\"", who,
                           who);
    if (verb == "resume") return fmt::format("resumed {}", who);
    if (verb == "weight") return fmt::format("{} has weight {}", who, argument);
    if (verb == "rescue") return fmt::format("moved what waited for {}", who);
    if (verb == "signal")
        return fmt::format("sent SIG{} to {}",
                           supervisor::signal_name(*supervisor::parse_signal(argument)), who);
    if (verb == "send") return fmt::format("sent to {}", who);
    if (verb == "reload" && !invocation.canary.empty())
        return fmt::format(
            "the canary of {0} serves: \"drover promote {0}\" has its release for all, "
            "\"drover rollback {0}\" takes it back",
            who);
    if (verb == "reload") return fmt::format("reloaded {}", who);
    if (verb == "promote") return fmt::format("promoted {}", who);
    if (verb == "rollback") return fmt::format("rolled {} back", who);
    return fmt::format("{}: policy {}", who, argument);
}

// Each instance's steps are told as they come.
void print_progress(const Json& event) {
    const auto& data = event["data"];
    const auto& worker = event["worker"];
    if (!worker.is_object() || !data.is_object()) return;
    std::string step;
    if (event["event"] == "fork") step = "has started; waiting until it is ready";
    if (event["event"] == "ready") step = "is ready";
    if (event["event"] == "reload" && data.value("phase", "") == "worker")
        step =
            fmt::format("has taken over, {} of {}", data.value("done", 0), data.value("total", 0));
    if (step.empty()) return;
    put(fmt::format("instance {}: worker {} of generation {} {}\n", worker.value("instance", 0),
                    worker.value("id", 0), worker.value("generation", 0), step));
    std::fflush(stdout);
}

// A rollout takes its time, so it is watched: its events and its reply come over one connection.
int roll_out(Connection& connection, const Invocation& invocation) {
    auto followed = ask(connection, invocation.cluster, make_request("events", {{"follow", true}}));
    if (!followed) return complain(followed.error());
    auto sent = connection.send(make_request(invocation.verb, args_of(invocation)));
    if (!sent) return complain(wrap(sent.error(), invocation.cluster).value());
    for (;;) {
        auto line = connection.read_line();
        if (!line) return complain(line.error());
        if (!*line) return complain(closed_early(invocation.cluster));
        auto json = Json::parse(**line, nullptr, false);
        if (json.is_object() && json.contains("event")) {
            print_progress(json);
            continue;
        }
        auto data = parse_reply(**line);
        if (!data) return complain(data.error());
        put(done_text(invocation) + "\n");
        return kDone;
    }
}

// Where it goes well the master becomes another program, and there is no reply: the connection
// ends, and the new one answers under the same pid.
int upgrade(Connection& connection, const Invocation& invocation, const Paths& paths) {
    auto before = ask(connection, invocation.cluster, make_request("status", Json::object()));
    if (!before) return complain(before.error());
    auto reply = ask(connection, invocation.cluster, make_request("upgrade", Json::object()));
    if (reply || reply.error().code != "closed")
        return complain(reply ? Error{"protocol", "the master has not changed", 0} : reply.error());
    // As long as it begins, which on a slow machine takes a while.
    auto master = connection.master();
    auto end = std::chrono::steady_clock::now() + kLongestUpgrade;
    while (std::chrono::steady_clock::now() < end) {
        pollfd ended{.fd = master.get(), .events = POLLIN, .revents = 0};
        if (::poll(&ended, 1, 50) > 0) break;
        auto again = Connection::open(paths.control_socket(invocation.cluster));
        if (!again) continue;
        auto after = ask(*again, invocation.cluster, make_request("status", Json::object()));
        if (!after) continue;
        put(fmt::format("upgraded {}: drover {}, before {}\n", invocation.cluster,
                        after->value("version", "?"), before->value("version", "?")));
        return kDone;
    }
    return complain({"upgrade-failed",
                     fmt::format("the new master of {0} does not answer: its workers serve on, and "
                                 "\"drover run\" of that name takes them over",
                                 invocation.cluster),
                     0});
}

int change(Connection& connection, const Invocation& invocation) {
    bool ends_master = invocation.verb == "stop" && !invocation.worker;
    auto data =
        ask(connection, invocation.cluster, make_request(invocation.verb, args_of(invocation)));
    if (!data && !(ends_master && data.error().code == "closed")) return complain(data.error());
    // The reply comes just before the master's end; the closed socket is the end.
    while (ends_master) {
        auto line = connection.read_line();
        if (!line || !*line) break;
    }
    put(done_text(invocation) + "\n");
    return kDone;
}

}  // namespace

Result<Json> status_of(const std::string& cluster, const Paths& paths) {
    auto connection = Connection::open(paths.control_socket(cluster));
    if (!connection) return tl::unexpected(connection.error());
    return ask(*connection, cluster, make_request("status", Json::object()));
}

int run_client(const Invocation& given, const Paths& paths) {
    if (given.verb == "ls") return list_clusters(given, paths);
    if (given.verb == "top" && !given.json) return run_top(given.cluster, paths);
    if (given.verb == "config check") return check_config(given);
    if (given.verb == "completion") return print_completion(given.arguments.front());
    auto cluster = choose_cluster(given.cluster, find_clusters(paths));
    if (!cluster) return complain(cluster.error());
    auto invocation = given;
    invocation.cluster = *cluster;

    auto connection = Connection::open(paths.control_socket(*cluster));
    if (!connection) return complain(connection.error());
    if (invocation.verb == "status" || invocation.verb == "top")  // top --json
        return show_status(*connection, invocation);
    if (invocation.verb == "config show") return show_config(*connection, invocation);
    if (invocation.verb == "events") return show_events(*connection, invocation);
    if (invocation.verb == "probe") return probe(*connection, invocation);
    if (invocation.verb == "upgrade") return upgrade(*connection, invocation, paths);
    for (const char* verb : {"reload", "promote", "rollback"})
        if (invocation.verb == verb) return roll_out(*connection, invocation);
    return change(*connection, invocation);
}

}  // namespace drover::cli
