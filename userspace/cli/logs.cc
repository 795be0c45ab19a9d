// SPDX-License-Identifier: MIT
#include "cli/logs.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "base/safe_text.h"
#include "cli/client.h"
#include "cli/clusters.h"
#include "cli/log_files.h"
#include "cli/log_journal.h"
#include "cli/terminal.h"

namespace drover::cli {

namespace {

constexpr uint64_t kUsualLines = 100;
constexpr const char* kReset = "\033[0m";
// Not red: that is for what is wrong.
constexpr std::array kColors = {"\033[36m", "\033[33m", "\033[32m",
                                "\033[35m", "\033[34m", "\033[96m"};

// The clusters that have left a log file.
std::vector<std::string> logged_clusters(const Paths& paths) {
    std::vector<std::string> names;
    std::error_code error;
    for (auto entry = std::filesystem::directory_iterator(paths.log_root, error);
         !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
        if (entry->path().extension() == ".log") names.push_back(entry->path().stem());
    std::ranges::sort(names);
    return names;
}

// A cluster, and where its lines are: a file, "journal", or "" where nothing keeps them.
struct Source {
    std::string cluster;
    std::string log;
};

Result<Source> log_of_running(const std::string& cluster, const Paths& paths) {
    auto status = status_of(cluster, paths);
    if (!status) return tl::unexpected(status.error());
    auto log = status->find("log");
    return Source{cluster, log != status->end() && log->is_string() ? log->get<std::string>() : ""};
}

// One that does not run, or whose master was killed.
Result<Source> log_of_past(const std::string& cluster, const Paths& paths,
                           const std::string& file) {
    std::error_code error;
    for (const std::string& one : {file, paths.log_file(cluster)})
        if (!one.empty() && std::filesystem::exists(one, error)) return Source{cluster, one};
    if (journal_has(cluster)) return Source{cluster, "journal"};
    auto known = logged_clusters(paths);
    return fail(
        "no-cluster",
        fmt::format(
            "no cluster {} runs here, and none has left a log{}", cluster,
            known.empty() ? "" : fmt::format(" (there are logs of: {})", fmt::join(known, ", "))));
}

Result<Source> find_source(const std::string& named, const Paths& paths,
                           const std::function<std::string(const std::string&)>& file_of_dead) {
    auto clusters = find_clusters(paths);
    if (clusters.denied) return tl::unexpected(choose_cluster(named, clusters).error());
    auto runs = [&](const std::string& name) {
        return std::ranges::find(clusters.running, name) != clusters.running.end();
    };
    std::string cluster = named;
    if (named.empty() && clusters.running.size() == 1) cluster = clusters.running.front();
    if (named.empty() && clusters.running.empty()) {
        auto& dead = clusters.dead;
        auto logged = logged_clusters(paths);
        if (dead.size() == 1) cluster = dead.front();
        if (dead.empty() && logged.size() == 1) cluster = logged.front();
        if (dead.empty() && logged.size() > 1)
            return fail("usage", fmt::format("no cluster runs here: name one, there are logs of {}",
                                             fmt::join(logged, ", ")));
    }
    if (cluster.empty()) return tl::unexpected(choose_cluster("", clusters).error());
    if (runs(cluster)) return log_of_running(cluster, paths);
    return log_of_past(cluster, paths, file_of_dead(cluster));
}

// To others than root it looks as if there were none.
Error explained(Error error, const Paths& paths) {
    if (::geteuid() == 0 || (error.code != "no-cluster" && error.number != EACCES)) return error;
    return {"denied",
            fmt::format("there is no log that you may read: those in {} and in the journal are "
                        "root's alone: run it with sudo",
                        paths.log_root),
            0};
}

}  // namespace

std::string render_log_line(const LogLine& line, const std::string& cluster, bool color) {
    auto text = made_safe(line.text);
    if (color && text.find('\033') != std::string::npos) text += kReset;
    if (line.stream == LogStream::drover)
        return fmt::format("{} drover: {}\n", format_time(line.time), text);
    auto instance = line.worker ? line.worker->instance : 0;
    auto who = fmt::format("[{}/{}]", cluster, instance);
    if (color)
        who = kColors[static_cast<size_t>(std::max(instance, 0)) % kColors.size()] + who + kReset;
    return fmt::format("{} {} {}\n", format_time(line.time), who, text);
}

Json to_json(const LogLine& line, const std::string& cluster) {
    Json worker = nullptr;
    if (line.worker) worker = {{"id", line.worker->id}, {"instance", line.worker->instance}};
    return {{"v", 1},           {"time", format_time(line.time)}, {"cluster", cluster},
            {"worker", worker}, {"stream", name_of(line.stream)}, {"text", line.text}};
}

int show_logs(const Invocation& invocation, const Paths& paths,
              const std::function<std::string(const std::string& cluster)>& file_of_dead) {
    auto complain = [](const std::string& text, int status) {
        std::fputs(fmt::format("drover: {}\n", text).c_str(), stderr);
        return status;
    };
    auto source = find_source(invocation.cluster, paths, file_of_dead);
    if (!source)
        return complain(explained(source.error(), paths).text,
                        source.error().code == "usage" ? kUsage : kFailed);
    if (source->log.empty())
        return complain(
            fmt::format("cluster {} keeps no log: it runs with --log-file none", source->cluster),
            kFailed);
    LogQuery query{source->cluster, invocation.worker, invocation.last, invocation.since,
                   invocation.follow};
    if (!query.last && !query.since) query.last = kUsualLines;
    bool color = use_color(STDOUT_FILENO);
    auto tell = [&](const LogLine& line) {
        put(invocation.json
                ? to_json(line, query.cluster).dump(-1, ' ', true, Json::error_handler_t::replace) +
                      "\n"
                : render_log_line(line, query.cluster, color));
        return !query.follow || std::fflush(stdout) == 0;
    };
    auto read = source->log == "journal" ? read_log_journal(query, tell)
                                         : read_log_files(source->log, query, tell);
    if (read) return kDone;
    if (read.error().number == ENOENT) return kDone;  // it has printed nothing yet
    return complain(explained(read.error(), paths).text, kFailed);
}

}  // namespace drover::cli
