// SPDX-License-Identifier: MIT
//
// What the admin port answers, path by path; how it gets there is http.h's business.
//
// Whoever reaches the port may read: so nothing here has a command's arguments or an environment in
// it, and nothing changes anything.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "admin/metrics.h"
#include "supervisor/types.h"

namespace drover::admin {

struct Answer {
    unsigned status = 200;
    std::string type = "text/plain; charset=utf-8";
    std::string body;
    bool tells_methods = false;  // with the methods that are allowed (405)
};
inline constexpr const char* kMethods = "GET, HEAD";

// What the pages are made from; asked only as far as a page needs it.
struct PageSources {
    std::function<supervisor::Status()> status;
    std::function<const Tally&()> tally;
    std::function<OwnProcess()> process;
};

// A HEAD is answered as a GET; to leave out the body is left to the caller.
[[nodiscard]] Answer answer_page(const PageSources& sources, std::string_view method,
                                 std::string_view path);

// Of this process, which began (by an upgrade, too) at that time.
[[nodiscard]] OwnProcess look_at_own_process(supervisor::WallTime started_at);

}  // namespace drover::admin
