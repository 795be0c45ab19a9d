// SPDX-License-Identifier: MIT
#include "steer/maglev.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <queue>
#include <tuple>
#include <utility>

namespace drover::steer {

namespace {

constexpr uint16_t kFree = UINT16_MAX;

// The members of one key: those from `first` on, `count` of them.
struct Walker {
    size_t first;
    uint32_t count;
    uint32_t weight;
    uint32_t place;  // the next entry of its walk
    uint32_t skip;   // from one entry to the next
    uint32_t taken;  // entries so far
};

// A walker's next turn; the earliest is next.
struct Turn {
    uint64_t due;
    size_t walker;

    bool operator>(const Turn& other) const {
        return std::tie(due, walker) > std::tie(other.due, other.walker);
    }
};

// When the turn after `taken` entries is due, in fixed point: 65,535 turns of weight 1 still fit.
// At time T a walker has T × weight entries, rounded. Only the first turn is not waited for: it is
// due at 0, so that each has one.
uint64_t due(uint32_t taken, uint32_t weight) {
    uint64_t step = (uint64_t{1} << 48) / weight;
    return taken * step + step / 2;
}

// splitmix64. Part of what makes tables equal everywhere: a change moves every client.
uint64_t mix(uint64_t value) {
    value += 0x9E3779B97F4A7C15;
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
    return value ^ (value >> 31);
}

// Maps 32 bits evenly to 0 … count − 1.
uint32_t scale(uint64_t bits, uint32_t count) {
    return static_cast<uint32_t>((static_cast<uint32_t>(bits) * uint64_t{count}) >> 32);
}

// Members of one key stand side by side.
std::vector<Walker> walkers_of(const std::vector<MaglevMember>& members, uint32_t size) {
    std::vector<Walker> walkers;
    for (size_t i = 0; i < members.size(); i++) {
        uint32_t weight = std::max(members[i].weight, 1u);
        if (i > 0 && members[i].key == members[i - 1].key) {
            walkers.back().count++;
            walkers.back().weight = std::max(walkers.back().weight, weight);
            continue;
        }
        uint64_t bits = mix(members[i].key);
        uint32_t skip = 1 + scale(bits, size - 1);
        while (std::gcd(skip, size) != 1) skip++;  // it must come by all entries; a prime's does
        walkers.push_back({i, 1, weight, scale(bits >> 32, size), skip, 0});
    }
    return walkers;
}

}  // namespace

std::vector<uint16_t> build_maglev(std::vector<MaglevMember> members, uint16_t size) {
    if (members.empty() || size == 0) return {};
    std::ranges::sort(members, {}, [](const MaglevMember& m) { return std::pair(m.key, m.slot); });
    std::vector<Walker> walkers = walkers_of(members, size);

    std::vector<Turn> first;
    for (size_t i = 0; i < walkers.size(); i++) first.push_back({0, i});
    std::priority_queue turns(std::greater<>(), std::move(first));

    std::vector<uint16_t> table(size, kFree);
    for (uint32_t filled = 0; filled < size; filled++) {
        Turn turn = turns.top();
        Walker& walker = walkers[turn.walker];
        while (table[walker.place] != kFree) {
            walker.place += walker.skip;
            if (walker.place >= size) walker.place -= size;
        }
        table[walker.place] = members[walker.first + walker.taken % walker.count].slot;
        walker.taken++;
        turns.pop();
        turns.push({due(walker.taken, walker.weight), turn.walker});
    }
    return table;
}

}  // namespace drover::steer
