// SPDX-License-Identifier: MIT
//
// Reading kernel releases: which is new enough, and which wakes a listener after a migration.
#include "steer/ground.h"

#include <doctest/doctest.h>

#include <set>

using namespace drover;
using namespace drover::steer;

TEST_CASE("ground: 6.1 and later are new enough") {
    for (const char* release : {"6.1", "6.1.0", "6.1.0-13-amd64", "6.1.175", "6.2.0-rc1", "6.10.3",
                                "6.18.5+", "7.0.0", "10.0"})
        CHECK_MESSAGE(is_new_enough(release), std::string(release));
}

TEST_CASE("ground: what is older than 6.1 is not") {
    for (const char* release : {"6.0", "6.0.19", "5.15.0-91-generic", "5.10.0", "4.19.0-26-amd64",
                                "3.10.0-1160.el7", "2.6.32"})
        CHECK_FALSE_MESSAGE(is_new_enough(release), std::string(release));
}

TEST_CASE("ground: what cannot be read is not new enough") {
    for (const char* release : {"", "linux", "-", "x6.1"})
        CHECK_FALSE_MESSAGE(is_new_enough(release), std::string(release));
}

TEST_CASE("ground: listeners are woken after a migration from 6.1.175 and 6.12.86 on") {
    for (const char* release : {"6.1.175", "6.1.175-1", "6.1.200-1 (2026-03-01)", "6.12.86",
                                "6.12.87-cloud-amd64", "6.13.0", "6.18.1", "7.0", "7.1.0-rc2"})
        CHECK_MESSAGE(wakes_after_migration(release), std::string(release));
}

TEST_CASE("ground: before that they are not") {
    for (const char* release : {"6.1.0", "6.1.174", "6.1.174-1", "6.12.0", "6.12.85", "6.2.0",
                                "6.11.9", "6.6.200", "5.15.300", "5.10.0", "", "linux"})
        CHECK_FALSE_MESSAGE(wakes_after_migration(release), std::string(release));
}

TEST_CASE("ground: each finding has a name of its own and a sentence") {
    std::set<std::string> names;
    for (const Check& check : check_ground(Paths::from_environment())) {
        CHECK_MESSAGE(names.insert(check.name).second, check.name);
        CHECK_FALSE(check.text.empty());
    }
    CHECK(names.contains("root"));
    CHECK(names.contains("kernel"));
    CHECK(names.contains("cgroup v2"));
}
