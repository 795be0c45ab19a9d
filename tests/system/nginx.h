// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string>

#include "harness.h"

namespace drover::test {

struct NginxOptions {
    std::string user = "root";
    std::string listen = "8080";
    std::string access_log = "off";
    std::string error_log = "stderr";
    std::string locations;  // more of its server block
};

// The command of an nginx in the foreground that answers "pid P", with all its files in the
// sandbox; none where it is not installed. It ends in order by SIGQUIT.
inline std::optional<Words> nginx(const Sandbox& sandbox, const NginxOptions& options = {}) {
    auto program = find_program("nginx");
    if (!program) return {};
    std::string file = sandbox.path("nginx.conf");
    write_file(file, fmt::format(R"(
daemon off;
user {1};
worker_processes 1;
error_log {4};
pid {0}nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log {3};
    client_body_temp_path {0}body; proxy_temp_path {0}proxy; fastcgi_temp_path {0}fastcgi;
    uwsgi_temp_path {0}uwsgi; scgi_temp_path {0}scgi;
    server {{
        listen {2};
        location / {{ return 200 "pid $pid\n"; }}
        {5}
    }}
}}
)",
                                 sandbox.path(""), options.user, options.listen, options.access_log,
                                 options.error_log, options.locations));
    return Words{*program, "-e", "stderr", "-c", file};
}

}  // namespace drover::test
