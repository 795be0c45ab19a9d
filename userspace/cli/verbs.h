// SPDX-License-Identifier: MIT
//
// The verbs, as one table: the parser, the help and "did you mean" read it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace drover::cli {

// reload: a cluster, options, and a command. install: likewise, and the cluster need not run; name:
// it alone.
enum class Target { none, command, cluster, cluster_or_worker, worker, reload, install, name };

struct Verb {
    std::string_view name;
    std::string_view group;     // in the help: "run", "look", "change", "release", "worker"
    Target target;              // what the verb is about
    std::string_view argument;  // what follows the target: "N", "SIGNAL"; "" for nothing
    std::string_view help;      // one line
    bool json;                  // has --json
    bool follow;                // has -f
};

const std::vector<Verb>& verbs();
const Verb* find_verb(std::string_view name);  // nullptr where there is none
std::vector<std::string> verb_names();

// The verb that was probably meant by a word that is none: by a misspelling, or as other process
// managers call it.
std::optional<std::string> verb_meant_by(std::string_view word);

// "drover signal [CLUSTER][/ID] SIGNAL"
std::string usage_of(const Verb& verb);

// The texts of `drover help` and `drover help VERB`; with escape sequences where `color`.
std::string help_text(bool color);
std::string help_text(const Verb& verb, bool color);

}  // namespace drover::cli
