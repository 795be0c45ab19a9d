// SPDX-License-Identifier: MIT
//
// The effects' looks at whether a worker answers: for --ready, for health checks, and by hand. Each
// is a connection that reaches just that worker through the port that all share.
#include "supervisor/cluster_effects.h"

namespace drover::supervisor {

namespace {

constexpr std::chrono::milliseconds kByHand{10'000};

}  // namespace

void ClusterEffects::probe(WorkerId id, const std::string& path,
                           std::chrono::milliseconds timeout) {
    look(id, path, worker::Wants::good_status, timeout,
         [this, id](const Result<worker::ProbeAnswer>& answer) {
             if (!answer && answer.error().code == "ended") return;  // that is told otherwise
             observer_->on_probed(id, answer ? Result<void>() : tl::unexpected(answer.error()));
         });
}

void ClusterEffects::ask(WorkerId id, const std::string& path, Asked tell) {
    look(id, path, worker::Wants::whole_answer, kByHand, std::move(tell));
}

// The first of the named ports, else the lowest that it listens on.
void ClusterEffects::look(WorkerId id, const std::string& path, worker::Wants wants,
                          std::chrono::milliseconds timeout, Asked tell) {
    auto found = processes_.find(id);
    if (found == processes_.end()) return tell(fail("ended", "the worker has ended"));
    std::optional<int> port;
    if (!config_.ports.empty())
        port = config_.ports.front().number;
    else if (!config_.listen.empty())
        port = config_.listen.front().number;
    uint64_t number = ++last_look_;
    Look& look = *(found->second.looks[number] = std::make_unique<Look>());
    look.tell = std::move(tell);
    look.moved_before = steering_->moved_from(static_cast<uint32_t>(id));
    auto end = [this, id, number](Result<worker::ProbeAnswer> result) {
        end_look(id, number, std::move(result));
    };
    auto connection = steering_->connect_to(static_cast<uint32_t>(id), port);
    if (!connection) {
        look.on_failed =
            loop_.soon([end, error = connection.error()] { end(tl::unexpected(error)); });
        return;
    }
    look.connection.emplace(std::move(*connection));
    look.probe.emplace(loop_, look.connection->socket(), path, look.connection->server().text(),
                       wants, timeout, end);
}

void ClusterEffects::end_look(WorkerId id, uint64_t number, Result<worker::ProbeAnswer> result) {
    auto process = processes_.find(id);
    if (process == processes_.end()) return;
    auto over = process->second.looks.extract(number);  // ends when we return
    if (over.empty()) return;
    Look& look = *over.mapped();
    // While it waited, the connection may have gone to another worker like the others in the queue.
    if (result && steering_->moved_from(static_cast<uint32_t>(id)) != look.moved_before)
        result = fail("moved", "what waited for it was moved to other workers meanwhile");
    look.tell(std::move(result));
}

void ClusterEffects::drop_looks(Process& process, const Error& why) {
    for (auto& [number, look] : std::exchange(process.looks, {})) look->tell(tl::unexpected(why));
}

}  // namespace drover::supervisor
