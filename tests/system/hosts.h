// SPDX-License-Identifier: MIT
//
// Further hosts beside a sandbox: network namespaces, each joined to the sandbox's by a cable. All
// of them end with the test, for nothing else keeps them.
//
//     Host one(sandbox, 1);                 10.77.1.1 here, 10.77.1.2 there
//     Words command = one.there({"curl", "http://10.77.1.1/"});
#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <thread>

#include "harness.h"

namespace drover::test {

class Host {
  public:
    Host(Sandbox& sandbox, int number) : number_(number) {
        std::thread([this] {
            if (::unshare(CLONE_NEWNET) == 0)
                network_.reset(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
        }).join();
        REQUIRE(network_.is_open());
        auto here = fmt::format("host{}", number);
        auto run = [&](const Words& command) {
            auto outcome = sandbox.run(
                {.command = command, .extra_environment = {}, .identity = {}, .cwd = {}});
            REQUIRE_MESSAGE(outcome.status == 0, outcome.err);
        };
        run({"ip", "link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", path()});
        run({"ip", "address", "add", fmt::format("10.77.{}.1/24", number), "dev", here});
        run({"ip", "link", "set", here, "up"});
        run(there({"ip", "address", "add", address() + "/24", "dev", "eth0"}));
        run(there({"ip", "link", "set", "eth0", "up"}));
        run(there({"ip", "link", "set", "lo", "up"}));
    }

    [[nodiscard]] std::string address() const { return fmt::format("10.77.{}.2", number_); }
    // The command, run on that host.
    [[nodiscard]] Words there(const Words& command) const {
        Words words = {"nsenter", "--net=" + path()};
        words.insert(words.end(), command.begin(), command.end());
        return words;
    }

  private:
    [[nodiscard]] std::string path() const {
        return fmt::format("/proc/{}/fd/{}", ::getpid(), network_.get());
    }

    int number_;
    Fd network_;
};

}  // namespace drover::test
