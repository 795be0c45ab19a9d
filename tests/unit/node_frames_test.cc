// SPDX-License-Identifier: MIT
//
// Node's IPC as text: what a worker may say, what is refused, and what the master says.
#include "worker/node_frames.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

using namespace drover;
using namespace drover::worker;

namespace {

std::span<const char> bytes(const std::string& text) {
    return {text.data(), text.size()};
}

template <class Frame>
Frame parse(const std::string& line) {
    auto frame = parse_node_line(line);
    REQUIRE_MESSAGE(frame, line);
    REQUIRE_MESSAGE(std::holds_alternative<Frame>(*frame), line);
    return std::get<Frame>(*frame);
}

bool is_malformed(const std::string& line) {
    auto frame = parse_node_line(line);
    return !frame && frame.error().code == "malformed";
}

std::string nested(int depth) {
    return std::string(static_cast<size_t>(depth), '[') +
           std::string(static_cast<size_t>(depth), ']');
}

std::string cluster(const std::string& rest) {
    return R"({"cmd":"NODE_CLUSTER",)" + rest + "}";
}

// As the lines come out; an oversized one is "!".
std::vector<std::string> cut(NodeLineCutter& cutter) {
    std::vector<std::string> lines;
    while (auto line = cutter.next())
        lines.push_back(line->is_oversized ? "!" : std::string(line->text));
    return lines;
}

using Lines = std::vector<std::string>;

}  // namespace

TEST_CASE("node frames: a stream is cut into the same lines wherever its pieces end") {
    const std::string stream = "one\n\n\"three\"\n123456789\n12345678\nlast\n123456789012";
    const Lines expected = {"one", "", "\"three\"", "!", "12345678", "last", "!"};
    for (size_t piece = 1; piece <= stream.size(); ++piece) {
        NodeLineCutter cutter(8);
        Lines lines;
        for (size_t at = 0; at < stream.size(); at += piece) {
            cutter.feed(bytes(stream.substr(at, piece)));
            for (auto& line : cut(cutter)) lines.push_back(line);
        }
        CHECK_MESSAGE(lines == expected, piece);
        CHECK(cutter.is_within_line());
    }
}

TEST_CASE("node frames: after an oversized line the next one is whole") {
    NodeLineCutter cutter(4);
    cutter.feed(bytes("12345"));
    CHECK(cut(cutter) == Lines{"!"});
    cutter.feed(bytes("6789"));
    CHECK(cut(cutter).empty());
    cutter.feed(bytes("0\nok\n"));
    CHECK(cut(cutter) == Lines{"ok"});
    CHECK_FALSE(cutter.is_within_line());
}

TEST_CASE("node frames: whatever is not Node's own is a message and stays as it is written") {
    const Lines messages = {"1",
                            "-0.5e3",
                            "true",
                            "null",
                            R"("text")",
                            R"({"b":1,"a":[2,{"c":3}]})",
                            R"([{"cmd":"NODE_CLUSTER"}])",
                            R"({"cmd":"node_x"})",
                            R"({"cmd":"NODE_"})",
                            R"({"cmd":5})",
                            R"({"a":{"cmd":"NODE_X"}})",
                            R"({"act":"online"})",
                            "\"\xc3\xa4\xf0\x9f\x9a\x80\"",
                            R"({"n":12345678901234567890123})"};
    for (const auto& message : messages) CHECK(parse<NodeMessage>(message).data == message);
}

TEST_CASE("node frames: a message leaves without line breaks") {
    CHECK(parse<NodeMessage>(" {\"a\":\r1}\r").data == "{\"a\": 1}");
}

TEST_CASE("node frames: what is not JSON in UTF-8 is malformed") {
    const Lines lines = {"",
                         " ",
                         "{",
                         "nonsense",
                         "1 2",
                         "\"\xff\"",
                         "\"\xc3\"",
                         "{\"a\":1}x",
                         R"("\ud800")",
                         "1e999",
                         std::string("\"\0\"", 3)};
    for (const auto& line : lines) CHECK_MESSAGE(is_malformed(line), line);
}

TEST_CASE("node frames: deep nesting is malformed, however deep") {
    CHECK(parse<NodeMessage>(nested(kMaxDepth)).data == nested(kMaxDepth));
    CHECK(is_malformed(nested(kMaxDepth + 1)));
    CHECK(is_malformed(std::string(kMaxLine, '[')));
    CHECK(is_malformed(cluster(R"("act":"queryServer","seq":1,"data":)" + nested(kMaxDepth))));
}

TEST_CASE("node frames: many names in one line take no time worth speaking of") {
    std::string line = R"({"cmd":"NODE_CLUSTER","act":"online")";
    for (int i = 0; line.size() < kMaxLine - 20; ++i) line += fmt::format(R"(,"{}":0)", i);
    parse<NodeOnline>(line + "}");
}

TEST_CASE("node frames: a worker comes online, closes a server and leaves") {
    parse<NodeOnline>(cluster(R"("act":"online","seq":0)"));
    parse<NodeServerClosed>(cluster(R"("act":"close","key":"k","seq":3)"));
    CHECK(parse<NodeLeaving>(cluster(R"("act":"exitedAfterDisconnect","seq":9)")).seq == 9);
    CHECK(is_malformed(cluster(R"("act":"exitedAfterDisconnect")")));
}

TEST_CASE("node frames: frames of Node's own that are not known are told apart from messages") {
    parse<NodeUnknown>(R"({"cmd":"NODE_SOMETHING"})");
    parse<NodeUnknown>(R"({"cmd":"\u004eODE_X"})");
    parse<NodeUnknown>(cluster(R"("act":"newthing","seq":1)"));
    parse<NodeUnknown>(cluster(R"("ack":4,"accepted":true,"seq":1)"));
    parse<NodeUnknown>(R"({"cmd":"mine","cmd":"NODE_X"})");
    parse<NodeMessage>(R"({"cmd":"NODE_X","cmd":"mine"})");
}

TEST_CASE("node frames: listen(8080) asks for a socket without an address") {
    auto frame = parse<NodeQuery>(
        cluster(R"("act":"queryServer","index":2,"data":null,"address":null,"port":8080,)"
                R"("addressType":4,"flags":0,"backlog":511,"seq":5)"));
    CHECK(frame.seq == 5);
    CHECK(frame.query.address.empty());
    CHECK(frame.query.port == 8080);
    CHECK(frame.query.address_type == 4);
    CHECK(frame.query.backlog == 511);
    CHECK(frame.query.index == 2);
    CHECK(frame.query.fd == -1);
    CHECK(frame.query.data == "null");
    CHECK_FALSE(frame.query.udp);
}

TEST_CASE("node frames: IPv6 only, TLS data, and a backlog of false") {
    auto query = parse<NodeQuery>(
                     cluster(R"("act":"queryServer","data":{"ticketKeys":"00ff"},"address":"::1",)"
                             R"("port":1,"addressType":6,"flags":1,"backlog":false,"seq":5)"))
                     .query;
    CHECK(query.address == "::1");
    CHECK(query.address_type == 6);
    CHECK(query.flags == 1);
    CHECK(query.backlog == 0);
    CHECK(query.data == R"({"ticketKeys":"00ff"})");
}

TEST_CASE("node frames: a unix socket, also an abstract one") {
    auto query =
        parse<NodeQuery>(cluster(R"("act":"queryServer","address":"/run/a","port":-1,"seq":5,)"
                                 R"("addressType":-1,"readableAll":true)"))
            .query;
    CHECK(query.address == "/run/a");
    CHECK(query.address_type == -1);
    CHECK(query.readable_all);
    CHECK_FALSE(query.writable_all);
    query = parse<NodeQuery>(cluster(R"("act":"queryServer","address":"\u0000a","port":-1,)"
                                     R"("addressType":-1,"seq":5)"))
                .query;
    CHECK(query.address == std::string("\0a", 2));
}

TEST_CASE("node frames: a listen on an fd of the master's") {
    auto query = parse<NodeQuery>(cluster(R"("act":"queryServer","address":null,"port":null,)"
                                          R"("addressType":null,"fd":5,"seq":5)"))
                     .query;
    CHECK(query.fd == 5);
}

TEST_CASE("node frames: UDP") {
    auto query = parse<NodeQuery>(cluster(R"("act":"queryServer","address":"::","port":53,"fd":-1,)"
                                          R"("addressType":"udp6","flags":4,"seq":5)"))
                     .query;
    CHECK(query.udp);
    CHECK(query.address_type == 6);
    CHECK(query.flags == 4);
}

TEST_CASE("node frames: a query that cannot be answered is malformed") {
    const Lines queries = {
        R"("port":1,"addressType":4)",                               // no seq
        R"("port":1,"addressType":4,"seq":-1)",                      //
        R"("port":1,"addressType":4,"seq":"1")",                     //
        R"("port":70000,"addressType":4,"seq":1)",                   //
        R"("port":-2,"addressType":4,"seq":1)",                      //
        R"("port":1,"addressType":5,"seq":1)",                       //
        R"("port":1,"addressType":"tcp","seq":1)",                   //
        R"("port":1,"seq":1)",                                       //
        R"("port":-1,"addressType":-1,"seq":1)",                     // no path
        R"("port":1,"addressType":4,"address":"1\u00002","seq":1)",  //
        R"("port":1,"addressType":4,"seq":1,"data":")" + std::string(5000, 'x') + "\""};
    for (const auto& query : queries)
        CHECK_MESSAGE(is_malformed(cluster(R"("act":"queryServer",)" + query)), query);
}

TEST_CASE("node frames: listening tells the real port") {
    auto query = parse<NodeListening>(
                     cluster(R"("act":"listening","address":null,"port":43210,"addressType":4,)"
                             R"("index":0,"data":null,"seq":2)"))
                     .query;
    CHECK(query.port == 43210);
}

TEST_CASE("node frames: a handle, and the message that came with it") {
    CHECK(
        parse<NodeHandle>(R"({"cmd":"NODE_HANDLE","type":"net.Socket","msg":{"a":"b"}})").message ==
        R"({"a":"b"})");
    CHECK_FALSE(parse<NodeHandle>(R"({"cmd":"NODE_HANDLE","type":"net.Socket"})").message);
    CHECK_FALSE(parse<NodeHandle>(R"({"cmd":"NODE_HANDLE","msg":{"cmd":"NODE_CLUSTER"}})").message);
    CHECK(parse<NodeHandleAnswer>(R"({"cmd":"NODE_HANDLE_ACK"})").is_received);
    CHECK_FALSE(parse<NodeHandleAnswer>(R"({"cmd":"NODE_HANDLE_NACK"})").is_received);
}

TEST_CASE("node frames: a message that Node would take for its own is not sent") {
    CHECK(check_node_message("\"NODE_CLUSTER\""));
    CHECK(check_node_message(R"({"cmd":"NODE_"})"));
    CHECK(check_node_message(R"({"cmd":"NODE_CLUSTER","act":"disconnect"})").error().code ==
          "reserved");
    CHECK(check_node_message(R"({"cmd":"\u004eODE_HANDLE"})").error().code == "reserved");
    CHECK(check_node_message("{").error().code == "malformed");
    CHECK(check_node_message("[1,\n2]").error().code == "malformed");
    CHECK(check_node_message(nested(kMaxDepth + 1)).error().code == "malformed");
    CHECK(check_node_message("\"" + std::string(kMaxLine, 'x') + "\"").error().code == "oversized");
}

TEST_CASE("node frames: what the master says") {
    auto parsed = [](const std::string& line) {
        REQUIRE(line.ends_with('\n'));
        REQUIRE(line.find('\n') == line.size() - 1);
        return nlohmann::json::parse(line, nullptr, false);
    };
    using nlohmann::json;
    CHECK(parsed(node_ack(7, 2)) == json{{"cmd", "NODE_CLUSTER"}, {"ack", 7}, {"seq", 2}});
    CHECK(parsed(node_disconnect(3)) ==
          json{{"cmd", "NODE_CLUSTER"}, {"act", "disconnect"}, {"seq", 3}});
    CHECK(parsed(node_handle_ack()) == json{{"cmd", "NODE_HANDLE_ACK"}});
    json reply = {
        {"cmd", "NODE_CLUSTER"},         {"errno", 0}, {"key", "k\""}, {"ack", 5}, {"seq", 1},
        {"data", {{"ticketKeys", "aa"}}}};
    json handle = {{"cmd", "NODE_HANDLE"}, {"type", "net.Native"}, {"msg", reply}};
    CHECK(parsed(node_socket_reply(5, 1, "k\"", false, R"({"ticketKeys":"aa"})")) == handle);
    handle["type"] = "dgram.Native";
    CHECK(parsed(node_socket_reply(5, 1, "k\"", true, R"({"ticketKeys":"aa"})")) == handle);
    reply["errno"] = -98;
    CHECK(parsed(node_error_reply(5, 1, "k\"", 98, R"({"ticketKeys":"aa"})")) == reply);
}
