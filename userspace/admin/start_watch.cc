// SPDX-License-Identifier: MIT
#include "admin/start_watch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "admin/narrator.h"
#include "base/log.h"

namespace drover::admin {

StartWatch::StartWatch(Fd to_starter, EventLoop& loop, supervisor::Supervisor& cluster)
    : to_starter_(std::move(to_starter)), loop_(loop), cluster_(cluster) {
    // Of a pipe without a reader EPOLLERR is told, asked for or not.
    on_starter_gone_ =
        loop_.on_io(to_starter_.get(), 0, [this](uint32_t) { give_up("start was interrupted"); });
}

void StartWatch::on_event(const supervisor::Event& event) {
    using supervisor::EventKind;
    if (!to_starter_.is_open()) return;
    if (event.kind == EventKind::restart_limit) return give_up("a worker is given up");
    if (event.kind != EventKind::ready) return;
    auto status = cluster_.status();
    if (status.ready >= status.wanted) tell(ready_text(status));
}

void StartWatch::tell(const std::string& text) {
    if (!to_starter_.is_open()) return;
    auto line = fmt::format("drover: {}\n", text);
    [[maybe_unused]] auto written = ::write(to_starter_.get(), line.data(), line.size());
    on_starter_gone_.reset();
    to_starter_.reset();
    // Nobody reads any more what is printed: the logger has it.
    Fd null(::open("/dev/null", O_WRONLY | O_CLOEXEC));
    ::dup2(null.get(), STDOUT_FILENO);
    ::dup2(null.get(), STDERR_FILENO);
}

// Not at once: an event is told in the middle of things. The pipe stays open until the master's
// end, which the starter waits for.
void StartWatch::give_up(const std::string& why) {
    on_starter_gone_.reset();
    if (stop_soon_.is_active()) return;
    stop_soon_ = loop_.soon([this, why] {
        auto status = cluster_.status();
        std::string text = why;
        for (const auto& worker : status.workers)
            if (worker.state == supervisor::State::failed)
                text += fmt::format(" (instance {}: {})", worker.instance,
                                    worker.reason.value_or("failed"));
        log::error(fmt::format("{}: {} before all workers were ready: it is stopped",
                               status.cluster, text));
        cluster_.stop(std::nullopt, [](const Result<void>&) {});
    });
}

}  // namespace drover::admin
