// SPDX-License-Identifier: MIT
//
// The effects' part in going on where a master was killed: what of the workers is written down, and
// how a later master gets hold of them again.
//
// A worker is found by its cgroup and its main process's pid and start time. It is no child of this
// master's, so when it ends nobody learns its exit status. It has kept the master's ends of its
// channel open beside its own: a duplicate is fetched from it. Its output goes on to the logger of
// the dead master, which ends with the last of those workers.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <fstream>

#include "base/log.h"
#include "base/sys.h"
#include "supervisor/cluster_effects.h"

namespace drover::supervisor {

void ClusterEffects::save(SavedState state) {
    on_save_again_.reset();
    for (SavedWorker& worker : state.workers) {
        auto found = processes_.find(worker.id);
        if (found == processes_.end()) continue;
        Process& process = found->second;
        worker.pid = process.pid;
        worker.pid_started = process.started;
        worker.slot = process.slot;
        worker.is_node = process.is_node;
        worker.channel_fd = process.channel_fd;
    }
    for (SavedInstance& instance : state.instances)
        if (auto found = former_.find(instance.instance); found != former_.end())
            instance.former = found->second;
    // One that has not even been started cannot be taken over.
    std::erase_if(state.workers, [](const SavedWorker& worker) { return worker.pid == 0; });
    if (notify_) state.notify_address = notify_->address();
    if (state == saved_) return;
    if (auto saved = save_state(paths_, config_.name, state); !saved) {
        if (!std::exchange(save_failed_, true))
            log::warn(
                fmt::format("{}: should this master be killed, the next one cannot take its "
                            "workers over; trying again",
                            saved.error().text));
        constexpr std::chrono::seconds kSaveAgain{5};
        on_save_again_ = loop_.after(kSaveAgain, [this, state] { save(state); });
        return;
    }
    save_failed_ = false;
    saved_ = std::move(state);
}

// Leaves those whose main process lives, and ends what others have left behind.
void ClusterEffects::drop_dead(SavedState& saved) {
    std::erase_if(saved.workers, [](const SavedWorker& worker) {
        return worker.pid_started == 0 || start_of_process(worker.pid) != worker.pid_started;
    });
    for (const std::string& name : cluster_.children()) {
        bool is_known = name == "logger" || name == "keeper" ||
                        std::ranges::any_of(saved.workers, [&](const auto& worker) {
                            return name == fmt::format("w{}", worker.id);
                        });
        if (is_known) continue;
        auto child = Cgroup::open(cluster_.path() + "/" + name);
        if (!child) continue;
        child->kill();
        (void)child->remove();  // where that is too early, it goes with the cluster
    }
    // Where another program was this process before: its helpers, also those that ended meanwhile.
    std::ifstream children("/proc/thread-self/children");
    for (int pid = 0; children >> pid;)
        if (std::ranges::find(saved.workers, pid, &SavedWorker::pid) == saved.workers.end())
            reap_later(pid);
}

void ClusterEffects::reap_later(int pid) {
    auto heirloom = heirlooms_.insert(heirlooms_.end(), Heirloom{Fd(sys::pidfd_open(pid)), {}});
    if (!heirloom->pidfd.is_open()) return heirlooms_.pop_back();
    heirloom->on_end = loop_.on_io(heirloom->pidfd.get(), EPOLLIN, [this, heirloom](uint32_t) {
        if (worker::reap(heirloom->pidfd.get())) heirlooms_.erase(heirloom);
    });
}

std::string ClusterEffects::in_the_way() const {
    if (!steering_->is_calm()) return "a queue is being moved";
    if (leaving_ > 0) return "a worker is ending";
    if (auto busy = channels_->busy())
        return fmt::format("messages of worker {} are on their way", *busy);
    for (const auto& [id, process] : processes_)
        if (process.exec_status.is_open()) return fmt::format("worker {} is starting", id);
    return "";
}

std::vector<int> ClusterEffects::prepare_exec() {
    for (auto& [id, process] : processes_)
        drop_looks(process, {"moved", "the master became another program meanwhile", 0});
    auto keepers = steering_->keepers();
    for (int keeper : keepers) ::fcntl(keeper, F_SETFD, 0);
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && soft_nofile_) {
        files.rlim_cur = std::min<rlim_t>(*soft_nofile_, files.rlim_max);
        (void)::setrlimit(RLIMIT_NOFILE, &files);
    }
    return keepers;
}

void ClusterEffects::undo_prepare_exec() {
    for (int keeper : steering_->keepers()) ::fcntl(keeper, F_SETFD, FD_CLOEXEC);
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return;
    files.rlim_cur = files.rlim_max;
    (void)::setrlimit(RLIMIT_NOFILE, &files);
}

Result<void> ClusterEffects::adopt(const SavedWorker& saved, std::shared_ptr<const Config> config) {
    WorkerId id = saved.id;
    Process& process = processes_[id];
    process.config = std::move(config);
    process.instance = saved.instance;
    process.pid = saved.pid;
    process.started = saved.pid_started;
    process.slot = saved.slot;
    process.channel_fd = saved.channel_fd;
    process.is_node = saved.is_node;
    process.pidfd.reset(sys::pidfd_open(saved.pid));
    if (!process.pidfd.is_open() && errno != ESRCH)
        return fail_errno(errno, fmt::format("take over worker {} (pid {})", id, saved.pid));
    auto cgroup = Cgroup::open(fmt::format("{}/w{}", cluster_.path(), id));
    if (cgroup) process.cgroup = std::move(*cgroup);
    adopt_channel(saved, process);
    // Where it has just ended, its pidfd is not there, and its end is told soon.
    process.on_end = process.pidfd.is_open() ? loop_.on_io(process.pidfd.get(), EPOLLIN,
                                                           [this, id](uint32_t) { on_end(id); })
                                             : loop_.soon([this, id] { on_end(id); });
    return {};
}

void ClusterEffects::adopt_channel(const SavedWorker& saved, const Process& process) {
    if (saved.channel_fd < 0 || !process.pidfd.is_open()) return;
    // The order in which Channels::open() lays them out.
    auto fetch = [&](int offset) {
        return Fd(sys::pidfd_getfd(process.pidfd.get(), saved.channel_fd + offset));
    };
    Fd read_end = fetch(saved.is_node ? 1 : 3);
    Fd write_end = saved.is_node ? Fd() : fetch(2);
    bool is_whole = read_end.is_open() && (saved.is_node || write_end.is_open());
    Result<void> adopted = is_whole ? channels_->adopt(saved.id, saved.is_node, std::move(read_end),
                                                       std::move(write_end))
                                    : fail("closed", "it has closed its ends");
    if (!adopted)
        log::warn(fmt::format("worker {} has no message channel any more: {}", saved.id,
                              adopted.error().text));
}

}  // namespace drover::supervisor
