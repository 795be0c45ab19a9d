// SPDX-License-Identifier: MIT
//
// What the person who runs `drover run` in a terminal reads of the cluster's life: the events that
// matter, a line each on standard error. All of them are in `drover events`.
#pragma once

#include <string>

#include "supervisor/supervisor.h"

namespace drover::admin {

// "[::]:80, 0.0.0.0:80"; empty where nothing listens.
std::string endpoints_text(const supervisor::Status& status);
// "web: 4 workers are ready on 0.0.0.0:80".
std::string ready_text(const supervisor::Status& status);

class Narrator {
  public:
    explicit Narrator(std::string cluster) : cluster_(std::move(cluster)) {}

    // `status` is only asked for when all workers have become ready.
    void on_event(const supervisor::Event& event, const supervisor::Supervisor& supervisor);

  private:
    void tell_reload(const supervisor::ReloadData& data, const supervisor::Event& event,
                     const supervisor::Supervisor& supervisor) const;

    std::string cluster_;
    bool told_ready_ = false;
};

}  // namespace drover::admin
