// SPDX-License-Identifier: MIT
//
// The master as a systemd service (Type=notify): what it tells systemd, and where its cgroups are.
//
// It says READY=1 when the cluster is ready for the first time, RELOADING=1 and READY=1 around a
// reload, STOPPING=1, and a line of STATUS= when that has changed; the event loop feeds the
// watchdog. Without NOTIFY_SOCKET all of this is nothing. An upgrade keeps pid and environment, so
// the new program goes on telling.
//
// The unit's cgroup is delegated (Delegate=yes), so the cluster's cgroup is made there: what
// systemd limits and counts holds for the workers, and nobody writes into systemd's tree. The
// master itself goes into a cgroup beside it, since a cgroup with controllers for its children may
// not have processes of its own. No controller is switched on: systemd could not start a master in
// a unit with living workers then.
#pragma once

#include <optional>
#include <string>

#include "base/event_loop.h"
#include "supervisor/supervisor.h"

namespace drover::admin {

class Service {
  public:
    explicit Service(EventLoop& loop);

    // Events change what there is to tell.
    void on_event(const supervisor::Event& event, const supervisor::Supervisor& supervisor);
    // The same without an event: after a take-over all may be ready already.
    void look(const supervisor::Supervisor& supervisor);
    // The supervisor is asked no more.
    void detach() { later_.reset(); }

  private:
    void tell(const std::string& news, const supervisor::Status& status);

    EventLoop& loop_;
    bool is_service_;
    bool told_ready_ = false;
    bool told_stopping_ = false;
    bool is_reloading_ = false;
    std::string told_status_;
    EventLoop::Source later_;
};

// "4 of 4 ready on [::]:80; generation 2"
std::string status_text(const supervisor::Status& status, bool is_reloading);

// Moves this process into a sub-cgroup of its unit's. Returns the unit's, for the cluster to be
// made in; nothing where this is no systemd service, or has no cgroup of its own to divide.
std::optional<std::string> enter_unit();

}  // namespace drover::admin
