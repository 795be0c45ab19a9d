// SPDX-License-Identifier: MIT
//
// An HTTP server that serves one connection at a time, one request each, and takes as long for it
// as the request says: a server of known behaviour, for the bench and the tests of its load
// generator. While it serves one, the others wait in its accept queue, as with any pre-fork server.
//
//     blocking [--port N] [--reuseport] [--backlog N]
//
//     GET /work?ms=2        sleeps until 2 ms after accept(): so long this connection occupies it,
//     what
//                           it takes to read the request included, so that a load of 0.9 is one
//     GET /work?burn_ms=20  uses 20 ms of CPU time
//
// It answers with its process id, in the header X-Worker and as "pid N". Where a listening socket
// was passed to it (LISTEN_FDS, LISTEN_PID), it takes that; started several times with the same
// one, the processes share one accept queue. It sets SO_REUSEPORT only when it is told to.
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { kFirstPassedFd = 3 };

static void die(const char* what) {
    fprintf(stderr, "blocking: %s: %s\n", what, strerror(errno));
    exit(1);
}

static bool was_passed_a_socket(void) {
    const char* pid = getenv("LISTEN_PID");
    const char* count = getenv("LISTEN_FDS");
    return pid && count && atoi(pid) == getpid() && atoi(count) >= 1;
}

static int listen_on(int port, bool reuseport, int backlog) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (reuseport) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
    if (bind(fd, (struct sockaddr*)&address, sizeof(address)) != 0) die("bind");
    if (listen(fd, backlog) != 0) die("listen");
    return fd;
}

static int64_t now_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void sleep_until(int64_t end) {
    struct timespec until = {.tv_sec = end / 1000000000, .tv_nsec = end % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
    }
}

// CPU time, not time: who is kept from the CPU meanwhile has not done the work.
static void burn(int64_t ns) {
    int64_t end = now_ns(CLOCK_THREAD_CPUTIME_ID) + ns;
    while (now_ns(CLOCK_THREAD_CPUTIME_ID) < end) {
    }
}

// The number behind `name` in the request, given in ms; 0 where it is not there.
static int64_t ns_of(const char* request, const char* name) {
    const char* at = strstr(request, name);
    return at ? (int64_t)(strtod(at + strlen(name), NULL) * 1e6) : 0;
}

static void serve(int fd) {
    int64_t accepted = now_ns(CLOCK_MONOTONIC);
    char request[4096], body[32], text[256];
    size_t length = 0;
    int body_length;

    do {
        ssize_t got = recv(fd, request + length, sizeof(request) - 1 - length, 0);
        if (got <= 0) return;
        length += (size_t)got;
        request[length] = '\0';
    } while (!strstr(request, "\r\n\r\n") && length < sizeof(request) - 1);
    *strchrnul(request, '\r') = '\0';  // the first line has all that counts

    sleep_until(accepted + ns_of(request, "?ms="));
    burn(ns_of(request, "?burn_ms="));
    body_length = snprintf(body, sizeof(body), "pid %d\n", getpid());
    length = (size_t)snprintf(text, sizeof(text),
                              "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Worker: %d\r\n"
                              "Connection: close\r\n\r\n%s",
                              body_length, getpid(), body);
    if (send(fd, text, length, MSG_NOSIGNAL) < 0) return;  // the client has gone: its own affair
}

int main(int argc, char** argv) {
    int port = 8080, backlog = 4096, listener;
    bool reuseport = false;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--reuseport") == 0) {
            reuseport = true;
        } else if (strcmp(argv[i], "--port") == 0 && i + 1 < argc) {
            port = atoi(argv[++i]);
        } else if (strcmp(argv[i], "--backlog") == 0 && i + 1 < argc) {
            backlog = atoi(argv[++i]);
        } else {
            fprintf(stderr, "usage: blocking [--port N] [--reuseport] [--backlog N]\n");
            return 2;
        }
    }
    prctl(PR_SET_TIMERSLACK, 1UL);  // ns: 2 ms are to be 2 ms
    listener = was_passed_a_socket() ? kFirstPassedFd : listen_on(port, reuseport, backlog);
    printf("listening on port %d\n", port);
    fflush(stdout);
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) continue;
        serve(fd);
        close(fd);
    }
}
