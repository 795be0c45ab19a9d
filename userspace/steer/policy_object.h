// SPDX-License-Identifier: MIT
//
// A policy of the user's own: an object file, made with include/drover/policy.bpf.h, and the
// program in it, loaded. Every reason why it cannot be is told in one sentence.
//
// The file becomes a part of the kernel, so it must be root's, and nobody else may write it. It is
// read once, and what was read is what is judged and loaded.
#pragma once

#include <sys/stat.h>

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

struct bpf_object;

namespace drover::steer {

class PolicyObject {
  public:
    // The maps that it shares with the steering program, by their descriptors, which stay the
    // caller's.
    struct Maps {
        int views = -1;
        int programs = -1;
    };
    // Error codes: "usage" (there is no such file), "bad-policy" (it cannot be used; where the
    // verifier refused it with the verifier's last lines below).
    static Result<PolicyObject> load(const std::string& path, const Maps& maps);

    PolicyObject() = default;
    [[nodiscard]] int program() const { return program_; }  // its descriptor; -1: none

  private:
    struct Close {
        void operator()(bpf_object* object) const;
    };
    std::unique_ptr<bpf_object, Close> object_;
    int program_ = -1;
};

// Whether such a file may be loaded.
Result<void> check_policy_file(const std::string& path, const struct stat& file);

// The file's content. Errors as above.
Result<std::vector<char>> read_policy_file(const std::string& path);

}  // namespace drover::steer
