// SPDX-License-Identifier: MIT
#include "logger/settings.h"

#include <nlohmann/json.hpp>

namespace drover::logger {

namespace {

using Json = nlohmann::json;

// A positive number; nothing where it is anything else.
template <class Number>
void read_number(const Json& object, const char* name, Number& to) {
    auto found = object.find(name);
    if (found == object.end() || !found->is_number_unsigned() || *found == 0U) return;
    to = static_cast<Number>(found->get<uint64_t>());
}

}  // namespace

Settings parse_settings(std::string_view text) {
    Settings settings;
    auto json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) return settings;
    if (auto file = json.find("file"); file != json.end() && file->is_string())
        settings.file = *file;
    read_number(json, "size", settings.size);
    read_number(json, "keep", settings.keep);
    if (auto rate = json.find("rate"); rate != json.end() && rate->is_object()) {
        uint64_t milliseconds = 0;
        read_number(*rate, "lines", settings.rate.lines);
        read_number(*rate, "ms", milliseconds);
        if (milliseconds > 0) settings.rate.within = std::chrono::milliseconds(milliseconds);
    }
    return settings;
}

}  // namespace drover::logger
