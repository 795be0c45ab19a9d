// SPDX-License-Identifier: MIT
//
// Replacing workers by new ones, instance by instance: one plan for reload, canary, promote,
// rollback and recycle. Pure: the supervisor starts what the plan says, and tells it what became of
// it (rollouts.cc).
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "supervisor/config.h"
#include "supervisor/types.h"

namespace drover::supervisor {

// What `drover reload` was asked for.
struct ReloadRequest {
    std::vector<std::pair<std::string, std::string>> options;  // name and value, as for `run`
    std::vector<std::string> command;                          // empty: as it is
    int parallel = 1;             // instances that are replaced at the same time
    std::optional<Share> canary;  // no more than these, until promote or rollback
};

// The configuration with the request's options and command in it. An option that may be given
// several times gets one more value. Error "usage": an option that is unknown, bad, or cannot
// change while the cluster runs; the text names it.
Result<Config> changed_config(Config base, const ReloadRequest& request);

// The same where the cluster has a file, or gets one (the option `config`): that is read anew. What
// was said on the command line, at the start or in a reload, wins over it. Where the file's number
// of workers or policy is another than it was, that is told: both can change while the cluster
// runs. Error "usage": what it cannot be, with the file's line.
struct Changed {
    Config config;
    std::optional<PolicyChoice> policy;
    std::optional<int> workers;
};
Result<Changed> changed_by_file(const Config& before, const ReloadRequest& request);
// Whether it is that.
bool is_by_file(const Config& before, const ReloadRequest& request);

class Rollout {
  public:
    Rollout(const std::vector<int>& instances, int parallel)
        : waiting_(instances.begin(), instances.end()),
          total_(static_cast<int>(instances.size())),
          parallel_(parallel) {}

    // The instances whose replacement is to be started now. They are under way until they are
    // replaced or dropped.
    std::vector<int> next();
    void replaced(int instance);
    void dropped(int instance);  // it is no longer wanted
    void add(int instance);      // one more

    [[nodiscard]] bool is_under_way(int instance) const { return under_way_.contains(instance); }
    [[nodiscard]] const std::set<int>& under_way() const { return under_way_; }
    [[nodiscard]] bool is_over() const { return waiting_.empty() && under_way_.empty(); }
    [[nodiscard]] int done() const { return done_; }
    [[nodiscard]] int total() const { return total_; }

  private:
    std::deque<int> waiting_;
    std::set<int> under_way_;
    int done_ = 0;
    int total_ = 0;
    int parallel_ = 1;
};

// What is known of a worker's age.
struct WorkerAge {
    std::chrono::milliseconds up{};
    uint64_t memory_bytes = 0;
    uint64_t accepted_total = 0;
    double jitter = 0;  // 0 to 1, the worker's own: so that not all are due at the same time
};
// Whether the worker is to be replaced before it gets worse, and the sentence why. Up to a tenth of
// --max-lifetime is taken off by its jitter.
struct Due {
    ExitReason reason{};
    std::string why;
};
std::optional<Due> is_due(const Config& config, const WorkerAge& age);
// Whether is_due() ever says yes / has to know memory and connections.
bool has_limits(const Config& config);
bool has_counted_limits(const Config& config);

}  // namespace drover::supervisor
