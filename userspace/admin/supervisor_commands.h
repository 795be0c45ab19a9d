// SPDX-License-Identifier: MIT
//
// Joins what can be asked (requests.h) to the supervisor: each noun and verb is passed on as it is.
#pragma once

#include "admin/requests.h"
#include "supervisor/supervisor.h"

namespace drover::admin {

class SupervisorCommands final : public Commands {
  public:
    // `supervisor` outlives this object.
    // The upgrade is not the supervisor's business.
    SupervisorCommands(supervisor::Supervisor& supervisor, std::function<void(Done)> upgrade)
        : supervisor_(supervisor), upgrade_(std::move(upgrade)) {}

    [[nodiscard]] supervisor::Status status() const override { return supervisor_.status(); }
    [[nodiscard]] const std::deque<supervisor::Event>& recent_events() const override {
        return supervisor_.recent_events();
    }
    [[nodiscard]] supervisor::Config config() const override { return supervisor_.config(); }

    void stop(std::optional<WorkerId> worker, Done done) override {
        supervisor_.stop(worker, std::move(done));
    }
    void restart(std::optional<WorkerId> worker, Done done) override {
        supervisor_.restart(worker, std::move(done));
    }
    void scale(int workers, Done done) override { supervisor_.scale(workers, std::move(done)); }
    void drain(std::optional<WorkerId> worker, Done done) override {
        supervisor_.drain(worker, std::move(done));
    }
    void probe(WorkerId worker, const std::string& path, Asked done) override {
        supervisor_.probe(worker, path, std::move(done));
    }
    void resume(std::optional<WorkerId> worker, Done done) override {
        supervisor_.resume(worker, std::move(done));
    }
    void weight(WorkerId worker, int weight, Done done) override {
        supervisor_.weight(worker, weight, std::move(done));
    }
    void rescue(WorkerId worker, Done done) override {
        supervisor_.rescue(worker, std::move(done));
    }
    void signal(std::optional<WorkerId> worker, int number, Done done) override {
        supervisor_.signal(worker, number, std::move(done));
    }
    void policy(const supervisor::PolicyChoice& policy, Done done) override {
        supervisor_.policy(policy, std::move(done));
    }
    void reload(const supervisor::ReloadRequest& request, Done done) override {
        supervisor_.reload(request, std::move(done));
    }
    void upgrade(Done done) override { upgrade_(std::move(done)); }
    void promote(Done done) override { supervisor_.promote(std::move(done)); }
    void roll_back(Done done) override { supervisor_.roll_back(std::move(done)); }
    void send(std::optional<WorkerId> worker, const std::string& data, Done done) override {
        supervisor_.send(worker, data, std::move(done));
    }

  private:
    supervisor::Supervisor& supervisor_;
    std::function<void(Done)> upgrade_;
};

}  // namespace drover::admin
