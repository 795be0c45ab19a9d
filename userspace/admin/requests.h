// SPDX-License-Identifier: MIT
//
// What a running cluster can be asked, and the answers: the requests of the control socket and of
// the controller, which are the same. Where lines come from and replies go to is the caller's
// business.
//
//     {"v":1,"id":1,"verb":"scale","args":{"n":6}}
//     {"id":1,"ok":true,"data":{}}
//
// Replies come in the order in which things are done, which need not be that of the requests. A
// verb goes on when its asker has gone; only the reply is lost.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "supervisor/config.h"
#include "supervisor/effects.h"
#include "supervisor/rollout.h"
#include "supervisor/types.h"

namespace drover::admin {

// What may be asked for: the supervisor's nouns and verbs, with its error codes.
class Commands {
  public:
    using Done = std::function<void(Result<void>)>;  // called once, at once or later
    using WorkerId = supervisor::WorkerId;

    virtual ~Commands() = default;

    [[nodiscard]] virtual supervisor::Status status() const = 0;
    [[nodiscard]] virtual const std::deque<supervisor::Event>& recent_events() const = 0;
    [[nodiscard]] virtual supervisor::Config config() const = 0;

    virtual void stop(std::optional<WorkerId> worker, Done done) = 0;
    virtual void restart(std::optional<WorkerId> worker, Done done) = 0;
    virtual void scale(int workers, Done done) = 0;
    virtual void drain(std::optional<WorkerId> worker, Done done) = 0;
    virtual void resume(std::optional<WorkerId> worker, Done done) = 0;
    using Asked = supervisor::Effects::Asked;
    virtual void probe(WorkerId worker, const std::string& path, Asked done) = 0;
    virtual void weight(WorkerId worker, int weight, Done done) = 0;
    virtual void rescue(WorkerId worker, Done done) = 0;
    virtual void signal(std::optional<WorkerId> worker, int number, Done done) = 0;
    virtual void policy(const supervisor::PolicyChoice& policy, Done done) = 0;
    virtual void reload(const supervisor::ReloadRequest& request, Done done) = 0;
    // Answered only where it fails: then the connection stays.
    virtual void upgrade(Done done) = 0;
    virtual void promote(Done done) = 0;
    virtual void roll_back(Done done) = 0;
    // `data` is JSON text.
    virtual void send(std::optional<WorkerId> worker, const std::string& data, Done done) = 0;
};

// Who asks.
struct Asker {
    // Is given the reply, a line without its end: once, at once or later.
    std::function<void(std::string_view line)> reply;
    // `events` with {"follow":true}: it wants every event from this seq on. Called before the
    // reply, which has those before.
    std::function<void(uint64_t next_seq)> follow;
};

// Does what one line (without its end) asks for. `cluster` is the name that events carry.
void answer(Commands& commands, const std::string& cluster, std::string_view line, Asker asker);

}  // namespace drover::admin
