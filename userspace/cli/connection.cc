// SPDX-License-Identifier: MIT
#include "cli/connection.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>

#include "base/sys.h"
#include "cli/terminal.h"

namespace drover::cli {

Result<Connection> Connection::open(const std::string& socket_path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (socket_path.size() >= sizeof(address.sun_path))
        return fail_errno(ENAMETOOLONG, fmt::format("connect to {}", socket_path));
    socket_path.copy(address.sun_path, socket_path.size());

    Connection connection;
    connection.socket_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!connection.socket_.is_open()) return fail_errno(errno, "make a socket");
    const auto* generic = reinterpret_cast<const sockaddr*>(&address);
    if (::connect(connection.socket_.get(), generic, sizeof(address)) != 0)
        return fail_errno(errno, fmt::format("connect to {}", socket_path));
    return connection;
}

Fd Connection::master() const {
    ucred peer{};
    socklen_t size = sizeof(peer);
    if (::getsockopt(fd(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid <= 0) return {};
    return Fd(sys::pidfd_open(peer.pid));
}

Result<void> Connection::send(const Json& request) {
    std::string line = request.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    for (std::string_view rest = line; !rest.empty();) {
        ssize_t sent = ::send(socket_.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) return fail_errno(errno, "send the request");
        rest.remove_prefix(static_cast<size_t>(sent));
    }
    return {};
}

Result<std::optional<std::string>> Connection::read_line() {
    for (;;) {
        if (auto line = take_line()) return line;
        auto more = receive(0);
        if (!more) return tl::unexpected(more.error());
        if (!*more) return std::nullopt;
    }
}

Result<bool> Connection::receive() {
    return receive(MSG_DONTWAIT);
}

Result<bool> Connection::receive(int flags) {
    char buffer[65536];
    ssize_t count = ::recv(socket_.get(), buffer, sizeof(buffer), flags);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) return true;
    // A master that is killed while it has our bytes unread ends with a reset.
    if (count == 0 || (count < 0 && errno == ECONNRESET)) return false;
    if (count < 0) return fail_errno(errno, "read the reply");
    received_.append(buffer, static_cast<size_t>(count));
    return true;
}

std::optional<std::string> Connection::take_line() {
    auto newline = received_.find('\n', searched_);
    searched_ = newline == std::string::npos ? received_.size() : 0;
    if (newline == std::string::npos) return std::nullopt;
    auto line = received_.substr(0, newline);
    received_.erase(0, newline + 1);
    return line;
}

Json make_request(const std::string& verb, Json args, int64_t id) {
    return {{"v", 1}, {"id", id}, {"verb", verb}, {"args", std::move(args)}};
}

Result<Json> parse_reply(const std::string& line) {
    return read_reply(Json::parse(line, nullptr, false));
}

Result<Json> read_reply(const Json& reply) {
    if (!reply.is_object() || !reply.contains("ok") || !reply["ok"].is_boolean())
        return fail("protocol",
                    "the master's answer is not understood: are the client and the "
                    "master of one version?");
    if (reply["ok"] == true) return reply.contains("data") ? reply["data"] : Json::object();

    Error error{"failed", "the master refused and gave no reason", 0};
    const auto& given = field(reply, "error");
    if (!given.is_object()) return tl::unexpected(error);
    if (given.contains("code") && given["code"].is_string()) error.code = given["code"];
    if (given.contains("text") && given["text"].is_string())
        error.text = escape_lines(given["text"].get_ref<const std::string&>());
    return tl::unexpected(error);
}

}  // namespace drover::cli
