// SPDX-License-Identifier: MIT
//
// The pure part of the message channel: what a line means, what is refused and with which words,
// and how a stream is cut into lines.
#include "worker/line_protocol.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <vector>

using namespace drover;
using namespace drover::worker;
using namespace std::chrono_literals;

namespace {

template <class Line>
Line parse_as(std::string_view text) {
    auto line = parse_worker_line(text);
    REQUIRE_MESSAGE(line, std::string(text));
    REQUIRE(std::holds_alternative<Line>(*line));
    return std::get<Line>(*line);
}

std::string refusal(std::string_view text) {
    auto line = parse_worker_line(text);
    REQUIRE_MESSAGE(!line, std::string(text));
    CHECK(line.error().code == "malformed");
    return line.error().text;
}

bool contains(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

std::string nested(int depth) {
    auto count = static_cast<size_t>(depth);
    return std::string(count, '[') + std::string(count, ']');
}

std::string message_with(std::string_view data) {
    return fmt::format(R"({{"type":"message","data":{}}})", data);
}

}  // namespace

TEST_CASE("each type of line is understood") {
    parse_as<ReadyLine>(R"({"type":"ready"})");
    parse_as<DisconnectLine>(R"({"type":"disconnect"})");
    parse_as<PongLine>(R"({"type":"pong"})");
    CHECK(parse_as<LoadLine>(R"({"type":"load","value":0.7})").value == 0.7);
    CHECK(parse_as<LoadLine>(R"({"type":"load","value":3})").value == 3);
    CHECK(parse_as<LoadLine>(R"({"type":"load","value":-0})").value == 0);
    CHECK(parse_as<MessageLine>(message_with("1")).data == "1");
}

TEST_CASE("space and a carriage return around a line, and unknown fields, do no harm") {
    parse_as<ReadyLine>(" {\t\"type\" : \"ready\" } \r");
    parse_as<ReadyLine>(R"({"pid":7,"type":"ready","to":{"x":[]},"value":"x","data":1})");
    parse_as<ReadyLine>(R"({"t\u0079pe":"ready"})");
}

TEST_CASE("a message names whom it is for") {
    auto to = [](std::string_view text) {
        return parse_as<MessageLine>(fmt::format(R"({{"type":"message","data":1{}}})", text)).to;
    };
    CHECK(to("").kind == Address::Kind::master);
    CHECK(to(R"(,"to":"master")").kind == Address::Kind::master);
    CHECK(to(R"(,"to":"all")").kind == Address::Kind::all);
    CHECK(to(R"(,"to":7)").kind == Address::Kind::worker);
    CHECK(to(R"(,"to":7)").worker == 7);
    CHECK(to(R"(,"to":18446744073709551615)").worker == UINT64_MAX);
    for (auto wrong : {"0", "-1", "7.0", "\"7\"", "\"everybody\"", "null", "true", "[7]", "{}",
                       "18446744073709551616"})
        CHECK(contains(refusal(fmt::format(R"({{"type":"message","data":1,"to":{}}})", wrong)),
                       "\"to\" is neither"));
}

TEST_CASE("data is the worker's own text, to the digit") {
    for (auto data :
         {"null", "true", "\"\"", "\"a\\\"}],:{\\\\\"", "12345678901234567890123", "1.10", "1e2",
          "[]", "{}", R"({"type":"ready","data":{"data":[1,{"to":"all"}]}})", "\"\\ud83d\\ude00\"",
          "\"\xF0\x9F\x98\x80 \xC3\xA4\"", "[ 1 ,\t2 ]"}) {
        CHECK(parse_as<MessageLine>(message_with(data)).data == data);
        CHECK(parse_as<MessageLine>(
                  fmt::format(R"( {{ "a,:" : [1,{{"b":2}}] , "d\u0061ta" : {} , "type":)"
                              R"("message" , "to" : "all" }} )",
                              data))
                  .data == data);
    }
}

TEST_CASE("data has no line break, not even a carriage return") {
    CHECK(parse_as<MessageLine>(message_with("[1,\r2]")).data == "[1, 2]");
    CHECK(parse_as<MessageLine>(message_with("\r\t1 \r")).data == "1");
    CHECK(message_line("[1,\r\n2]", 3) == "{\"type\":\"message\",\"data\":[1,  2],\"from\":3}\n");
}

TEST_CASE("an unknown type is no error") {
    parse_as<UnknownLine>(R"({"type":"metrics","value":"x"})");
    parse_as<UnknownLine>(R"({"type":""})");
    parse_as<UnknownLine>(R"({"type":"hello","v":1})");
}

TEST_CASE("what is not a JSON object with a type is refused, and said") {
    struct {
        std::string line;
        std::string_view words;
    } const cases[] = {
        {"", "not JSON at byte 0"},
        {"ready", "not JSON at byte 0: ready"},
        {R"({"type":"ready")", "not JSON at byte 15"},
        {R"({"type":"ready"} x)", "not JSON at byte 17"},
        {R"({"type":"ready"}{})", "not JSON at byte 16"},
        {R"({'type':'ready'})", "not JSON at byte 1"},
        {R"({"type":"ready",})", "not JSON at byte 16"},
        {R"({"type":"ready" /* */})", "not JSON"},
        {"{\"type\":\"re\tady\"}", "not JSON"},
        {std::string("{\"type\":\"ready\"}\0", 17), "not JSON at byte 16"},
        {"\xEF\xBB\xBF{\"type\":\"ready\"}", "not JSON at byte 0"},
        {R"({"type":"message","data":1e999})", "not JSON"},
        {R"({"type":"message","data":"\ud800"})", "not JSON"},
        {R"({"type":"message","data":NaN})", "not JSON"},
        {R"([{"type":"ready"}])", "it is not an object"},
        {R"("ready")", "it is not an object"},
        {"7", "it is not an object"},
        {"{}", "no \"type\" that is a string"},
        {R"({"type":7})", "no \"type\" that is a string"},
        {R"({"type":null})", "no \"type\" that is a string"},
        {R"({"type":["ready"]})", "no \"type\" that is a string"},
        {R"({"x":{"type":"ready"}})", "no \"type\" that is a string"},
        {R"({"type":"ready","type":"ready"})", "\"type\" stands in it twice"},
        {R"({"type":"message","data":1,"data":2})", "\"data\" stands in it twice"},
        {R"({"type":"message"})", "a message without \"data\""},
        {R"({"type":"load"})", "the \"value\" of a load"},
        {R"({"type":"load","value":"0.5"})", "the \"value\" of a load"},
        {R"({"type":"load","value":-0.5})", "the \"value\" of a load"},
        {R"({"type":"load","value":-1})", "the \"value\" of a load"},
        {R"({"type":"load","value":[1]})", "the \"value\" of a load"},
    };
    for (const auto& [line, words] : cases) {
        auto text = refusal(line);
        CHECK_MESSAGE(contains(text, words), text);
    }
}

TEST_CASE("what is not UTF-8 is refused, with the place") {
    for (auto bytes : {"\x80", "\xFF", "\xC3", "\xC0\xAF", "\xE0\x80\xAF", "\xED\xA0\x80",
                       "\xF0\x80\x80\xAF", "\xF4\x90\x80\x80", "\xE2\x82", "\xF5\x80\x80\x80"}) {
        auto text = refusal(fmt::format(R"({{"type":"message","data":"{}"}})", bytes));
        CHECK_MESSAGE(contains(text, "not UTF-8 at byte 26"), text);
    }
}

TEST_CASE("nesting has a limit, which holds for data wherever it is sent") {
    CHECK(parse_as<MessageLine>(message_with(nested(kMaxDepth))).data == nested(kMaxDepth));
    CHECK(contains(refusal(message_with(nested(kMaxDepth + 1))), "nested deeper than 128"));
    CHECK(contains(refusal(message_with(std::string(kMaxLine - 100, '['))), "nested deeper"));
    CHECK(contains(refusal(fmt::format(R"({{"x":{},"type":"ready"}})", nested(kMaxDepth + 1))),
                   "nested deeper"));
}

TEST_CASE("an error quotes little of the line, and nothing that a terminal would obey") {
    auto text = refusal("\x1B[2J" + std::string(kMaxLine, '\x07'));
    CHECK(contains(text, "\\x1b[2J\\x07"));
    CHECK(text.size() < 100 + kMaxExcerpt);
    CHECK(contains(refusal(std::string(5000, ' ') + "here!"), "here!"));
    for (size_t length = 0; length < 200; ++length) {
        CHECK(excerpt(std::string(length, 'x')).size() <= kMaxExcerpt);
        CHECK(excerpt(std::string(length, '\n')).size() <= kMaxExcerpt);
    }
    CHECK(excerpt(std::string(70, 'x')) == std::string(70, 'x'));
    CHECK(excerpt(std::string(90, 'x')) == std::string(77, 'x') + "...");
    CHECK(excerpt("a\"\\\xC3\xA4\x7F") == "a\"\\x5c\\xc3\\xa4\\x7f");
}

TEST_CASE("the master's lines are as documented") {
    CHECK(hello_line(7, 0, 4) ==
          "{\"type\":\"hello\",\"v\":1,\"id\":7,\"instance\":0,\"workers\":4}\n");
    CHECK(message_line("{\"a\":1}", 0) ==
          "{\"type\":\"message\",\"data\":{\"a\":1},\"from\":\"master\"}\n");
    CHECK(message_line("1", 9) == "{\"type\":\"message\",\"data\":1,\"from\":9}\n");
    CHECK(disconnect_line(10s) == "{\"type\":\"disconnect\",\"deadline_ms\":10000}\n");
    CHECK(ping_line() == "{\"type\":\"ping\"}\n");
}

TEST_CASE("a stream is cut into the same lines however it arrives") {
    const std::string stream = "one\n\nthree\nfour-is-too-long\nfive\n12345678\n123456789\nhalf";
    const std::vector<std::string> expected = {"one",  "",         "three",     "!four-is-t",
                                               "five", "12345678", "!123456789"};
    for (size_t step = 1; step <= stream.size(); ++step) {
        LineSplitter splitter(8);
        std::vector<std::string> lines;
        for (size_t at = 0; at < stream.size(); at += step)
            splitter.feed(
                std::string_view(stream).substr(at, step),
                [&](std::string_view line) {
                    lines.emplace_back(line);
                    return true;
                },
                [&](std::string_view beginning) {
                    lines.push_back("!" + std::string(beginning.substr(0, 9)));
                    return true;
                });
        CHECK(splitter.unfinished() == "half");
        REQUIRE(lines.size() == expected.size());
        for (size_t i = 0; i < lines.size(); ++i) {
            // How much of a line is known when it passes the limit, depends.
            bool is_oversized = expected[i].substr(0, 1) == "!";
            CHECK((is_oversized ? lines[i].substr(0, 1) : lines[i]) ==
                  (is_oversized ? "!" : expected[i]));
        }
    }
}

TEST_CASE("an oversized line is not kept, and is told once") {
    LineSplitter splitter(1000);
    int oversized = 0;
    std::vector<std::string> lines;
    auto feed = [&](const std::string& bytes) {
        splitter.feed(
            bytes,
            [&](std::string_view line) {
                lines.emplace_back(line);
                return true;
            },
            [&](std::string_view beginning) {
                CHECK(beginning.substr(0, 3) == "xxx");
                ++oversized;
                return true;
            });
        CHECK(splitter.unfinished().size() <= 1000);
    };
    for (int i = 0; i < 10'000; ++i) feed(std::string(777, 'x'));
    CHECK(oversized == 1);
    CHECK(splitter.unfinished().empty());
    feed("the end of it\nnext\n");
    CHECK(oversized == 1);
    CHECK(lines == std::vector<std::string>{"next"});
}

TEST_CASE("a stream stops where it is told to") {
    LineSplitter splitter;
    int lines = 0;
    splitter.feed(
        "1\n2\n3\n", [&](std::string_view) { return ++lines < 2; },
        [](std::string_view) { return true; });
    CHECK(lines == 2);
}
