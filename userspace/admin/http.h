// SPDX-License-Identifier: MIT
//
// The admin port (--admin): HTTP by libmicrohttpd, on drover's own event loop, without threads.
//
// Nothing here blocks the master or grows without bound: so many connections at once and no more
// (the next is closed at once), one request each, a little memory, and ten seconds without a byte
// end it. A client that does not read costs the page that waits for it.
//
// The connections are accepted here and handed over: so that all descriptors are close-on-exec from
// their first moment, and that being out of descriptors does not become an endless loop.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string_view>

#include "admin/pages.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"
#include "supervisor/config.h"

struct MHD_Connection;
struct MHD_Daemon;

namespace drover::admin {

// The admin port's listener, for the program that goes on after an upgrade.
inline constexpr const char* kAdminFd = "DROVER_ADMIN_FD";

// Listens there. Error "conflict" where somebody else does (it is named), else "system".
[[nodiscard]] Result<Fd> listen_for_admin(const supervisor::Port& at);

// Whether only this machine reaches the address.
[[nodiscard]] bool is_loopback(std::string_view address);

class HttpServer {
  public:
    static constexpr unsigned kMostConnections = 64;
    static constexpr unsigned kMostOfOneAddress = 32;
    static constexpr std::chrono::seconds kTimeout{10};

    using Answerer = std::function<Answer(std::string_view method, std::string_view path)>;

    // `listener` listens and is nonblocking.
    static Result<std::unique_ptr<HttpServer>> open(EventLoop& loop, Fd&& listener,
                                                    Answerer answerer);
    ~HttpServer();
    HttpServer(const HttpServer&) = delete;
    HttpServer& operator=(const HttpServer&) = delete;

    [[nodiscard]] int listener() const { return listener_.get(); }

  private:
    struct Stop {
        void operator()(MHD_Daemon* daemon) const;
    };
    struct Glue;  // what the library calls

    HttpServer(EventLoop& loop, Fd&& listener, Answerer answerer);
    void listen();
    void accept_some();
    void serve();

    EventLoop& loop_;
    Answerer answerer_;
    Fd listener_;
    std::unique_ptr<MHD_Daemon, Stop> daemon_;
    EventLoop::Source on_client_, on_ready_, on_timeout_;
};

}  // namespace drover::admin
