// SPDX-License-Identifier: MIT
//
// Maglev's lookup table (Eisenbud et al., NSDI 2016), for the policy `source`: a client's address
// gives a number (bpf/policy_source.bpf.h), the entry of that number gives the slot. Pure.
//
// How it works: each member has an order of its own over all entries, a walk from `place` in steps
// of `skip`, both out of its key. In turns each takes the first entry of its walk that is still
// free, until none is. So the members' shares are even to one entry, and because a walk depends on
// nothing but its key, most entries keep their member when another one comes or goes.
//
// Only the key decides, never the slot and never the order of the input; and only integers are
// used. So another machine, a restarted master and a worker's replacement (same instance, other
// slot) all have the same table: clients stay with their instance.
//
// What size? A larger table moves fewer clients that need not move, and costs memory and time.
// Measured: one of n equal members goes away, and these per cent of the entries move that were not
// its own (mean over each of the n; the worst is up to 1.6 times that):
//
//     members           4     16     64    256    build with 256, -O2    2 halves × 32 groups
//     8,191 entries  0.17   0.91   1.58   1.65        0.5 ms                  1 MiB
//     16,381         0.20   0.65   1.09   1.54        1.0 ms                  2 MiB
//     32,749         0.07   0.49   0.72   1.31        2.0 ms                  4 MiB
//
// 16,381 it is (DROVER_SOURCE_TABLE_SIZE). The paper wants 100 entries a member. With 256 members
// these are 64, so shares are 63 or 64 entries, uneven by 1.6 %, and that is the limit of a
// cluster; with the usual 4 to 32 they are 500 and more. Twice the table is hardly better where
// there are many members, and the event loop waits for the build, which is one for each group. It
// is also the last prime below a power of two: the BPF program bounds its index by a mask.
#pragma once

#include <cstdint>
#include <vector>

namespace drover::steer {

struct MaglevMember {
    uint32_t key = 0;     // its stable identity: the instance
    uint16_t slot = 0;    // what the table holds; below UINT16_MAX
    uint32_t weight = 1;  // its share, relative to the others'; 0 counts as 1
};

// `size` slots, each entry filled; empty where there are no members. Any size works, a prime mixes
// best. With equal weights the shares differ by at most one entry. With others each is rounded to
// whole entries, at least one, and what that leaves over is the heaviest's.
//
// Members of one key (a worker and its replacement, while both get traffic) divide the entries of
// that key among them, by its largest weight: no other key's clients notice.
std::vector<uint16_t> build_maglev(std::vector<MaglevMember> members, uint16_t size);

}  // namespace drover::steer
