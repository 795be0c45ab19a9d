// SPDX-License-Identifier: MIT
//
// A line is looked at twice. First without building anything (Outline): is it JSON, how deep, and
// what is its "cmd"? Only what Node itself says, a few hundred bytes as a rule, is then made a
// tree. The tree is nlohmann::json and not ordered_json, whose objects are searched from end to
// end: a worker could keep the master busy for minutes with one line of many names.
#include "worker/node_frames.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

namespace drover::worker {

namespace {

using nlohmann::json;

constexpr std::string_view kOwnPrefix = "NODE_";
constexpr std::string_view kCluster = "NODE_CLUSTER";
constexpr std::string_view kHandle = "NODE_HANDLE";
// What a worker wants to be echoed: TLS ticket keys are a hundred bytes. Several answers may wait
// in the master at the same time.
constexpr size_t kMaxEcho = 4 * 1024;

// What can be said of a line without a tree: the callbacks of nlohmann's SAX parser.
class Outline {
  public:
    bool null() { return true; }
    bool boolean(bool) { return true; }
    bool number_integer(json::number_integer_t) { return true; }
    bool number_unsigned(json::number_unsigned_t) { return true; }
    bool number_float(json::number_float_t, const std::string&) { return true; }
    bool binary(json::binary_t&) { return true; }
    bool string(std::string& value) {
        if (is_at_cmd_ && depth_ == 1) cmd_ = std::move(value);
        return true;
    }
    bool key(std::string& name) {
        if (depth_ != 1) return true;
        is_at_cmd_ = name == "cmd";
        if (is_at_cmd_) cmd_.clear();  // of two, the last one counts, as in JSON.parse
        return true;
    }
    bool start_object(size_t) { return enter(); }
    bool end_object() { return leave(); }
    bool start_array(size_t) { return enter(); }
    bool end_array() { return leave(); }
    bool parse_error(size_t position, const std::string&, const json::exception&) {
        position_ = position;
        return false;
    }

    // As Node decides it: the prefix alone is nobody's.
    [[nodiscard]] bool is_nodes_own() const {
        return cmd_.size() > kOwnPrefix.size() && cmd_.starts_with(kOwnPrefix);
    }
    [[nodiscard]] const std::string& cmd() const { return cmd_; }
    [[nodiscard]] bool is_too_deep() const { return depth_ > kMaxDepth; }
    [[nodiscard]] size_t position() const { return position_; }

  private:
    bool enter() { return ++depth_ <= kMaxDepth; }
    bool leave() {
        --depth_;
        return true;
    }

    int depth_ = 0;
    bool is_at_cmd_ = false;
    std::string cmd_;
    size_t position_ = 0;
};

Result<Outline> outline(std::string_view text) {
    Outline outline;
    if (json::sax_parse(text, &outline)) return outline;
    if (outline.is_too_deep())
        return fail("malformed", fmt::format("JSON nested deeper than {}", kMaxDepth));
    return fail("malformed", fmt::format("not JSON in UTF-8: wrong at byte {} of {}",
                                         std::min(outline.position(), text.size()), text.size()));
}

json tree(std::string_view text) {
    return json::parse(text, nullptr, /*allow_exceptions=*/false);
}

std::string text_of(const json& value) {
    return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

const json* member(const json& object, const char* name) {
    auto found = object.find(name);
    return found == object.end() ? nullptr : &*found;
}

// Nothing where it is no whole number, or one beyond an int.
std::optional<int> int_member(const json& object, const char* name) {
    const json* value = member(object, name);
    if (value == nullptr || !value->is_number_integer()) return {};
    if (value->is_number_unsigned() &&
        value->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int>::max()))
        return {};
    auto number = value->get<int64_t>();
    if (number < std::numeric_limits<int>::min()) return {};
    return static_cast<int>(number);
}

std::string string_member(const json& object, const char* name) {
    const json* value = member(object, name);
    return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}

bool is_true(const json& object, const char* name) {
    const json* value = member(object, name);
    return value != nullptr && value->is_boolean() && value->get<bool>();
}

std::optional<uint64_t> seq_of(const json& frame) {
    const json* value = member(frame, "seq");
    if (value == nullptr || !value->is_number_unsigned()) return {};
    return value->get<uint64_t>();
}

tl::unexpected<Error> lacks(const std::string& act, const char* what) {
    return fail("malformed", fmt::format("Node's {} has no usable {}", act, what));
}

// What queryServer and listening have in common. A listen({fd}) has no address, port or type.
Result<SocketQuery> parse_query(const json& frame, const std::string& act) {
    SocketQuery query;
    query.address = string_member(frame, "address");
    query.fd = int_member(frame, "fd").value_or(-1);
    query.port = int_member(frame, "port").value_or(query.fd >= 0 ? -1 : 0);
    query.flags = int_member(frame, "flags").value_or(0);
    query.backlog = int_member(frame, "backlog").value_or(0);  // false is 0
    query.index = int_member(frame, "index").value_or(0);
    query.readable_all = is_true(frame, "readableAll");
    query.writable_all = is_true(frame, "writableAll");
    if (query.port < -1 || query.port > 65535) return lacks(act, "port");

    auto type = string_member(frame, "addressType");
    auto number = int_member(frame, "addressType");
    query.udp = type == "udp4" || type == "udp6";
    if (query.udp)
        query.address_type = type == "udp6" ? 6 : 4;
    else if (number)
        query.address_type = *number;
    else if (query.fd < 0)
        return lacks(act, "addressType");
    if (query.address_type != 4 && query.address_type != 6 && query.address_type != -1)
        return lacks(act, "addressType");
    if (query.address_type == -1 && query.address.empty()) return lacks(act, "address");
    // What is given to system calls as a string ends at its first zero; only the name of a unix
    // socket in the abstract name space begins with one.
    auto zero = query.address.find('\0');
    if (zero != std::string::npos && (zero > 0 || query.address_type != -1))
        return lacks(act, "address");

    const json* data = member(frame, "data");
    if (data != nullptr) query.data = text_of(*data);
    if (query.data.size() > kMaxEcho) return lacks(act, "data: it is too long");
    return query;
}

Result<NodeFrame> parse_cluster_frame(const json& frame) {
    auto act = string_member(frame, "act");
    auto seq = seq_of(frame);
    if (act == "online") return NodeOnline{};
    if (act == "close") return NodeServerClosed{};
    if (act == "exitedAfterDisconnect") {
        if (!seq) return lacks(act, "seq");
        return NodeLeaving{*seq};
    }
    if (act == "listening") {
        auto query = parse_query(frame, act);
        if (!query) return tl::unexpected<Error>(query.error());
        return NodeListening{std::move(*query)};
    }
    if (act == "queryServer") {
        if (!seq) return lacks(act, "seq");
        auto query = parse_query(frame, act);
        if (!query) return tl::unexpected<Error>(query.error());
        return NodeQuery{*seq, std::move(*query)};
    }
    return NodeUnknown{};
}

// A message that is Node's own and comes with a handle is for Node's primary alone.
NodeFrame parse_handle(const json& frame) {
    const json* message = member(frame, "msg");
    if (message == nullptr) return NodeHandle{};
    if (message->is_object()) {
        auto cmd = string_member(*message, "cmd");
        bool is_nodes_own = cmd.size() > kOwnPrefix.size() && cmd.starts_with(kOwnPrefix);
        if (is_nodes_own) return NodeHandle{};
    }
    return NodeHandle{text_of(*message)};
}

// Outside of a string, where alone it may stand, a carriage return is a space.
std::string without_line_breaks(std::string_view text) {
    constexpr std::string_view kSpace = " \t\r";
    auto first = text.find_first_not_of(kSpace);
    auto last = text.find_last_not_of(kSpace);
    std::string result(text.substr(first, last - first + 1));
    std::replace(result.begin(), result.end(), '\r', ' ');
    return result;
}

std::string line_of(const json& frame) {
    return text_of(frame) + "\n";
}

// `data` is put in as the text it is.
std::string reply(uint64_t ack, uint64_t seq, const std::string& key, int error,
                  const std::string& data) {
    return fmt::format(
        R"({{"cmd":"NODE_CLUSTER","errno":{},"key":{},"ack":{},"seq":{},"data":{}}})", error,
        text_of(key), ack, seq, data);
}

}  // namespace

// --- Lines ---------------------------------------------------------------------------------------

void NodeLineCutter::feed(std::span<const char> bytes) {
    std::string_view text(bytes.data(), bytes.size());
    if (is_skipping_) {
        auto end = text.find('\n');
        if (end == std::string_view::npos) return;
        text.remove_prefix(end + 1);
        is_skipping_ = false;
    }
    buffer_.erase(0, begin_);
    scanned_ -= begin_;
    begin_ = 0;
    buffer_.append(text);
}

std::optional<NodeLineCutter::Line> NodeLineCutter::next() {
    auto end = buffer_.find('\n', scanned_);
    if (end == std::string::npos) {
        scanned_ = buffer_.size();
        if (buffer_.size() - begin_ <= longest_) return {};
        buffer_.clear();
        begin_ = scanned_ = 0;
        is_skipping_ = true;
        return Line{{}, true};
    }
    auto text = std::string_view(buffer_).substr(begin_, end - begin_);
    begin_ = scanned_ = end + 1;
    if (text.size() > longest_) return Line{{}, true};
    return Line{text, false};
}

// --- What a worker says --------------------------------------------------------------------------

Result<NodeFrame> parse_node_line(std::string_view line) {
    auto outlined = outline(line);
    if (!outlined) return tl::unexpected<Error>(outlined.error());
    if (!outlined->is_nodes_own()) return NodeMessage{without_line_breaks(line)};
    const auto& cmd = outlined->cmd();
    if (cmd == "NODE_HANDLE_ACK") return NodeHandleAnswer{true};
    if (cmd == "NODE_HANDLE_NACK") return NodeHandleAnswer{false};
    if (cmd != kCluster && cmd != kHandle) return NodeUnknown{};
    auto frame = tree(line);
    if (!frame.is_object()) return fail("malformed", "not JSON");
    if (cmd == kCluster) return parse_cluster_frame(frame);
    return parse_handle(frame);
}

Result<void> check_node_message(std::string_view data) {
    if (data.size() > kMaxLine)
        return fail("oversized", fmt::format("a message of {} bytes; at most {} can be sent",
                                             data.size(), kMaxLine));
    if (data.find('\n') != std::string_view::npos)
        return fail("malformed", "the message has a line break");
    auto outlined = outline(data);
    if (!outlined) return tl::unexpected<Error>(outlined.error());
    if (outlined->is_nodes_own())
        return fail("reserved",
                    "a message whose \"cmd\" begins with NODE_ is one of Node's own and cannot be "
                    "sent to a Node worker");
    return {};
}

// --- What the master says ------------------------------------------------------------------------

std::string node_ack(uint64_t ack, uint64_t seq) {
    return line_of({{"cmd", kCluster}, {"ack", ack}, {"seq", seq}});
}

std::string node_disconnect(uint64_t seq) {
    return line_of({{"cmd", kCluster}, {"act", "disconnect"}, {"seq", seq}});
}

std::string node_handle_ack() {
    return line_of({{"cmd", "NODE_HANDLE_ACK"}});
}

std::string node_socket_reply(uint64_t ack, uint64_t seq, const std::string& key, bool udp,
                              const std::string& data) {
    return fmt::format(R"({{"cmd":"NODE_HANDLE","type":"{}","msg":{}}})",
                       udp ? "dgram.Native" : "net.Native", reply(ack, seq, key, 0, data)) +
           "\n";
}

std::string node_error_reply(uint64_t ack, uint64_t seq, const std::string& key, int error,
                             const std::string& data) {
    return reply(ack, seq, key, -error, data) + "\n";
}

}  // namespace drover::worker
