// SPDX-License-Identifier: MIT
//
// The control socket, spoken to by hand as a program of a user's would: VOCABULARY's requests and
// replies, one JSON object a line.
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstdio>

#include "harness.h"
#include "http.h"

namespace drover::test {

namespace {

class Control {
  public:
    explicit Control(const std::string& path) {
        fd_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::snprintf(address.sun_path, sizeof(address.sun_path), "%s", path.c_str());
        REQUIRE(::connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    }

    void send(const std::string& text) {
        CHECK(::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL) ==
              static_cast<ssize_t>(text.size()));
    }

    // The next line as JSON; null at the end of the stream or the deadline.
    Json receive() {
        for (;;) {
            auto end = buffer_.find('\n');
            if (end != std::string::npos) {
                Json json = Json::parse(buffer_.substr(0, end), nullptr, false);
                buffer_.erase(0, end + 1);
                return json;
            }
            pollfd waiting{fd_.get(), POLLIN, 0};
            char bytes[4096];
            if (::poll(&waiting, 1, static_cast<int>(kDeadline.count())) != 1) return {};
            ssize_t got = ::recv(fd_.get(), bytes, sizeof(bytes), 0);
            if (got <= 0) return {};
            buffer_.append(bytes, static_cast<size_t>(got));
        }
    }

    Json ask(const Json& request) {
        send(request.dump() + "\n");
        return receive();
    }

  private:
    Fd fd_;
    std::string buffer_;
};

}  // namespace

TEST_SUITE_BEGIN("cli");

TEST_CASE("the control socket answers requests by their id") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    Control control(sandbox.run_folder() + "/web/control.sock");
    Json status = control.ask({{"v", 1}, {"id", 7}, {"verb", "status"}, {"args", Json::object()}});
    INFO(status.dump());
    CHECK(status["id"] == 7);
    CHECK(status["ok"] == true);
    CHECK(status["data"]["cluster"] == "web");
    Json scale = control.ask({{"v", 1}, {"id", 8}, {"verb", "scale"}, {"args", {{"n", 2}}}});
    CHECK(scale["id"] == 8);
    CHECK(scale["ok"] == true);
    CHECK(cluster.status()["ready"] == 2);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("the control socket answers what it does not understand with a code and a sentence") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    Control control(sandbox.run_folder() + "/web/control.sock");
    for (const Json& request :
         {Json{{"v", 1}, {"id", 1}, {"verb", "fly"}, {"args", Json::object()}},
          Json{{"v", 1}, {"id", 1}, {"verb", "scale"}, {"args", {{"n", "many"}}}},
          Json{{"v", 1}, {"id", 1}, {"verb", "scale"}, {"args", {{"n", 100000}}}},
          Json{{"v", 1}, {"id", 1}, {"verb", "drain"}, {"args", {{"worker", 99}}}}}) {
        Json reply = control.ask(request);
        INFO(request.dump(), " → ", reply.dump());
        CHECK(reply["id"] == 1);
        CHECK(reply["ok"] == false);
        REQUIRE(reply["error"].is_object());
        CHECK(reply["error"]["code"].is_string());
        CHECK(reply["error"]["text"].is_string());
    }
    CHECK(cluster.stop() == 0);
}

TEST_CASE("nonsense on the control socket harms nobody") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    for (const std::string& text :
         {std::string("not json\n"), std::string("\0\xff\xfe\n", 4), std::string("[]\n"),
          std::string(3 << 20, 'x'), std::string(100'000, '[') + "\n"}) {
        Control control(sandbox.run_folder() + "/web/control.sock");
        // The master may hang up in the middle of an endless line: that is an answer, too.
        std::string sent = text.substr(0, 1 << 16);
        control.send(sent);
    }
    CHECK(cluster.status()["ready"] == 1);
    CHECK(get("127.0.0.1", 8080).ok());
    CHECK(cluster.stop() == 0);
}

TEST_CASE("the control socket is root's alone") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, hello());
    REQUIRE(cluster.wait_ready(1));
    struct stat info {};
    REQUIRE(::stat((sandbox.run_folder() + "/web/control.sock").c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == 0600);
    CHECK(info.st_uid == 0);
    CHECK(cluster.stop() == 0);
}

TEST_SUITE_END();

}  // namespace drover::test
