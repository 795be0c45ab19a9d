// SPDX-License-Identifier: MIT
//
// A new drover in the place of the running one: the master becomes the program that is installed
// now (execve), under the same pid, and that goes on with its workers as after a killed master
// (take_over.cc); with the keepers' sockets besides, so that nobody is refused meanwhile.
//
// First the installed program is asked, in a process of its own, whether it can: then it reads what
// is written down, and looks whether this machine is good for it. One that cannot, or is no drover,
// leaves the running one as it is.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"
#include "supervisor/cluster_effects.h"
#include "worker/spawn.h"

namespace drover::supervisor {

// What the installed program says when it can, and nothing else.
constexpr const char* kCanGoOn = "drover can go on\n";
// The keepers' numbers, for the program that goes on.
constexpr const char* kKeeperFds = "DROVER_KEEPER_FDS";

class Upgrade {
  public:
    // `program` is the path by which this one was started. All must outlive this object.
    Upgrade(EventLoop& loop, ClusterEffects& effects, std::string program, std::string cluster)
        : loop_(loop),
          effects_(effects),
          program_(std::move(program)),
          cluster_(std::move(cluster)) {}

    // The new program gets that descriptor, too, and its number in that variable.
    void pass_on(std::string variable, int fd) { passed_on_[std::move(variable)] = fd; }

    // Does not return where all goes well; `failed` is called where it does not. Error codes:
    // "unsafe" (who could have written it?), "upgrade-failed", "bad-state".
    void start(std::function<void(Error)> failed);

  private:
    void fail(std::string code, std::string text);
    void read_answer();
    void answered();
    void become_it(int looks);
    void offer(bool offered);

    EventLoop& loop_;
    ClusterEffects& effects_;
    std::string program_;
    std::string cluster_;
    std::map<std::string, int> passed_on_;
    std::function<void(Error)> failed_;
    worker::Process process_;
    Fd answer_;
    std::string text_;
    EventLoop::Source on_answer_, on_end_, on_late_, on_look_;
};

}  // namespace drover::supervisor
