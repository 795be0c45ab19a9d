// SPDX-License-Identifier: MIT
//
// The JSON that drover speaks with programs: the status, the events, requests and replies.
//
// The one place that knows the names in it. Their shapes are described in VOCABULARY; readers
// ignore fields that they do not know, times are RFC 3339 in UTC, and what is absent is null. What
// comes from outside is read by pure functions that are total over any bytes.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/wall_time.h"
#include "supervisor/config.h"
#include "supervisor/rollout.h"
#include "supervisor/types.h"
#include "worker/probe.h"

namespace drover::admin {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxRequestBytes = 1 << 20;
constexpr int kMaxRequestDepth = 16;

// --- What drover tells -------------------------------------------------------------------------

[[nodiscard]] Json to_json(const supervisor::Status& status);
// The same for whoever asks: without the sentences that may have a command's arguments or an
// environment in them.
[[nodiscard]] Json to_public_json(const supervisor::Status& status);
[[nodiscard]] Json to_json(const supervisor::Config& config);
[[nodiscard]] Json to_json(const supervisor::Event& event, const std::string& cluster);
[[nodiscard]] Json to_json(const worker::ProbeAnswer& answer);

// The notice that stands in a reader's stream for what it was too slow for: an event "error" with
// the code "lost" and the counts "events" and "replies" in its data. `latest` is the latest event,
// whose time and sequence number the notice bears.
struct Lost {
    uint64_t events = 0;
    uint64_t replies = 0;
    [[nodiscard]] bool any() const { return events + replies > 0; }
};
[[nodiscard]] Json lost_notice(const supervisor::Event& latest, const Lost& lost,
                               const std::string& cluster);

// One line without its end. Bytes that are no UTF-8 (a command's name may have them) become U+FFFD.
[[nodiscard]] std::string to_line(const Json& json);

[[nodiscard]] Json reply_ok(int64_t id, Json data);
// Without an id: the reply to a line that had none that could be read.
[[nodiscard]] Json reply_error(std::optional<int64_t> id, const Error& error);

// --- What drover is asked ----------------------------------------------------------------------

struct Request {
    int64_t id = 0;    // the asker's own; the reply carries it
    std::string verb;  // not empty; known or not
    Json args;         // an object, empty where none were given
};

// Reads one line (without its end). Error code "bad-request".
[[nodiscard]] Result<Request> parse_request(std::string_view line);

// The arguments of the verbs. Error code "bad-value"; the text names the argument.
[[nodiscard]] Result<std::optional<supervisor::WorkerId>> optional_worker(const Json& args);
[[nodiscard]] Result<supervisor::WorkerId> required_worker(const Json& args);
// "path": "/health".
[[nodiscard]] Result<std::string> probed_path(const Json& args);
[[nodiscard]] Result<int> worker_count(const Json& args);   // "n"; the range is the supervisor's
[[nodiscard]] Result<int> weight(const Json& args);         // "weight"; likewise
[[nodiscard]] Result<int> signal_number(const Json& args);  // "signal": "TERM", "SIGTERM" or 15
[[nodiscard]] Result<supervisor::PolicyChoice> policy(const Json& args);
// "options": {"env": "A=1"} or with lists of values, "command": […], "parallel", "canary": "10%".
[[nodiscard]] Result<supervisor::ReloadRequest> reload_request(const Json& args);
// Any JSON value, as text. Error "bad-value" where it is absent.
[[nodiscard]] Result<std::string> message_data(const Json& args);
[[nodiscard]] Result<bool> follow(const Json& args);  // absent: false

}  // namespace drover::admin
