// SPDX-License-Identifier: MIT
//
// Foreign bytes against the requests of the control socket and the controller: a line, and the
// arguments of every verb. Whatever is refused is refused in a line that is JSON.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "admin/schema.h"

using namespace drover::admin;

namespace {

void must(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "does not hold: %s\n", what);
    std::abort();
}

void check_reply(const Json& reply) {
    auto line = to_line(reply);
    must(line.find('\n') == std::string::npos, "a reply is one line");
    must(Json::accept(line), "a reply is JSON");
}

template <class Value>
void check_argument(int64_t id, const drover::Result<Value>& value) {
    if (value) return;
    must(value.error().code == "bad-value", "an argument is refused as such");
    check_reply(reply_error(id, value.error()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    std::string_view line(reinterpret_cast<const char*>(data), size);
    auto request = parse_request(line);
    if (!request) {
        must(request.error().code == "bad-request", "a request is refused as such");
        check_reply(reply_error({}, request.error()));
        return 0;
    }
    must(size <= kMaxRequestBytes, "what is too long is refused");
    must(!request->verb.empty(), "a request has a verb");
    must(request->args.is_object(), "arguments are an object");
    check_reply(reply_ok(request->id, request->args));
    check_argument(request->id, optional_worker(request->args));
    check_argument(request->id, required_worker(request->args));
    check_argument(request->id, worker_count(request->args));
    check_argument(request->id, signal_number(request->args));
    check_argument(request->id, policy(request->args));
    check_argument(request->id, follow(request->args));
    return 0;
}
