// SPDX-License-Identifier: MIT
#include "admin/http.h"

#include <fmt/format.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "steer/endpoint.h"
#include "steer/ports.h"

namespace drover::admin {

namespace {

constexpr int kBacklog = 64;
constexpr int kAcceptsAtOnce = 64;
constexpr size_t kConnectionMemory = 8192;  // bytes for a request's head and an answer's
constexpr auto kAcceptPause = std::chrono::seconds(1);

}  // namespace

bool is_loopback(std::string_view address) {
    return address.starts_with("127.") || address == "::1";
}

Result<Fd> listen_for_admin(const supervisor::Port& at) {
    auto endpoint = steer::Endpoint::parse(at.address, at.number);
    if (!endpoint) return wrap(endpoint.error(), "--admin");
    std::string doing = fmt::format("--admin: listen on {}", endpoint->text());
    sockaddr_storage address{};
    socklen_t size = endpoint->to_sockaddr(address);
    Fd socket(::socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket.is_open()) return fail_errno(errno, doing);
    int on = 1, off = 0;
    ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (address.ss_family == AF_INET6)  // [::] is IPv4, too
        ::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), size) == 0 &&
        ::listen(socket.get(), kBacklog) == 0)
        return socket;
    int error = errno;
    auto other = error == EADDRINUSE
                     ? steer::find_conflict(*endpoint, [](uint64_t) { return false; })
                     : std::nullopt;
    if (other) return fail("conflict", "--admin: " + other->text);
    return fail_errno(error, doing);
}

// -------------------------------------------------------------------------------------------------

struct HttpServer::Glue {
    // Called once a request's head is there. To answer at once, and not at the second call, ends
    // the connection: no body is read, and nobody keeps a place between two requests.
    static MHD_Result answer(void* self, MHD_Connection* connection, const char* url,
                             const char* method, const char* /*version*/, const char* /*upload*/,
                             size_t* /*upload_size*/, void** /*request*/) {
        Answer answer = static_cast<HttpServer*>(self)->answerer_(method, url);
        MHD_Response* response = MHD_create_response_from_buffer(
            answer.body.size(), answer.body.data(), MHD_RESPMEM_MUST_COPY);
        if (response == nullptr) return MHD_NO;  // closes the connection
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, answer.type.c_str());
        MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
        if (answer.tells_methods)
            MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, kMethods);
        MHD_Result queued = MHD_queue_response(connection, answer.status, response);
        MHD_destroy_response(response);  // the connection has it
        return queued;
    }
};

void HttpServer::Stop::operator()(MHD_Daemon* daemon) const {
    MHD_stop_daemon(daemon);
}

HttpServer::HttpServer(EventLoop& loop, Fd&& listener, Answerer answerer)
    : loop_(loop), answerer_(std::move(answerer)), listener_(std::move(listener)) {}

HttpServer::~HttpServer() {
    // Not after the library has closed what they look at.
    on_ready_.reset();
    on_timeout_.reset();
}

Result<std::unique_ptr<HttpServer>> HttpServer::open(EventLoop& loop, Fd&& listener,
                                                     Answerer answerer) {
    std::unique_ptr<HttpServer> self(
        new HttpServer(loop, std::move(listener), std::move(answerer)));
    self->daemon_.reset(
        MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET, /*port=*/0, nullptr, nullptr,
                         &Glue::answer, self.get(), MHD_OPTION_CONNECTION_LIMIT, kMostConnections,
                         MHD_OPTION_PER_IP_CONNECTION_LIMIT, kMostOfOneAddress,
                         MHD_OPTION_CONNECTION_TIMEOUT, static_cast<unsigned>(kTimeout.count()),
                         MHD_OPTION_CONNECTION_MEMORY_LIMIT, kConnectionMemory, MHD_OPTION_END));
    const MHD_DaemonInfo* info =
        self->daemon_ ? MHD_get_daemon_info(self->daemon_.get(), MHD_DAEMON_INFO_EPOLL_FD)
                      : nullptr;
    if (info == nullptr) return fail("system", "--admin: the HTTP server cannot be started");
    auto* server = self.get();
    self->on_ready_ = loop.on_io(info->epoll_fd, EPOLLIN, [server](uint32_t) { server->serve(); });
    self->listen();
    return self;
}

void HttpServer::listen() {
    on_client_ = loop_.on_io(listener_.get(), EPOLLIN, [this](uint32_t) { accept_some(); });
}

void HttpServer::accept_some() {
    for (int i = 0; i < kAcceptsAtOnce; i++) {
        sockaddr_storage peer{};
        socklen_t size = sizeof(peer);
        Fd socket(::accept4(listener_.get(), reinterpret_cast<sockaddr*>(&peer), &size,
                            SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (socket.is_open()) {
            // Beyond its limits the library closes it.
            MHD_add_connection(daemon_.get(), socket.release(),
                               reinterpret_cast<const sockaddr*>(&peer), size);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED) continue;
        if (errno == EAGAIN) break;
        // Out of fds or memory: the waiting client keeps the listener ready, and to try again at
        // once would take all of the CPU.
        log::warn(fmt::format("accept on the admin port: {}; once more in a second",
                              std::strerror(errno)));
        on_client_ = loop_.after(kAcceptPause, [this] { listen(); });
        break;
    }
    serve();
}

void HttpServer::serve() {
    MHD_run(daemon_.get());
    on_timeout_.reset();
    MHD_UNSIGNED_LONG_LONG milliseconds = 0;  // until the library wants to look again
    if (MHD_get_timeout(daemon_.get(), &milliseconds) != MHD_YES) return;
    on_timeout_ = loop_.after(std::chrono::milliseconds(milliseconds), [this] { serve(); });
}

}  // namespace drover::admin
