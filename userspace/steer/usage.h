// SPDX-License-Identifier: MIT
//
// What the workers use, CPU and memory: of all of them at once, for the same few system calls,
// however many they are (bpf/usage.bpf.c). Where the kernel does not load that, each cgroup's own
// files tell the same (base/cgroup.h), at some ten system calls a worker.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "base/cgroup.h"
#include "base/result.h"

namespace drover::steer {

struct Usage {
    uint64_t cpu_microseconds = 0;
    uint64_t memory_bytes = 0;  // of the cgroup, else of its processes, as Cgroup::memory_bytes()
};

class UsageReader {
  public:
    // Loads the programs. Error code "bpf" with the reason.
    static Result<std::unique_ptr<UsageReader>> open(const Cgroup& cluster);
    ~UsageReader();

    // Of each child of the cluster's cgroup, by the child's id. Those that are missing could not be
    // read.
    [[nodiscard]] std::map<uint64_t, Usage> read() const;

  private:
    struct Impl;
    explicit UsageReader(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace drover::steer
