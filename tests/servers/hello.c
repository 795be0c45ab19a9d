// SPDX-License-Identifier: MIT
//
// A small HTTP server as a user might have written it: it binds, listens and serves, and knows
// nothing of drover. Linked statically, so nothing could be preloaded into it. The tests, the
// demo (scripts/quickstart) and the bench use it.
//
//     hello [--port N] [--addr A]… [--v6only] [--reuseport] [--extra-port N]… [--backlog N]
//           [--passed]           accept from descriptor 3, a listener that several share, instead
//           [--block]            serve one connection at a time, with blocking calls
//           [--work-us N]        compute for so long in each request
//           [--log FILE]         append one line for each request
//           [--accept-log FILE]  count accepted and answered connections in a shared file
//           [--exit-after-ms N]  end with status 3 so long after the start, whatever is under way
//           [--sick-while FILE]  /health is 503 while there is such a file
//           [--delay-listen-ms N] [--detach] [--ignore-term] [--exit CODE] [--fail-instance N]
//
// Paths: /             "pid P instance I worker W"
//        /env          the environment                /process   ids, limits, descriptors at start
//        /hold         answers, leaves the connection open whatever the client asked for
//        /wait?MS      answers after so long, serving others meanwhile
//        /spin?MS      computes for so long, serving nobody meanwhile
//        /use?MIB      uses so much more memory from now on
//        /out?TEXT     prints a line                  /err?TEXT  the same on standard error
//        /health       200, or 503         /sick, /well   from now on it is 503 or 200
//        /exit?CODE    ends after the answer          /crash     ends by a signal, unanswered
//        /detach       what SO_DETACH_REUSEPORT_BPF said (with --detach)
//
// It sets SO_REUSEADDR as servers do, and SO_REUSEPORT only when it is told to (--reuseport: the
// bench's copies without drover). SIGTERM ends it at once: what it has
// accepted and not answered is lost. The counters make that number known: `accepted` is raised
// before accept() is called and lowered if nothing was there, `answered` after the answer was
// written, so that accepted − answered is never less than what a SIGKILL destroyed.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_DETACH_REUSEPORT_BPF
#define SO_DETACH_REUSEPORT_BPF 68
#endif

enum { kPassedFd = 3, kMaxListeners = 16, kMaxFds = 65536, kBuffer = 2048, kBody = 16384 };

struct counters {
    _Atomic uint64_t accepted;
    _Atomic uint64_t answered;
};

struct connection {
    char request[kBuffer];
    size_t length;
    int64_t answer_at_ms;  // 0: nothing waits
    bool keep_alive;       // of the answer that waits
};

static struct {
    const char* addresses[kMaxListeners];
    int address_count;
    int ports[kMaxListeners];
    int port_count;
    int backlog;
    int log_fd;
    int detach_errno;  // -1: not tried
    int64_t work_us;
    int64_t delay_listen_ms;
    bool v6only, reuseport, passed, block, detach, sick;
    const char* sick_while;
    struct counters* counters;
    char fds_at_start[512];
} server = {.backlog = 4096, .log_fd = -1, .detach_errno = -1};

static struct connection* connections[kMaxFds];
static int waiting;  // connections with answer_at_ms
static int epoll_fd = -1;

static int64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void compute(int64_t microseconds) {
    int64_t end = now_us() + microseconds;
    while (microseconds > 0 && now_us() < end) {
    }
}

static void use_memory(size_t bytes) {
    (void)mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1,
               0);
}

static void die(const char* what) {
    fprintf(stderr, "hello: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void on_term(int number) {
    (void)number;
    _exit(0);
}

static void on_usr1(int number) {
    static const char line[] = "got signal USR1\n";
    (void)number;
    if (write(1, line, sizeof(line) - 1) < 0) _exit(1);
}

static void on_alarm(int number) {
    static const char line[] = "hello: ends as it was told\n";
    (void)number;
    if (write(2, line, sizeof(line) - 1) < 0) _exit(1);
    _exit(3);
}

static void exit_after(int64_t milliseconds) {
    struct itimerval timer = {.it_value = {milliseconds / 1000, milliseconds % 1000 * 1000}};
    signal(SIGALRM, on_alarm);
    if (setitimer(ITIMER_REAL, &timer, NULL) != 0) die("setitimer");
}

static const char* variable(const char* name) {
    const char* value = getenv(name);
    return value ? value : "-";
}

// Which descriptors the program was started with, and what they are.
static void note_fds(void) {
    DIR* folder = opendir("/proc/self/fd");
    struct dirent* entry;
    size_t used = 0;
    if (!folder) return;
    while ((entry = readdir(folder)) != NULL) {
        char path[300], target[128];
        ssize_t length;
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] == '.' || fd == dirfd(folder)) continue;
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        length = readlink(path, target, sizeof(target) - 1);
        target[length < 0 ? 0 : length] = '\0';
        used += (size_t)snprintf(server.fds_at_start + used, sizeof(server.fds_at_start) - used,
                                 " %d=%s", fd, target);
        if (used >= sizeof(server.fds_at_start) - 160) break;
    }
    closedir(folder);
}

static int listen_on(const char* text, int port) {
    struct sockaddr_storage address = {0};
    struct sockaddr_in* v4 = (struct sockaddr_in*)&address;
    struct sockaddr_in6* v6 = (struct sockaddr_in6*)&address;
    socklen_t size = sizeof(*v4);
    int on = 1, off = server.v6only, fd;

    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
    } else if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        size = sizeof(*v6);
    } else {
        errno = EINVAL;
        die(text);
    }
    fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (server.reuseport) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
    if (address.ss_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (bind(fd, (struct sockaddr*)&address, size) != 0) die("bind");
    if (server.delay_listen_ms > 0) usleep((useconds_t)(server.delay_listen_ms * 1000));
    if (listen(fd, server.backlog) != 0) die("listen");
    if (server.detach) {
        server.detach_errno =
            setsockopt(fd, SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &on, sizeof(on)) == 0 ? 0 : errno;
    }
    printf("listening on %s port %d\n", text, port);
    return fd;
}

static size_t describe_process(char* body, size_t room) {
    struct rlimit nofile = {0};
    gid_t groups[64];
    char cwd[1024] = "";
    int count = getgroups(64, groups);
    mode_t mask = umask(0);
    size_t used;

    umask(mask);
    if (!getcwd(cwd, sizeof(cwd))) cwd[0] = '\0';
    getrlimit(RLIMIT_NOFILE, &nofile);
    used = (size_t)snprintf(
        body, room,
        "pid %d\nsession %d\nuid %d\ngid %d\numask %04o\nnofile %llu %llu\ncwd %s\nfds%s\ngroups",
        getpid(), getsid(0), getuid(), getgid(), mask, (unsigned long long)nofile.rlim_cur,
        (unsigned long long)nofile.rlim_max, cwd, server.fds_at_start);
    for (int i = 0; i < count && used < room; i++)
        used += (size_t)snprintf(body + used, room - used, " %d", (int)groups[i]);
    return used + (size_t)snprintf(body + used, room - used, "\n");
}

static size_t describe_environment(char* body, size_t room) {
    extern char** environ;
    size_t used = 0;
    for (char** entry = environ; *entry && used < room; entry++)
        used += (size_t)snprintf(body + used, room - used, "%s\n", *entry);
    return used < room ? used : room - 1;
}

static void write_all(int fd, const char* data, size_t length) {
    while (length > 0) {
        ssize_t written = send(fd, data, length, MSG_NOSIGNAL);
        if (written < 0) {
            if (errno == EINTR || errno == EAGAIN) continue;  // answers are small: this is rare
            return;
        }
        data += written;
        length -= (size_t)written;
    }
}

static void log_request(const char* path) {
    char line[256];
    int length;
    if (server.log_fd < 0) return;
    length = snprintf(line, sizeof(line), "%d %s\n", getpid(), path);
    if (write(server.log_fd, line, (size_t)length) < 0) die("write the log");
}

static bool is_sick(void) {
    return server.sick || (server.sick_while && access(server.sick_while, F_OK) == 0);
}

static void answer(int fd, const char* path, bool keep_alive) {
    static char body[kBody + 512];  // the head is put in front in the end
    static char head[256];
    size_t length;
    int head_length;
    const char* argument = strchr(path, '?');

    argument = argument ? argument + 1 : "";
    if (strncmp(path, "/env", 4) == 0) {
        length = describe_environment(body, kBody);
    } else if (strncmp(path, "/process", 8) == 0) {
        length = describe_process(body, kBody);
    } else if (strncmp(path, "/detach", 7) == 0) {
        length = (size_t)snprintf(body, sizeof(body), "errno %d\n", server.detach_errno);
    } else {
        length = (size_t)snprintf(body, sizeof(body), "pid %d instance %s worker %s\n", getpid(),
                                  variable("DROVER_INSTANCE"), variable("DROVER_WORKER_ID"));
    }
    if (strncmp(path, "/out", 4) == 0) printf("%s\n", argument);
    if (strncmp(path, "/err", 4) == 0) fprintf(stderr, "%s\n", argument);
    if (strncmp(path, "/sick", 5) == 0) server.sick = true;
    if (strncmp(path, "/well", 5) == 0) server.sick = false;
    head_length = snprintf(
        head, sizeof(head),
        "HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n"
        "Connection: %s\r\n\r\n",
        strncmp(path, "/health", 7) == 0 && is_sick() ? "503 Service Unavailable" : "200 OK",
        length, keep_alive ? "keep-alive" : "close");
    log_request(path);
    // One segment: head and body together.
    memmove(body + head_length, body, length);
    memcpy(body, head, (size_t)head_length);
    write_all(fd, body, (size_t)head_length + length);
    if (server.counters) atomic_fetch_add(&server.counters->answered, 1);
    if (strncmp(path, "/exit", 5) == 0) exit(atoi(argument));
}

// What is to be done with a connection after its bytes were looked at.
enum next { kMore, kClose, kLater };

// Serves every whole request in the buffer.
static enum next serve(int fd, struct connection* connection) {
    for (;;) {
        char path[512] = "/";
        char* end = memmem(connection->request, connection->length, "\r\n\r\n", 4);
        size_t used;
        bool keep_alive;

        if (!end) return connection->length >= kBuffer ? kClose : kMore;
        *end = '\0';
        used = (size_t)(end - connection->request) + 4;
        if (sscanf(connection->request, "%*s %511s", path) != 1) return kClose;
        keep_alive = strstr(connection->request, "HTTP/1.1") &&
                     !strcasestr(connection->request, "connection: close");
        memmove(connection->request, connection->request + used, connection->length - used);
        connection->length -= used;

        compute(server.work_us);
        if (strncmp(path, "/crash", 6) == 0) abort();
        if (strncmp(path, "/spin?", 6) == 0) compute(atoll(path + 6) * 1000);
        if (strncmp(path, "/use?", 5) == 0) use_memory(atoll(path + 5) << 20);
        if (strncmp(path, "/hold", 5) == 0) keep_alive = true;
        if (strncmp(path, "/wait?", 6) == 0) {
            connection->answer_at_ms = now_us() / 1000 + atoll(path + 6);
            connection->keep_alive = keep_alive;
            return kLater;
        }
        answer(fd, path, keep_alive);
        if (!keep_alive) return kClose;
    }
}

static enum next receive(int fd, struct connection* connection) {
    ssize_t got = recv(fd, connection->request + connection->length,
                       sizeof(connection->request) - connection->length, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return kMore;
    if (got <= 0) return kClose;
    connection->length += (size_t)got;
    return serve(fd, connection);
}

// Accepts one connection; -1 where none waits.
static int accept_one(int listener, int flags) {
    int fd, on = 1;
    if (server.counters) atomic_fetch_add(&server.counters->accepted, 1);
    do {
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | flags);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        if (server.counters) atomic_fetch_sub(&server.counters->accepted, 1);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return fd;
}

static void serve_one_at_a_time(int listener) {
    static struct connection connection;
    for (;;) {
        int fd = accept_one(listener, 0);
        enum next next = kMore;
        if (fd < 0) continue;
        memset(&connection, 0, sizeof(connection));
        while (next == kMore) next = receive(fd, &connection);
        if (next == kLater) answer(fd, "/", false);
        close(fd);
    }
}

static void drop(int fd) {
    if (connections[fd]->answer_at_ms) waiting--;
    free(connections[fd]);
    connections[fd] = NULL;
    close(fd);
}

static void go_on(int fd, enum next next) {
    if (next == kLater) waiting++;
    if (next == kClose) drop(fd);
}

static void answer_those_that_waited(void) {
    int64_t now = now_us() / 1000;
    for (int fd = 0; fd < kMaxFds && waiting > 0; fd++) {
        struct connection* connection = connections[fd];
        if (!connection || !connection->answer_at_ms || connection->answer_at_ms > now) continue;
        connection->answer_at_ms = 0;
        waiting--;
        answer(fd, "/", connection->keep_alive);
        go_on(fd, connection->keep_alive ? serve(fd, connection) : kClose);
    }
}

static void watch(int fd, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) die("epoll_ctl");
}

static void serve_by_epoll(const int* listeners, int count) {
    struct epoll_event events[64];
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0) die("epoll_create1");
    for (int i = 0; i < count; i++) {
        fcntl(listeners[i], F_SETFL, O_NONBLOCK);
        // Of those that share a listener, one wakes for a connection.
        watch(listeners[i], server.passed ? EPOLLIN | EPOLLEXCLUSIVE : EPOLLIN);
    }
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, 64, waiting > 0 ? 10 : -1);
        if (ready < 0 && errno != EINTR) die("epoll_wait");
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            bool is_listener = false;
            for (int j = 0; j < count; j++) is_listener |= listeners[j] == fd;
            if (!is_listener) {
                if (connections[fd]) go_on(fd, receive(fd, connections[fd]));
                continue;
            }
            fd = accept_one(fd, SOCK_NONBLOCK);
            if (fd < 0) continue;
            if (fd >= kMaxFds || !(connections[fd] = calloc(1, sizeof(struct connection)))) {
                close(fd);
                continue;
            }
            watch(fd, EPOLLIN);
        }
        if (waiting > 0) answer_those_that_waited();
    }
}

static void open_counters(const char* path) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0 || ftruncate(fd, sizeof(struct counters)) != 0) die(path);
    server.counters =
        mmap(NULL, sizeof(struct counters), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (server.counters == MAP_FAILED) die(path);
    close(fd);
}

static void read_options(int argc, char** argv) {
    int port = 8080;
    int extra[kMaxListeners], extra_count = 0;
    for (int i = 1; i < argc; i++) {
        const char* name = argv[i];
        const char* value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(name, "--reuseport") == 0) {
            server.reuseport = true;
            continue;
        }
        if (strcmp(name, "--passed") == 0) {
            server.passed = true;
            continue;
        }
        if (strcmp(name, "--v6only") == 0) {
            server.v6only = true;
            continue;
        }
        if (strcmp(name, "--block") == 0) {
            server.block = true;
            continue;
        }
        if (strcmp(name, "--detach") == 0) {
            server.detach = true;
            continue;
        }
        if (strcmp(name, "--ignore-term") == 0) {
            signal(SIGTERM, SIG_IGN);
            continue;
        }
        i++;
        if (strcmp(name, "--port") == 0) {
            port = atoi(value);
        } else if (strcmp(name, "--addr") == 0 && server.address_count < kMaxListeners) {
            server.addresses[server.address_count++] = value;
        } else if (strcmp(name, "--extra-port") == 0 && extra_count < kMaxListeners - 1) {
            extra[extra_count++] = atoi(value);
        } else if (strcmp(name, "--backlog") == 0) {
            server.backlog = atoi(value);
        } else if (strcmp(name, "--work-us") == 0) {
            server.work_us = atoll(value);
        } else if (strcmp(name, "--sick-while") == 0) {
            server.sick_while = value;
        } else if (strcmp(name, "--delay-listen-ms") == 0) {
            server.delay_listen_ms = atoll(value);
        } else if (strcmp(name, "--exit-after-ms") == 0) {
            exit_after(atoll(value));
        } else if (strcmp(name, "--exit") == 0) {
            exit(atoi(value));
        } else if (strcmp(name, "--fail-instance") == 0) {
            if (strcmp(value, variable("DROVER_INSTANCE")) == 0) exit(3);
        } else if (strcmp(name, "--log") == 0) {
            server.log_fd = open(value, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
            if (server.log_fd < 0) die(value);
        } else if (strcmp(name, "--accept-log") == 0) {
            open_counters(value);
        } else {
            fprintf(stderr, "hello: %s is no option, or one too many\n", name);
            exit(2);
        }
    }
    if (server.address_count == 0) server.addresses[server.address_count++] = "0.0.0.0";
    server.ports[server.port_count++] = port;
    for (int i = 0; i < extra_count; i++) server.ports[server.port_count++] = extra[i];
}

int main(int argc, char** argv) {
    int listeners[kMaxListeners], count = 0;

    note_fds();
    signal(SIGTERM, on_term);
    signal(SIGUSR1, on_usr1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    read_options(argc, argv);
    if (server.passed) {
        listeners[count++] = kPassedFd;
        printf("listening on a passed socket\n");
    }
    for (int i = 0; i < server.port_count && !server.passed; i++)
        for (int j = 0; j < server.address_count && count < kMaxListeners; j++)
            listeners[count++] = listen_on(server.addresses[j], server.ports[i]);
    if (server.block) serve_one_at_a_time(listeners[0]);
    serve_by_epoll(listeners, count);
    return 0;
}
