// SPDX-License-Identifier: MIT
//
// Reading a master's JSON without surprises: a field that is absent or strange is null, and what is
// shown of it is escaped.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace drover::cli {

using Json = nlohmann::ordered_json;  // keeps the order in which the fields came

// The member of that name; null where `object` has none, or is none.
const Json& field(const Json& object, const char* key);

// Any value as a short text; "-" for null and for an empty text.
std::string show(const Json& value);
std::string show(const Json& object, const char* key);

// The same, but "" for null.
std::string text_of(const Json& object, const char* key);

// 0 for what is no number, or a negative one.
uint64_t number_of(const Json& object, const char* key);

// Elements of an array of texts or numbers, joined; "-" where there is none.
std::string join(const Json& array, std::string_view separator);

// "tcp 0.0.0.0:80", "tcp [::1]:80", with " (IPv6 only)" where it is: of a group or an event's data.
std::string listener(const Json& data);

}  // namespace drover::cli
