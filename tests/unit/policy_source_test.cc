// SPDX-License-Identifier: MIT
//
// The policy `source`, compiled natively: which clients are one, and how evenly the others spread.
#include "policy_source.bpf.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace {

// An address as the policy gets it: IPv4 in the first word, all in network order.
struct Address {
    std::array<__u32, 4> words{};
    __u32 is_v6 = 0;

    static Address of(const std::string& text) {
        Address address;
        address.is_v6 = text.find(':') != std::string::npos;
        REQUIRE(inet_pton(address.is_v6 ? AF_INET6 : AF_INET, text.c_str(), address.words.data()) ==
                1);
        return address;
    }
    static Address v4(uint32_t host_order) { return {{htonl(host_order), 0, 0, 0}, 0}; }
    static Address v6(uint64_t high, uint64_t low) {
        return {{htonl(static_cast<uint32_t>(high >> 32)), htonl(static_cast<uint32_t>(high)),
                 htonl(static_cast<uint32_t>(low >> 32)), htonl(static_cast<uint32_t>(low))},
                1};
    }
    // The same with one bit changed; bit 0 is the first of the address.
    [[nodiscard]] Address flipped(uint32_t bit) const {
        Address other = *this;
        other.words[bit / 32] ^= htonl(0x80000000u >> bit % 32);
        return other;
    }
};

// Nothing is cut off unless a test says so.
__u32 bucket(const Address& address, __u32 prefix_v4 = 32, __u32 prefix_v6 = 128) {
    return source_bucket(address.words.data(), address.is_v6, prefix_v4, prefix_v6);
}

__u32 bucket(const std::string& address, __u32 prefix_v4 = 32, __u32 prefix_v6 = 128) {
    return bucket(Address::of(address), prefix_v4, prefix_v6);
}

// Whether a change of that bit of an address sends some client elsewhere. Several addresses, as
// one and its neighbour may share a bucket by chance.
bool counts(uint32_t bit, const std::vector<Address>& clients, __u32 prefix_v4, __u32 prefix_v6) {
    for (const Address& client : clients)
        if (bucket(client, prefix_v4, prefix_v6) !=
            bucket(client.flipped(bit), prefix_v4, prefix_v6))
            return true;
    return false;
}

// Chi-square of `clients` addresses over the buckets, as standard deviations from what chance
// gives.
double unevenness(uint32_t clients, const std::function<Address(uint32_t)>& client) {
    std::vector<int> hits(DROVER_SOURCE_TABLE_SIZE);
    for (uint32_t i = 0; i < clients; i++) hits.at(bucket(client(i)))++;
    double expected = static_cast<double>(clients) / DROVER_SOURCE_TABLE_SIZE;
    double sum = 0;
    for (int hit : hits) sum += (hit - expected) * (hit - expected) / expected;
    double freedom = DROVER_SOURCE_TABLE_SIZE - 1;
    return (sum - freedom) / std::sqrt(2 * freedom);
}

}  // namespace

TEST_CASE("source: the bits of the prefix count and no others, for each length of IPv4") {
    const std::vector<Address> clients = {Address::of("192.0.2.77"), Address::of("0.0.0.0"),
                                          Address::of("255.255.255.255"), Address::of("10.1.2.3")};
    for (uint32_t prefix = 0; prefix <= 32; prefix++)
        for (uint32_t bit = 0; bit < 32; bit++)
            REQUIRE_MESSAGE(counts(bit, clients, prefix, 77) == (bit < prefix), "bit ", bit,
                            " of /", prefix);
}

TEST_CASE("source: the bits of the prefix count and no others, for each length of IPv6") {
    const std::vector<Address> clients = {Address::of("2001:db8:1:2:3:4:5:6"),
                                          Address::of("fe80::1"), Address::of("::"),
                                          Address::of("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")};
    for (uint32_t prefix = 0; prefix <= 128; prefix++)
        for (uint32_t bit = 0; bit < 128; bit++)
            REQUIRE_MESSAGE(counts(bit, clients, 7, prefix) == (bit < prefix), "bit ", bit, " of /",
                            prefix);
}

TEST_CASE("source: with prefix 0 all clients of a family are one") {
    CHECK(bucket("1.2.3.4", 0) == bucket("203.0.113.250", 0));
    CHECK(bucket("2001:db8::1", 32, 0) == bucket("fe80::ffff", 32, 0));
}

TEST_CASE("source: a prefix that is too long is the whole address") {
    for (__u32 longer : {33u, 64u, 127u, 128u, 0x80000000u, 0xFFFFFFFFu})
        CHECK(bucket("192.0.2.77", longer) == bucket("192.0.2.77", 32));
    for (__u32 longer : {129u, 192u, 0x80000000u, 0xFFFFFFFFu})
        CHECK(bucket("2001:db8::1:2", 32, longer) == bucket("2001:db8::1:2", 32, 128));
}

TEST_CASE("source: the clients of one /24 share with prefix 24, the next network's do not") {
    __u32 first = bucket("198.51.100.0", 24);
    for (uint32_t host = 1; host < 256; host++)
        CHECK(bucket("198.51.100." + std::to_string(host), 24) == first);
    CHECK(bucket("198.51.101.1", 24) != first);
    CHECK(bucket("198.51.99.255", 24) != first);
}

TEST_CASE("source: the addresses of one IPv6 network share with prefix 64") {
    __u32 first = bucket("2001:db8:0:7::1", 32, 64);
    CHECK(bucket("2001:db8:0:7:1234:5678:9abc:def0", 32, 64) == first);
    CHECK(bucket("2001:db8:0:8::1", 32, 64) != first);
}

TEST_CASE("source: a mapped IPv4 address is the IPv4 address, with the prefix of IPv4") {
    for (const char* address : {"0.0.0.0", "192.0.2.77", "127.0.0.1", "255.255.255.255"})
        for (__u32 prefix_v4 : {0u, 1u, 8u, 24u, 31u, 32u, 33u})
            for (__u32 prefix_v6 : {0u, 64u, 128u})
                CHECK(bucket(std::string("::ffff:") + address, prefix_v4, prefix_v6) ==
                      bucket(address, prefix_v4, prefix_v6));
}

TEST_CASE("source: what only looks like a mapped address is an IPv6 address") {
    for (const char* address :
         {"::192.0.2.77", "::fffe:192.0.2.77", "::1:ffff:192.0.2.77", "1::ffff:192.0.2.77",
          "0:0:0:1:0:ffff:192.0.2.77", "64:ff9b::192.0.2.77"}) {
        CHECK(bucket(address) != bucket("192.0.2.77"));
        CHECK(bucket(address, 0) == bucket(address, 32));  // IPv4's prefix does not touch it
        CHECK(bucket(address, 32, 0) == bucket("2001:db8::1", 32, 0));
    }
}

TEST_CASE("source: only the first word of an IPv4 address is looked at") {
    Address address = Address::of("192.0.2.77");
    address.words[1] = address.words[2] = address.words[3] = 0xFFFFFFFF;
    CHECK(bucket(address) == bucket("192.0.2.77"));
}

TEST_CASE("source: clients in a row are spread as evenly as by chance, whatever the row") {
    constexpr uint32_t kClients = 200'000;  // twelve a bucket
    std::vector<std::function<Address(uint32_t)>> rows = {
        [](uint32_t i) { return Address::v4(0x0A000000 + i); },         // 10.0.0.0, 10.0.0.1 …
        [](uint32_t i) { return Address::v4(0x0A000001 + (i << 8)); },  // 10.0.0.1, 10.0.1.1 …
        [](uint32_t i) { return Address::v4(i << 14); },                // the high bits alone
        [](uint32_t i) { return Address::v6(0x20010DB800000000, i); },  // hosts of one network
        [](uint32_t i) { return Address::v6(0x20010DB800000000 + i, 1); },  // networks
        [](uint32_t i) {
            return Address::v6(0x2001000000000000 + (uint64_t{i} << 16), 0);
        },  // /48s
        [](uint32_t i) { return Address::v6(i, i); },
        [](uint32_t i) { return Address::v6(0x20010DB800000000, uint64_t{i} << 44); },
    };
    for (size_t row = 0; row < rows.size(); row++) {
        double away = unevenness(kClients, rows[row]);
        CHECK_MESSAGE(away < 4, "row ", row);
        CHECK_MESSAGE(away > -4, "row ", row);  // more even than chance: buckets in order
    }
}

TEST_CASE("source: the first and the last bucket are used, none beyond") {
    __u32 lowest = DROVER_SOURCE_TABLE_SIZE, highest = 0;
    for (uint32_t i = 0; i < 200'000; i++) {
        lowest = std::min(lowest, bucket(Address::v4(0x0A000000 + i)));
        highest = std::max(highest, bucket(Address::v4(0x0A000000 + i)));
    }
    CHECK(lowest == 0);
    CHECK(highest == DROVER_SOURCE_TABLE_SIZE - 1);
}

// Where this fails, clients would move when drover is upgraded, or between machines.
TEST_CASE("source: today's buckets are tomorrow's") {
    CHECK(bucket("192.0.2.77") == 10345);
    CHECK(bucket("192.0.2.77", 24) == 15535);
    CHECK(bucket("2001:db8::1") == 5137);
    CHECK(bucket("2001:db8::1", 32, 64) == 15953);
}
