// SPDX-License-Identifier: MIT
//
// The tests' HTTP client: single requests, held connections, and an open-loop load.
#pragma once

#include <atomic>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "harness.h"

namespace drover::test {

// One answer, or why there was none ("refused", "reset", "closed", "timeout" …).
struct Reply {
    std::string body;
    std::string error;  // empty: answered
    [[nodiscard]] bool ok() const { return error.empty(); }
};

// A connection that the test holds in its hand.
class Connection {
  public:
    // Connects within the deadline; error() says why not. `client` is the address to connect from,
    // where it must be a certain one.
    Connection(const std::string& address, int port, milliseconds deadline = kDeadline,
               const std::string& client = {});

    [[nodiscard]] const std::string& error() const { return error_; }
    bool send_request(const std::string& path, bool keep_alive);
    Reply receive();
    Reply get(const std::string& path);  // keep-alive
    void close() { fd_.reset(); }

  private:
    Fd fd_;
    std::string error_;
    milliseconds deadline_;
};

// One request on a connection of its own.
Reply get(const std::string& address, int port, const std::string& path = "/",
          milliseconds deadline = kDeadline, const std::string& client = {});

// Who answered, out of "pid P instance I worker W"; -1 where the answer does not say.
int instance_in(const std::string& body);
int pid_in(const std::string& body);

// Makes `requests` one after another and counts them by instance; -1 counts failures.
std::map<int, int> spread(const std::string& address, int port, int requests);

// Opens `rate` new connections a second, on a slow machine fewer (slowness()), whether or not
// earlier ones are answered, until stopped.
class Load {
  public:
    Load(std::string address, int port, int rate);
    ~Load();

    struct Result {
        int started = 0;
        int answered = 0;
        std::map<std::string, int> failures;  // by kind
        [[nodiscard]] int failed() const { return started - answered; }
        [[nodiscard]] std::string text() const;  // "3,000 started, 2 failed: reset 2"
    };
    // Opens no more, waits for all that are open, up to the deadline each one has.
    Result stop();
    // Waits until so many more were answered than now; false when that took too long.
    bool wait_answered(int more);
    // The same for connections begun, answered or not.
    bool wait_started(int more);

  private:
    void work();
    std::string address_;
    int port_;
    int rate_;
    std::atomic<bool> stopping_ = false;
    std::atomic<int> started_ = 0;
    std::atomic<int> answered_ = 0;
    Result result_;
    std::thread thread_;
};

}  // namespace drover::test

// So that a failed check shows who answered how often.
template <>
struct doctest::StringMaker<std::map<int, int>> {
    static String convert(const std::map<int, int>& shares) {
        std::string text;
        for (auto [instance, count] : shares)
            text += "instance " + std::to_string(instance) + ": " + std::to_string(count) + "; ";
        return text.c_str();
    }
};
