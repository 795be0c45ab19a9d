// SPDX-License-Identifier: MIT
//
// A server that notifies as sd_notify(3) has it, written by hand and linked statically: the
// protocol is small enough. The tests of --ready notify and --watchdog start it.
//
//     notifier [--port N] [--wait] [--by-child] [--ping-ms N]
//
// It listens on 127.0.0.1 and says READY=1; with --wait only when SIGUSR1 arrives. With --by-child
// a child of it says so. With --ping-ms it says WATCHDOG=1 so often. At SIGUSR2 it says
// STATUS=got USR2.
//
// Paths: /               "pid P instance I worker W"
//        /notify?TEXT    sends TEXT (%XX is a byte) before it answers
//        /mute           no WATCHDOG=1 any more
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct {
    int port;
    bool wait, by_child;
    int ping_ms;  // -1: no pings
} options = {.port = 8080, .ping_ms = -1};

static void die(const char* what) {
    fprintf(stderr, "notifier: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void notify(const char* text) {
    const char* path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t size;
    int fd;

    if (!path || strlen(path) >= sizeof(address.sun_path)) return;
    memcpy(address.sun_path, path, strlen(path));
    if (path[0] == '@') address.sun_path[0] = '\0';
    size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || sendto(fd, text, strlen(text), 0, (struct sockaddr*)&address, size) < 0)
        die("notify");
    close(fd);
}

static void say_ready(void) {
    if (options.by_child && fork() != 0) return;
    notify("READY=1");
    // Whoever is gone cannot be told from a stranger.
    while (options.by_child) pause();
}

// In place: "a%1bb" becomes "a\x1bb".
static void decode(char* text) {
    char* to = text;
    for (; *text; text++, to++) {
        char digits[3] = {0};
        *to = *text;
        if (*text != '%' || !text[1] || !text[2]) continue;
        memcpy(digits, text + 1, 2);
        *to = (char)strtol(digits, NULL, 16);
        text += 2;
    }
    *to = '\0';
}

static const char* variable(const char* name) {
    const char* value = getenv(name);
    return value ? value : "-";
}

static void answer(int listener) {
    char request[2048], path[1024] = "/", body[256], text[512];
    int fd = accept(listener, NULL, NULL);
    ssize_t got = fd < 0 ? -1 : recv(fd, request, sizeof(request) - 1, 0);
    if (got > 0) {
        request[got] = '\0';
        if (sscanf(request, "%*s %1023s", path) != 1) path[0] = '\0';
        decode(path);
        if (strncmp(path, "/notify?", 8) == 0) notify(path + 8);
        if (strcmp(path, "/mute") == 0) options.ping_ms = -1;
        snprintf(body, sizeof(body), "pid %d instance %s worker %s\n", getpid(),
                 variable("DROVER_INSTANCE"), variable("DROVER_WORKER_ID"));
        snprintf(text, sizeof(text),
                 "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
                 strlen(body), body);
        send(fd, text, strlen(text), MSG_NOSIGNAL);
    }
    if (fd >= 0) close(fd);
}

static int listen_on(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, (struct sockaddr*)&address, sizeof(address)) != 0) die("bind");
    if (listen(fd, 128) != 0) die("listen");
    return fd;
}

static void read_options(int argc, char** argv) {
    for (int i = 1; i < argc; i++) {
        const char* value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--port") == 0) options.port = atoi(value);
        if (strcmp(argv[i], "--ping-ms") == 0) options.ping_ms = atoi(value);
        if (strcmp(argv[i], "--wait") == 0) options.wait = true;
        if (strcmp(argv[i], "--by-child") == 0) options.by_child = true;
    }
}

int main(int argc, char** argv) {
    struct pollfd fds[2] = {{.events = POLLIN}, {.events = POLLIN}};
    struct signalfd_siginfo arrived;
    sigset_t signals;

    read_options(argc, argv);
    // Before it listens: from then on a test may send them.
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGUSR2);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    fds[0].fd = signalfd(-1, &signals, SFD_CLOEXEC);
    fds[1].fd = listen_on(options.port);
    if (!options.wait) say_ready();
    for (;;) {
        if (poll(fds, 2, options.ping_ms) < 0) die("poll");
        if (options.ping_ms >= 0) notify("WATCHDOG=1");
        if (fds[0].revents && read(fds[0].fd, &arrived, sizeof(arrived)) > 0) {
            if (arrived.ssi_signo == SIGUSR1) say_ready();
            if (arrived.ssi_signo == SIGUSR2) notify("STATUS=got USR2");
        }
        if (fds[1].revents) answer(fds[1].fd);
    }
}
