// SPDX-License-Identifier: MIT
//
// The controller: a program of the user's that steers the cluster (`--controller CMD`). It is run
// by /bin/sh. On its stdin it gets every event as a JSON line, and the replies to its requests; on
// its stdout it gives the requests of the control socket (requests.h), a line each:
//
//     stdin    {"v":1,"seq":81,"time":"…","cluster":"web","event":"exit", …}
//     stdout   {"v":1,"id":1,"verb":"scale","args":{"n":6}}
//     stdin    {"id":1,"ok":true,"data":{}}
//
// A reply has no "event", an event has no "ok". `events` with {"follow":true} is no error, and
// changes nothing. Its stderr is the master's.
//
// The cluster never depends on it.
// - It dies, with whatever status: its cgroup is killed, and it is started again after 1 s, then
//   2 s, up to 30 s. Events of that time are not kept for it; the new one may ask for `status` and
//   `events`.
// - It writes garbage: an error reply, and that is all.
// - It does not read: at most kMaxQueued bytes wait for it. Beyond that events and replies are
//   dropped and counted, until half of that has been read; then one notice (lost_notice in
//   schema.h) stands where they would have stood. So a script that only ever writes works, too.
// - It asks too much at once: a few requests are taken in each turn of the event loop.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "admin/requests.h"
#include "base/event_loop.h"
#include "base/result.h"
#include "worker/spawn.h"

namespace drover::admin {

class Controller {
  public:
    static constexpr size_t kMaxLine = 1 << 20;    // bytes of a request
    static constexpr size_t kMaxQueued = 4 << 20;  // bytes that wait for the controller
    static constexpr int kMaxPerTurn = 16;         // requests taken in one turn of the event loop
    static constexpr int kMaxPending = 1024;       // not done yet; further ones are refused: "busy"

    struct Setup {
        std::string command;                   // for /bin/sh -c
        std::vector<std::string> environment;  // complete, NAME=VALUE
        std::string cwd;                       // empty: the master's
        std::optional<worker::Identity> identity;
        // The path of a cgroup for it alone; made anew for each process. Empty: the master's own,
        // and then only the shell itself can be ended.
        std::string cgroup;
        bool enter_late = false;                       // sys::CgroupEntry
        std::chrono::milliseconds first_delay{1000};   // before it is started again; also how long
        std::chrono::milliseconds last_delay{30'000};  // it must live to begin with the first anew
    };

    // Starts it. `cluster` is the name that events carry. `told` gets an error of the code
    // "controller" when it has died, or could not be started again. `loop` and `commands` outlive
    // the controller; `told` may not destroy it. The process must ignore SIGPIPE. The error: it
    // could not be started; that its command is no good is only known later, and told.
    static Result<std::unique_ptr<Controller>> open(EventLoop& loop, Setup setup,
                                                    std::string cluster, Commands& commands,
                                                    std::function<void(const Error&)> told);
    // Kills it.
    ~Controller();

    // Gives it an event. To be called for each, in order.
    void publish(const supervisor::Event& event);

    // Lets it end: it gets what waits for it, then the end of its stdin, and what it asks is not
    // done any more. After `deadline` it is killed. `ended` is called once, not from within
    // finish(), when it is gone; it may destroy the controller.
    void finish(std::chrono::milliseconds deadline, std::function<void()> ended);

    [[nodiscard]] int pid() const;  // 0 where none runs
    // Events that were dropped: it did not read, or none ran.
    [[nodiscard]] uint64_t lost_total() const;

  private:
    struct Impl;
    explicit Controller(std::shared_ptr<Impl> impl);
    std::shared_ptr<Impl> impl_;
};

}  // namespace drover::admin
