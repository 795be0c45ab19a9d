/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * source: the client's address chooses, so that a client comes back to its worker.
 *
 * Here is the first half of the way, address → number. The second half is a table, number → slot,
 * which the master builds (userspace/steer/maglev.h) such that few clients move when a worker comes
 * or goes. An address is first cut to a prefix: clients of one network may be kept together, and an
 * IPv6 client changes the last 64 bits as it likes.
 *
 * The numbers are the same on each machine and after each restart. No seed: whoever chooses
 * addresses may choose his worker, as with any policy that clients stick by.
 */
#ifndef DROVER_POLICY_SOURCE_BPF_H
#define DROVER_POLICY_SOURCE_BPF_H

#include "policy_view.bpf.h"

/* The high word of the low half of ::ffff:a.b.c.d, which is how IPv6 writes the IPv4 address
 * a.b.c.d; and the length of the prefix that all of those share. */
#define SOURCE_MAPPED 0xFFFFull
#define SOURCE_MAPPED_PREFIX 96u

static __always_inline __u64 source_host_order(__u32 word)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return __builtin_bswap32(word);
#else
    return word;
#endif
}

/* The first `bits` bits set; all of them from 64 on. A shift by 64 would be undefined. */
static __always_inline __u64 source_mask(__u32 bits)
{
    return bits < 64 ? ~(~0ull >> bits) : ~0ull;
}

/* The end of splitmix64: each bit of the result hangs on each bit of the value. Part of what keeps
 * clients where they are: a change moves all of them. */
static __always_inline __u64 source_mix(__u64 value)
{
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ull;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBull;
    return value ^ (value >> 31);
}

/* Which entry of the table a client's address belongs to: 0 … DROVER_SOURCE_TABLE_SIZE - 1.
 *
 * `addr` is in network order; an IPv4 address stands in addr[0]. Only the first `prefix_v4` or
 * `prefix_v6` bits count; more than there are means all of them. A mapped IPv4 address is an IPv4
 * address, so a client is the same to an IPv4 and to a dual-stack listener. */
static __always_inline __u32 source_bucket(const __u32 addr[4], __u32 is_v6, __u32 prefix_v4,
                                           __u32 prefix_v6)
{
    __u64 high = 0, low = SOURCE_MAPPED << 32 | source_host_order(addr[0]);
    __u32 prefix = prefix_v6;

    if (is_v6) {
        high = source_host_order(addr[0]) << 32 | source_host_order(addr[1]);
        low = source_host_order(addr[2]) << 32 | source_host_order(addr[3]);
    }
    if (high == 0 && low >> 32 == SOURCE_MAPPED)
        prefix = SOURCE_MAPPED_PREFIX + (prefix_v4 < 32 ? prefix_v4 : 32);

    high &= source_mask(prefix);
    low &= source_mask(prefix > 64 ? prefix - 64 : 0);
    /* The constant: an address of all zeros must not stay one. */
    low ^= source_mix(high + 0x9E3779B97F4A7C15ull);
    return scale_to((__u32)(source_mix(low) >> 32), DROVER_SOURCE_TABLE_SIZE);
}

#endif
