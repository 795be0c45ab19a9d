// SPDX-License-Identifier: MIT
//
// The socket that workers notify: the NOTIFY_SOCKET of sd_notify(3), one for a cluster.
//
// Its address is in the abstract namespace ("@drover/web/1f…", as systemd allows): the run folder
// is root's alone, and a worker with a user of its own could not reach a path in it. Abstract means
// that every process of the network namespace can reach it, so nothing is believed because it
// arrived: the kernel says which process has sent a datagram (SCM_CREDENTIALS, which only root can
// fake), its cgroup says whose it is, and what comes from no worker is counted and forgotten. The
// random part of the address is there so that nobody can take it first. A worker in a network
// namespace of its own does not reach the socket.
//
// The cgroup is looked up after the fact. A sender that is gone and reaped by then, as may happen
// to a helper that does not wait, cannot be attributed: it is counted, and that is all.
// `systemd-notify` does wait: it sends a descriptor (BARRIER=1) and waits until that is closed
// here.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"
#include "worker/notify_parse.h"

namespace drover::worker {

class NotifyObserver {
  public:
    virtual ~NotifyObserver() = default;
    virtual void on_notify_ready(uint64_t worker) = 0;
    virtual void on_notify_stopping(uint64_t worker) = 0;
    // As Notification::status. Told before `ready` where both came in one datagram.
    virtual void on_notify_status(uint64_t worker, const std::string& text) = 0;
    virtual void on_notify_watchdog(uint64_t worker) = 0;  // it says that it is alive
    // It wishes to be waited for as long from now on.
    virtual void on_notify_watchdog_interval(uint64_t /*worker*/, std::chrono::microseconds) {}
};

class NotifySocket {
  public:
    // Datagrams taken in one turn of the event loop.
    static constexpr int kMaxPerTurn = 8;

    // The worker whose process is in that cgroup; nothing where it is none's. The path is as in
    // /proc/PID/cgroup, "/drover/web/w7": it begins at the root of the cgroup namespace. A worker
    // may have made cgroups below its own.
    using FindWorker = std::function<std::optional<uint64_t>(const std::string& cgroup_path)>;

    // A new address for the cluster, as it stands in NOTIFY_SOCKET. A later master of the same
    // workers must use the same one.
    static Result<std::string> make_address(const std::string& cluster);

    // Binds to the address, which begins with '@'. `loop` and `observer` must outlive the socket;
    // the observer's calls may not destroy it.
    static Result<std::unique_ptr<NotifySocket>> open(EventLoop& loop, const std::string& address,
                                                      FindWorker find_worker,
                                                      NotifyObserver& observer);

    [[nodiscard]] const std::string& address() const { return address_; }

    // Datagrams that nobody was told of.
    [[nodiscard]] uint64_t foreign_total() const { return foreign_total_; }  // of no worker
    [[nodiscard]] uint64_t gone_total() const { return gone_total_; }        // sender unknown
    // Of a worker, but not understood (parse_notification).
    [[nodiscard]] uint64_t malformed_total() const { return malformed_total_; }

  private:
    NotifySocket(std::string address, FindWorker find_worker, NotifyObserver& observer)
        : address_(std::move(address)), find_worker_(std::move(find_worker)), observer_(observer) {}

    void receive();
    void take(int sender, std::string_view datagram);
    void tell(uint64_t worker, const Notification& notification);

    std::string address_;
    FindWorker find_worker_;
    NotifyObserver& observer_;
    Fd socket_;
    EventLoop::Source source_;
    uint64_t foreign_total_ = 0;
    uint64_t gone_total_ = 0;
    uint64_t malformed_total_ = 0;
};

// The path in the line of cgroup v2 ("0::…") of a /proc/PID/cgroup file's content. Nothing where
// there is none. Pure.
std::optional<std::string> unified_cgroup(std::string_view content);

}  // namespace drover::worker
