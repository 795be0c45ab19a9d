/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * Who asks: the client's address, for the policies that go by it.
 */
#ifndef DROVER_CLIENT_BPF_H
#define DROVER_CLIENT_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <drover/steer_abi.h>

#define ETH_P_IP 0x0800

/* In network order; an IPv4 address stands in addr[0]. */
struct client {
    __u32 addr[4];
    __u32 is_v6;
};

/* Reads it from the packet, or from the waiting connection that is being moved. A client that came
 * over IPv4 is an IPv4 one to a dual-stack listener, too. Returns 0, or -1 where a packet has none. */
static __always_inline int read_client(struct sk_reuseport_md *ctx, struct bpf_sock *migrating,
                                       struct client *client)
{
    long failed = 0;

    if (migrating) {
        client->is_v6 = migrating->family == DROVER_AF_INET6;
        if (client->is_v6) {
            client->addr[0] = migrating->dst_ip6[0];
            client->addr[1] = migrating->dst_ip6[1];
            client->addr[2] = migrating->dst_ip6[2];
            client->addr[3] = migrating->dst_ip6[3];
        } else {
            client->addr[0] = migrating->dst_ip4;
        }
    } else if (ctx->eth_protocol == bpf_htons(ETH_P_IP)) {
        client->is_v6 = 0;
        failed = bpf_skb_load_bytes_relative(ctx, 12, client->addr, sizeof(client->addr[0]),
                                             BPF_HDR_START_NET);
    } else {
        client->is_v6 = 1;
        failed = bpf_skb_load_bytes_relative(ctx, 8, client->addr, sizeof(client->addr),
                                             BPF_HDR_START_NET);
    }
    if (client->is_v6 && !client->addr[0] && !client->addr[1] &&
        client->addr[2] == bpf_htonl(0xFFFF)) {
        client->is_v6 = 0;
        client->addr[0] = client->addr[3];
        client->addr[2] = 0;
        client->addr[3] = 0;
    }
    return failed ? -1 : 0;
}

#endif
