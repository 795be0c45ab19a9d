// SPDX-License-Identifier: MIT
//
// Recoverable errors are values: a function that can fail returns Result<T>.
//
// The text is a sentence for a person: what was being done to which object, and why it failed. Each
// layer may put context in front (`wrap`); the error is reported once, where it is handled.
#pragma once

#include <cstring>
#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace drover {

struct Error {
    std::string code;  // short and stable, for programs: "no-such-worker", "system", "conflict" …
    std::string text;  // one sentence, for people
    int number = 0;    // errno where a system call failed, else 0
};

template <class T>
using Result = tl::expected<T, Error>;

inline tl::unexpected<Error> fail(std::string code, std::string text) {
    return tl::unexpected<Error>(Error{std::move(code), std::move(text), 0});
}

// A system call failed: "<doing>: <strerror>".
inline tl::unexpected<Error> fail_errno(int number, const std::string& doing) {
    return tl::unexpected<Error>(Error{"system", doing + ": " + std::strerror(number), number});
}

// The same error with context in front: "<doing>: <text>".
inline tl::unexpected<Error> wrap(Error error, const std::string& doing) {
    error.text = doing + ": " + error.text;
    return tl::unexpected<Error>(std::move(error));
}

}  // namespace drover
