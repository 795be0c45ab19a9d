// SPDX-License-Identifier: MIT
//
// What workers say, over their channels and by sd_notify. A message is an event and, where it is
// for other workers, is passed on to them.
#include <fmt/format.h>

#include "supervisor/supervisor.h"

namespace drover::supervisor {

void Supervisor::on_status_text(WorkerId id, const std::string& text) {
    if (Worker* worker = find(id)) worker->status_text = text;
}

void Supervisor::on_ready_message(WorkerId id) {
    Worker* worker = find(id);
    if (worker == nullptr) return;
    worker->said_ready = true;
    check_ready(*worker);
    settle();
}

// A message to other workers passes through the master, which tells of it like of its own.
void Supervisor::on_message(WorkerId id, const std::string& data, worker::Address to) {
    Worker* sender = find(id);
    if (sender == nullptr) return;
    tell(EventKind::message, sender, MessageData{id, to, data});
    if (to.kind == worker::Address::Kind::master) return;
    if (to.kind == worker::Address::Kind::worker && find(to.worker) == nullptr)
        return on_trouble(id, {"no-such-worker",
                               fmt::format("worker {} sent a message to worker {}, which there is "
                                           "not",
                                           id, to.worker)});
    for (const auto& [other, worker] : workers_) {
        bool wanted = to.kind == worker::Address::Kind::all ? other != id : other == to.worker;
        if (!wanted || !worker.pid) continue;
        if (auto sent = effects_.send(other, data, id); !sent)
            on_trouble(other, {sent.error().code,
                               fmt::format("a message of worker {} for worker {} was lost: {}", id,
                                           other, sent.error().text)});
    }
}

void Supervisor::on_disconnect(WorkerId id) {
    if (Worker* worker = find(id)) tell(EventKind::disconnect, worker);
    settle();
}

}  // namespace drover::supervisor
