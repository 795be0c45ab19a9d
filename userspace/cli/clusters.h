// SPDX-License-Identifier: MIT
//
// Which clusters are there, and which one is meant.
#pragma once

#include <string>
#include <vector>

#include "base/paths.h"
#include "base/result.h"

namespace drover::cli {

struct Clusters {
    std::vector<std::string> running;  // a master answers; sorted
    std::vector<std::string> dead;     // a control socket, but its master is gone; sorted
    bool denied = false;               // there may be more: we are not allowed to see
};

Clusters find_clusters(const Paths& paths);

// The cluster meant by `named` ("" for the only one). Error code "usage" where none is named and
// several run, "denied" where only root may know, "no-cluster" where there is none or no such.
Result<std::string> choose_cluster(const std::string& named, const Clusters& clusters);

}  // namespace drover::cli
