// SPDX-License-Identifier: MIT
//
// Fuzzes what a Node worker may write into its channel: any bytes, in pieces of any size. The first
// byte of the input is the size of the pieces.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "worker/node_frames.h"

using namespace drover;
using namespace drover::worker;

namespace {

// Short, so that inputs of the fuzzer's sizes reach beyond it.
constexpr size_t kLongest = 512;

void require(bool is_so) {
    if (!is_so) std::abort();
}

// What is passed on is JSON on one line, and a message that Node would not take for its own.
void check_message(const std::string& data, bool is_whole_line) {
    require(nlohmann::json::accept(data));
    require(data.find_first_of("\r\n") == std::string::npos);
    auto checked = check_node_message(data);
    require(!is_whole_line || checked.has_value());
}

void check_query(const SocketQuery& query) {
    require(query.port >= -1 && query.port <= 65535);
    require(nlohmann::json::accept(query.data));
    for (const auto& line : {node_socket_reply(1, 2, "key", query.udp, query.data),
                             node_error_reply(1, 2, "key", 98, query.data)}) {
        require(line.find('\n') == line.size() - 1);
        require(nlohmann::json::accept(line));
    }
}

void check_line(std::string_view line) {
    auto frame = parse_node_line(line);
    if (!frame) {
        require(frame.error().code == "malformed" && !frame.error().text.empty());
        return;
    }
    if (auto* message = std::get_if<NodeMessage>(&*frame)) check_message(message->data, true);
    if (auto* handle = std::get_if<NodeHandle>(&*frame); handle != nullptr && handle->message)
        check_message(*handle->message, false);
    if (auto* asked = std::get_if<NodeQuery>(&*frame)) check_query(asked->query);
    if (auto* listening = std::get_if<NodeListening>(&*frame)) check_query(listening->query);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) return 0;
    size_t piece = data[0] == 0 ? size : data[0];
    const char* bytes = reinterpret_cast<const char*>(data + 1);
    NodeLineCutter cutter(kLongest);
    size_t lines = 0;
    for (size_t at = 0; at < size - 1; at += piece) {
        cutter.feed({bytes + at, std::min(piece, size - 1 - at)});
        while (auto line = cutter.next()) {
            ++lines;
            require(line->text.size() <= kLongest);
            require(line->text.find('\n') == std::string_view::npos);
            if (!line->is_oversized) check_line(line->text);
        }
    }
    require(lines <= size);
    return 0;
}
