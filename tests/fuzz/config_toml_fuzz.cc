// SPDX-License-Identifier: MIT
//
// Foreign bytes as a configuration file. Without a problem there is a cluster, and all that it says
// can be set.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "supervisor/config_toml.h"

using namespace drover::supervisor;

namespace {

void must(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "does not hold: %s\n", what);
    std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    auto parsed = parse_config_toml({reinterpret_cast<const char*>(data), size}, "/srv");
    int last = 0;
    for (const auto& problem : parsed.problems) {
        must(problem.line >= last, "problems are told by line");
        must(!problem.text.empty(), "a problem is a sentence");
        last = problem.line;
    }
    if (!parsed.problems.empty()) return 0;
    must(!parsed.clusters.empty(), "there is a cluster");
    for (const auto& cluster : parsed.clusters) {
        must(cluster.name.empty() || check_name(cluster.name).has_value(), "its name is a name");
        Config config;
        for (const auto& value : cluster.values)
            must(value.option->set(config, value.value).has_value(), "its values can be set");
    }
    return 0;
}
