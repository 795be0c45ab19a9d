// SPDX-License-Identifier: MIT
//
// A line is read in three steps: is it UTF-8, is it JSON (nlohmann's SAX parser, which builds
// nothing; the handler keeps the few fields that the protocol has), and where do the bytes of
// `data` stand. The last step relies on the second: it walks over text that is known to be valid.
#include "worker/line_protocol.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

namespace drover::worker {

namespace {

using Json = nlohmann::json;

// --- UTF-8 -------------------------------------------------------------------------------------

bool is_continuation(std::string_view text, size_t at) {
    return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;
}

// Bytes of the character at `at`; 0 where there is no valid one.
size_t utf8_length(std::string_view text, size_t at) {
    auto first = static_cast<unsigned char>(text[at]);
    if (first < 0x80) return 1;
    auto second = at + 1 < text.size() ? static_cast<unsigned char>(text[at + 1]) : 0U;
    size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    for (size_t i = 1; i < length; ++i)
        if (!is_continuation(text, at + i)) return 0;
    bool is_valid = first >= 0xC2 && first <= 0xF4 &&      // overlong; past U+10FFFF
                    !(first == 0xE0 && second < 0xA0) &&   // overlong
                    !(first == 0xED && second >= 0xA0) &&  // surrogates
                    !(first == 0xF0 && second < 0x90) &&   // overlong
                    !(first == 0xF4 && second >= 0x90);    // past U+10FFFF
    return is_valid ? length : 0;
}

std::optional<size_t> find_invalid_utf8(std::string_view text) {
    for (size_t at = 0; at < text.size();) {
        size_t length = utf8_length(text, at);
        if (length == 0) return at;
        at += length;
    }
    return {};
}

// --- JSON --------------------------------------------------------------------------------------

enum class Field { none, type, data, to, value };

Field field_named(std::string_view name) {
    if (name == "type") return Field::type;
    if (name == "data") return Field::data;
    if (name == "to") return Field::to;
    if (name == "value") return Field::value;
    return Field::none;
}

// What was found in the line's own object. Of `data` only its place is kept: the which-th value of
// the object it is.
struct Found {
    // monostate: not there; nullptr_t: there, of a kind that no field of ours has.
    using Scalar = std::variant<std::monostate, std::nullptr_t, std::string, uint64_t, double>;
    Scalar type, to, value;
    std::optional<size_t> data;
};

class Handler : public nlohmann::json_sax<Json> {
  public:
    Found found;
    std::string refusal;               // why it was stopped, where not for bad syntax
    std::optional<size_t> bad_syntax;  // byte

    bool null() override { return keep(nullptr); }
    bool boolean(bool) override { return keep(nullptr); }
    bool number_integer(number_integer_t number) override {
        return keep(static_cast<double>(number));
    }
    bool number_unsigned(number_unsigned_t number) override { return keep(uint64_t{number}); }
    bool number_float(number_float_t number, const string_t&) override { return keep(number); }
    bool string(string_t& text) override { return keep(std::move(text)); }
    bool binary(binary_t&) override { return keep(nullptr); }
    bool start_object(size_t) override { return enter(/*is_object=*/true); }
    bool start_array(size_t) override { return enter(/*is_object=*/false); }
    bool end_object() override { return leave(); }
    bool end_array() override { return leave(); }

    bool key(string_t& name) override {
        if (depth_ != 1) return true;
        field_ = field_named(name);
        if (field_ == Field::none) {
            ++index_;
            return true;
        }
        auto bit = 1U << static_cast<unsigned>(field_);
        if ((seen_ & bit) != 0) {
            refusal = fmt::format("\"{}\" stands in it twice", name);
            return false;
        }
        seen_ |= bit;
        if (field_ == Field::data) found.data = index_;
        ++index_;
        return true;
    }

    // The library's own message quotes the whole token: it may be a megabyte.
    bool parse_error(size_t position, const std::string&,
                     const nlohmann::detail::exception&) override {
        bad_syntax = position > 0 ? position - 1 : 0;
        return false;
    }

  private:
    bool enter(bool is_object) {
        if (depth_ == 0 && !is_object) {
            refusal = "it is not an object";
            return false;
        }
        if (depth_ == 1) keep(nullptr);
        if (++depth_ <= kMaxDepth + 1) return true;  // one is the line's own object
        refusal = fmt::format("it is nested deeper than {}", kMaxDepth);
        return false;
    }

    bool leave() {
        --depth_;
        return true;
    }

    template <class Value>
    bool keep(Value&& value) {
        if (depth_ == 0) {
            refusal = "it is not an object";
            return false;
        }
        if (depth_ != 1) return true;
        if (field_ == Field::type) found.type = std::forward<Value>(value);
        if (field_ == Field::to) found.to = std::forward<Value>(value);
        if (field_ == Field::value) found.value = std::forward<Value>(value);
        return true;
    }

    int depth_ = 0;
    size_t index_ = 0;  // of the next value in the line's own object
    unsigned seen_ = 0;
    Field field_ = Field::none;
};

bool is_space(char byte) {
    return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
}

// The end of the string that begins at `at`.
size_t end_of_string(std::string_view json, size_t at) {
    for (++at; json[at] != '"'; ++at)
        if (json[at] == '\\') ++at;
    return at + 1;
}

// The bytes of the index-th value of an object. `json` is valid, and the object has so many.
std::string_view value_at(std::string_view json, size_t index) {
    int depth = 0;
    size_t begin = 0;
    for (size_t at = 0; at < json.size();) {
        char byte = json[at];
        if (byte == '"') {
            at = end_of_string(json, at);
            continue;
        }
        if (depth == 1 && byte == ':') begin = at + 1;
        bool is_last_byte = depth == 1 && (byte == ',' || byte == '}');
        if (is_last_byte && index-- == 0) {
            auto value = json.substr(begin, at - begin);
            while (!value.empty() && is_space(value.front())) value.remove_prefix(1);
            while (!value.empty() && is_space(value.back())) value.remove_suffix(1);
            return value;
        }
        if (byte == '{' || byte == '[') ++depth;
        if (byte == '}' || byte == ']') --depth;
        ++at;
    }
    return {};
}

// In valid JSON a raw line break stands between tokens alone, where a space means the same. A
// carriage return is one to many a reader, too.
std::string on_one_line(std::string_view json) {
    std::string text(json);
    for (char& byte : text)
        if (byte == '\n' || byte == '\r') byte = ' ';
    return text;
}

// --- The protocol ------------------------------------------------------------------------------

tl::unexpected<Error> refuse(std::string_view what, std::string_view line, size_t at = 0) {
    // Some bytes before the place, for whoever has to recognize it.
    constexpr size_t kBefore = 30;
    size_t begin = at > kBefore ? at - kBefore : 0;
    return fail("malformed", fmt::format("a line was refused: {}: {}", what,
                                         excerpt(line.substr(std::min(begin, line.size())))));
}

std::optional<Address> address_of(const Found::Scalar& to) {
    if (std::holds_alternative<std::monostate>(to)) return Address{};
    if (const auto* id = std::get_if<uint64_t>(&to); id != nullptr && *id > 0)
        return Address{Address::Kind::worker, *id};
    const auto* name = std::get_if<std::string>(&to);
    if (name == nullptr) return {};
    if (*name == "master") return Address{};
    if (*name == "all") return Address{Address::Kind::all};
    return {};
}

Result<WorkerLine> read_message(const Found& found, std::string_view line) {
    if (!found.data) return refuse("a message without \"data\"", line);
    auto to = address_of(found.to);
    if (!to) return refuse("\"to\" is neither \"master\", \"all\" nor a worker's id", line);
    return MessageLine{on_one_line(value_at(line, *found.data)), *to};
}

Result<WorkerLine> read_load(const Found& found, std::string_view line) {
    double value = -1;
    if (const auto* number = std::get_if<double>(&found.value)) value = *number;
    if (const auto* number = std::get_if<uint64_t>(&found.value))
        value = static_cast<double>(*number);
    if (!std::isfinite(value) || value < 0)
        return refuse("the \"value\" of a load is not a number from 0 up", line);
    return LoadLine{value};
}

}  // namespace

Result<WorkerLine> parse_worker_line(std::string_view line) {
    if (auto at = find_invalid_utf8(line))
        return refuse(fmt::format("not UTF-8 at byte {}", *at), line, *at);
    // The library takes a NUL for the end, and overlooks a byte order mark.
    if (auto at = line.find('\0'); at != std::string_view::npos)
        return refuse(fmt::format("not JSON at byte {}", at), line, at);
    if (line.substr(0, 3) == "\xEF\xBB\xBF") return refuse("not JSON at byte 0", line);

    Handler handler;
    bool is_json = Json::sax_parse(line.begin(), line.end(), &handler);
    if (!handler.refusal.empty()) return refuse(handler.refusal, line);
    if (!is_json) {
        auto at = handler.bad_syntax.value_or(0);
        return refuse(fmt::format("not JSON at byte {}", at), line, at);
    }

    const auto& found = handler.found;
    const auto* type = std::get_if<std::string>(&found.type);
    if (type == nullptr) return refuse("it has no \"type\" that is a string", line);
    if (*type == "message") return read_message(found, line);
    if (*type == "load") return read_load(found, line);
    if (*type == "ready") return ReadyLine{};
    if (*type == "disconnect") return DisconnectLine{};
    if (*type == "pong") return PongLine{};
    return UnknownLine{};
}

std::string hello_line(uint64_t worker, int instance, int workers) {
    return fmt::format("{{\"type\":\"hello\",\"v\":1,\"id\":{},\"instance\":{},\"workers\":{}}}\n",
                       worker, instance, workers);
}

std::string message_line(std::string_view data, uint64_t from) {
    auto sender = from == 0 ? std::string("\"master\"") : std::to_string(from);
    return fmt::format("{{\"type\":\"message\",\"data\":{},\"from\":{}}}\n", on_one_line(data),
                       sender);
}

std::string disconnect_line(std::chrono::milliseconds deadline) {
    return fmt::format("{{\"type\":\"disconnect\",\"deadline_ms\":{}}}\n", deadline.count());
}

std::string ping_line() {
    return "{\"type\":\"ping\"}\n";
}

std::string excerpt(std::string_view bytes) {
    constexpr std::string_view kCut = "...";
    std::string text;
    for (size_t at = 0; at < bytes.size(); ++at) {
        auto byte = static_cast<unsigned char>(bytes[at]);
        bool is_plain = byte >= 0x20 && byte < 0x7F && byte != '\\';
        auto escaped = is_plain ? std::string(1, bytes[at]) : fmt::format("\\x{:02x}", byte);
        bool is_last = at + 1 == bytes.size();
        if (text.size() + escaped.size() + (is_last ? 0 : kCut.size()) > kMaxExcerpt)
            return text.append(kCut);
        text += escaped;
    }
    return text;
}

void LineSplitter::feed(std::string_view bytes, const OnLine& on_line,
                        const OnOversized& on_oversized) {
    while (!bytes.empty()) {
        size_t end = bytes.find('\n');
        bool is_whole = end != std::string_view::npos;
        auto part = bytes.substr(0, end);
        bytes.remove_prefix(is_whole ? end + 1 : bytes.size());

        bool go_on = true;
        if (skipping_) {
            skipping_ = !is_whole;
        } else if (begun_.size() + part.size() > max_line_) {
            skipping_ = !is_whole;
            if (begun_.size() < kMaxExcerpt) begun_.append(part.substr(0, kMaxExcerpt));
            // Its memory goes with it: an oversized line is not kept.
            go_on = on_oversized(std::exchange(begun_, {}));
        } else if (!is_whole) {
            begun_.append(part);
        } else if (begun_.empty()) {
            go_on = on_line(part);
        } else {
            begun_.append(part);
            go_on = on_line(std::exchange(begun_, {}));
        }
        if (!go_on) return;
    }
}

}  // namespace drover::worker
