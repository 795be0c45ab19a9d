// SPDX-License-Identifier: MIT
//
// The system calls of a master as points at which something can be done to it: killed before one,
// or one failing. strace shows them (its output is parsed here) and does it (`-e inject=…:when=N`).
#pragma once

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "harness.h"

namespace drover::test {

// The `nth` call of that kind; `text` is how strace showed it when nothing was done to it.
struct Point {
    std::string call;
    int nth = 0;
    std::string text;
};

inline std::vector<Point> points_in(const std::string& trace) {
    std::vector<Point> points;
    std::map<std::string, int> counts;
    std::istringstream lines(trace);
    for (std::string line; std::getline(lines, line);) {
        auto bracket = line.find('(');
        if (bracket == std::string::npos || !std::isalpha(line[0])) continue;
        std::string call = line.substr(0, bracket);
        points.push_back({call, ++counts[call], line});
    }
    return points;
}

// Of each kind no more than so many, evenly spread.
inline std::vector<Point> thinned(const std::vector<Point>& points, size_t most_of_one_kind) {
    std::map<std::string, size_t> totals, seen;
    for (const Point& point : points) totals[point.call]++;
    std::vector<Point> some;
    for (const Point& point : points) {
        size_t total = totals[point.call], number = seen[point.call]++;
        size_t most = std::min(total, most_of_one_kind);
        if (number * most / total != (number + 1) * most / total) some.push_back(point);
    }
    return some;
}

// DROVER_TEST_SEED repeats a choice.
inline unsigned seed() {
    const char* given = std::getenv("DROVER_TEST_SEED");
    return given != nullptr ? static_cast<unsigned>(std::atoi(given)) : std::random_device()();
}

template <class T>
std::vector<T> by_chance(const std::vector<T>& all, size_t count, unsigned with_seed) {
    std::mt19937 random(with_seed);
    std::vector<T> few;
    std::ranges::sample(all, std::back_inserter(few), static_cast<std::ptrdiff_t>(count), random);
    return few;
}

// Whether some cgroup of the sandbox is told to be frozen.
inline bool any_frozen(const Sandbox& sandbox) {
    std::error_code error;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(sandbox.cgroup(), error))
        if (entry.path().filename() == "cgroup.freeze" && read_file(entry.path()) != "0\n")
            return true;
    return false;
}

}  // namespace drover::test
