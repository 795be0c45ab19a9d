// SPDX-License-Identifier: MIT
#include "cli/fields.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/terminal.h"

namespace drover::cli {

const Json& field(const Json& object, const char* key) {
    static const Json kNull;
    if (!object.is_object()) return kNull;
    auto found = object.find(key);
    return found == object.end() ? kNull : *found;
}

std::string show(const Json& value) {
    if (value.is_null()) return "-";
    if (!value.is_string())
        return escape(value.dump(-1, ' ', false, Json::error_handler_t::replace));
    const auto& text = value.get_ref<const std::string&>();
    return text.empty() ? "-" : escape(text);
}

std::string show(const Json& object, const char* key) {
    return show(field(object, key));
}

std::string text_of(const Json& object, const char* key) {
    const auto& value = field(object, key);
    return value.is_null() || value == "" ? "" : show(value);
}

uint64_t number_of(const Json& object, const char* key) {
    const auto& value = field(object, key);
    if (value.is_number_unsigned()) return value.get<uint64_t>();
    if (value.is_number_integer())
        return static_cast<uint64_t>(std::max(value.get<int64_t>(), int64_t{0}));
    return 0;
}

std::string join(const Json& array, std::string_view separator) {
    std::string result;
    if (!array.is_array()) return show(array);
    for (const auto& element : array)
        result += (result.empty() ? "" : std::string(separator)) + show(element);
    return result.empty() ? "-" : result;
}

std::string listener(const Json& data) {
    auto address = show(data, "addr");
    if (address.find(':') != std::string::npos) address = fmt::format("[{}]", address);
    return fmt::format("{} {}:{}{}", show(data, "proto"), address, show(data, "port"),
                       field(data, "v6only") == true ? " (IPv6 only)" : "");
}

}  // namespace drover::cli
