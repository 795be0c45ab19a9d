// SPDX-License-Identifier: MIT
//
// A small HTTP server with bad habits: it does to its listener and its processes what no tutorial
// shows and some programs do. One connection at a time, blocking; knows nothing of drover.
//
//     odd [--port N]
//         [--ports N]       listens on so many ports, from the first one on, and serves the first
//         [--daemonize]     forks twice and serves in the grandchild; its own process ends at once
//         [--early-uid N]   becomes that user before it makes its socket
//         [--late-uid N]    … after it listens
//
// Paths, each done after its answer:
//        /             "pid P instance I worker W", as all answers
//        /reopen?MS    closes the listener, waits, and listens anew
//        /dup          duplicates the listener and closes the first descriptor
//        /dup2         makes a second listener and puts it in the first one's place by dup2()
//        /churn?N      listens N times more at its port and closes that again, then as /dup2
//        /zombies?N    starts N processes that end, and never asks for them
//        /vfork?MS     starts a process with vfork() that sleeps, and waits for it
//        /hang?MS      waits in the kernel, where no signal reaches it and nothing can freeze it
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static void die(const char* what) {
    fprintf(stderr, "odd: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void sleep_ms(long ms) {
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

static int listen_on(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, (struct sockaddr*)&address, sizeof(address)) != 0) die("bind");
    if (listen(fd, 4096) != 0) die("listen");
    return fd;
}

static void become(unsigned uid) {
    if (setgroups(0, NULL) != 0 || setgid(uid) != 0 || setuid(uid) != 0) die("setuid");
}

// What serves is nobody's child in the end.
static void daemonize(void) {
    if (fork() != 0) _exit(0);
    setsid();
    if (fork() != 0) _exit(0);
}

static const char* variable(const char* name) {
    const char* value = getenv(name);
    return value ? value : "-";
}

static void answer(int fd) {
    char body[200], text[500];
    int length = snprintf(body, sizeof(body), "pid %d instance %s worker %s\n", getpid(),
                          variable("DROVER_INSTANCE"), variable("DROVER_WORKER_ID"));
    length = snprintf(text, sizeof(text),
                      "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
                      length, body);
    if (send(fd, text, (size_t)length, MSG_NOSIGNAL) < 0) fprintf(stderr, "odd: send\n");
}

static void replace_listener(int listener, int port) {
    int second = listen_on(port);
    if (dup2(second, listener) < 0) die("dup2");
    close(second);
}

// Reads a page of its own that is only made after so long (userfaultfd), through a system call that
// waits for it uninterruptibly.
static void hang(long ms) {
    struct uffdio_api api = {.api = UFFD_API};
    long size = sysconf(_SC_PAGESIZE);
    char byte;
    char* page =
        mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_register range = {
        {(unsigned long)page, (unsigned long)size}, UFFDIO_REGISTER_MODE_MISSING, 0};
    struct iovec here = {&byte, 1}, there = {page, 1};
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) != 0 || ioctl(fd, UFFDIO_REGISTER, &range) != 0)
        die("userfaultfd");
    if (fork() == 0) {
        struct uffdio_zeropage made = {range.range, 0, 0};
        sleep_ms(ms);
        ioctl(fd, UFFDIO_ZEROPAGE, &made);
        _exit(0);
    }
    close(fd);
    printf("hangs\n");
    process_vm_readv(getpid(), &here, 1, &there, 1, 0);
}

// The listener that there is afterwards.
static int do_odd_things(const char* path, int listener, int port) {
    const char* argument = strchr(path, '?');
    long number = argument ? atol(argument + 1) : 0;
    if (strncmp(path, "/reopen", 7) == 0) {
        close(listener);
        sleep_ms(number);
        return listen_on(port);
    }
    if (strcmp(path, "/dup") == 0) {
        int copy = dup(listener);
        close(listener);
        return copy;
    }
    if (strcmp(path, "/dup2") == 0) replace_listener(listener, port);
    if (strncmp(path, "/churn", 6) == 0) {
        for (long i = 0; i < number; i++) close(listen_on(port));
        replace_listener(listener, port);
        printf("churned\n");
    }
    if (strncmp(path, "/zombies", 8) == 0)
        for (long i = 0; i < number; i++)
            if (fork() == 0) _exit(0);
    if (strncmp(path, "/hang", 5) == 0) hang(number);
    if (strncmp(path, "/vfork", 6) == 0 && vfork() == 0) {
        sleep_ms(number);
        _exit(0);
    }
    return listener;
}

static void serve(int listener, int port) {
    for (;;) {
        char request[2048], path[512] = "/";
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        ssize_t length;
        if (fd < 0) continue;
        length = recv(fd, request, sizeof(request) - 1, 0);
        request[length > 0 ? length : 0] = '\0';
        if (length > 0 && sscanf(request, "%*s %511s", path) == 1) answer(fd);
        close(fd);
        listener = do_odd_things(path, listener, port);
    }
}

int main(int argc, char** argv) {
    int port = 8080, ports = 1, listener;
    unsigned early_uid = 0, late_uid = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < argc; i++) {
        const char* name = argv[i];
        if (strcmp(name, "--daemonize") == 0) {
            daemonize();
            continue;
        }
        int value = ++i < argc ? atoi(argv[i]) : 0;
        if (strcmp(name, "--port") == 0) port = value;
        if (strcmp(name, "--ports") == 0) ports = value;
        if (strcmp(name, "--early-uid") == 0) early_uid = (unsigned)value;
        if (strcmp(name, "--late-uid") == 0) late_uid = (unsigned)value;
    }
    if (early_uid) become(early_uid);
    listener = listen_on(port);
    for (int i = 1; i < ports; i++) listen_on(port + i);
    if (late_uid) become(late_uid);
    serve(listener, port);
    return 0;
}
