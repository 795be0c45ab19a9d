// SPDX-License-Identifier: MIT
//
// A crowd of HTTP clients of three classes, for tests of what must not disturb them: a reload, a
// scale, a recycled worker.
//
//     Crowd crowd(crowd_options());
//     …reload…
//     auto result = crowd.stop();
//     INFO(result.text());
//     CHECK(result.failed() == 0);
//
//     new         one request on a connection of its own (`Connection: close`); so many a second,
//                 by plan, whether or not earlier ones are answered
//     keep-alive  one request every 100 ms on a kept connection. A kept connection may be closed at
//                 any time. Between two requests that means nothing but to connect again. While
//                 one is under way and no byte of its answer has come, it is asked once more, on a
//                 new connection, as every HTTP client does (`retried`).
//     long-lived  one slow request after another, each on a connection of its own: practically
//                 always there is one under way
//
// Everything else is a failure: a connection that is refused or reset, an answer that breaks off or
// has another status than 200, none within the client's patience.
//
// One thread with one epoll, from 250 source addresses so that ports do not run out. Of an answer
// only its head is kept, and that is bounded; there are at most rate × patience clients of the
// first class.
#pragma once

#include <atomic>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "harness.h"

namespace drover::test {

struct CrowdOptions {
    int port = 8080;
    int rate = 1'000;      // new connections a second
    int keep_alive = 200;  // clients
    int long_lived = 50;   // clients
    std::string path = "/";
    std::string long_path = "/wait?300";
    Words headers;  // further ones of each request: "Name: value"
    milliseconds patience{30'000};
};

// True when the tests may take long and much: DROVER_TEST_FULL is set.
bool is_full_run();

// The default sizes in a full run, else smaller ones, so that suites can run side by side; and
// fewer clients with more patience on a slow machine (slowness()).
CrowdOptions crowd_options();

class Crowd {
  public:
    explicit Crowd(CrowdOptions options);
    ~Crowd();
    Crowd(const Crowd&) = delete;
    Crowd& operator=(const Crowd&) = delete;

    struct Result {
        int started = 0;   // requests
        int answered = 0;  // whole, with status 200
        int retried = 0;   // of a kept connection that was closed; each of them counts once above
        std::map<std::string, int> failures;  // "new: reset", "long-lived: broke off" …
        std::vector<std::string> first_ones;  // of the failures, ten at most, with their times
        milliseconds slowest{};               // answer, from when its request was due

        [[nodiscard]] int failed() const { return started - answered; }
        [[nodiscard]] int failed_of(const std::string& client) const;  // by class: "new" …
        [[nodiscard]] std::string text() const;
    };
    // Begins no more requests and waits for those under way, up to their deadlines.
    Result stop();
    // Waits until so many more requests were answered than now; false when that took too long.
    bool wait_answered(int more);
    // The same for requests begun, answered or not.
    bool wait_started(int more);
    [[nodiscard]] int started() const { return started_; }

  private:
    CrowdOptions options_;
    std::atomic<bool> stopping_ = false;
    std::atomic<int> started_ = 0;
    std::atomic<int> answered_ = 0;
    Result result_;  // the thread's, until it has ended
    std::thread thread_;
};

// Lets it go on for a moment, and stops it: none of its requests may have failed.
void check_unharmed(Crowd& crowd);

}  // namespace drover::test
