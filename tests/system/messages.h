// SPDX-License-Identifier: MIT
//
// What the tests of messages and of Node workers look for among a cluster's events.
#pragma once

#include "harness.h"

namespace drover::test {

// The events of one kind, oldest first.
inline std::vector<Json> events_of(Cluster& cluster, const std::string& kind) {
    std::vector<Json> found;
    for (const auto& event : cluster.events())
        if (event["event"] == kind) found.push_back(event);
    return found;
}

// What worker `id` has sent, to whomever, in its order.
inline std::vector<Json> said_by(Cluster& cluster, int id) {
    std::vector<Json> said;
    for (const auto& event : events_of(cluster, "message"))
        if (event["data"]["from"] == id) said.push_back(event["data"]["data"]);
    return said;
}

// Waits until worker `id` has sent `data`.
inline bool wait_said(Cluster& cluster, int id, const Json& data) {
    return eventually([&] {
        for (const auto& said : said_by(cluster, id))
            if (said == data) return true;
        return false;
    });
}

// `drover send`: its exit status. `target` is "NAME" or "NAME/ID".
inline int send(Cluster& cluster, const std::string& target, const Json& data) {
    return cluster.drover({"send", target, data.dump()}).status;
}

}  // namespace drover::test
