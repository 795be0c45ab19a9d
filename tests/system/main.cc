// SPDX-License-Identifier: MIT
//
// Runs the system tests, as root: `build/system-tests`, `build/system-tests --test-suite=adopt`.
// The suites adopt, steering, crash, conflict, lifecycle, environment and cli need only drover and
// the static C server; the suite servers needs node, python3 and nginx.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>

namespace {

// A mount namespace of its own, with a bpffs of its own: pins can never outlive the test run.
bool prepare() {
    if (::geteuid() != 0) {
        std::fprintf(stderr, "system-tests: must run as root\n");
        return false;
    }
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
        // The root of a small VM is not a mount that can be made private; it is ours alone anyway.
        std::perror("system-tests: a mount namespace of its own");
    }
    if (::mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=0700") != 0) {
        std::perror("system-tests: mount a bpffs at /sys/fs/bpf");
        return false;
    }
    rlimit files{};
    ::getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
    ::signal(SIGPIPE, SIG_IGN);
    return true;
}

}  // namespace

int main(int argc, char** argv) {
    doctest::Context context(argc, argv);
    bool query = false;
    for (int i = 1; i < argc; i++) {
        const char letter = argv[i][0] == '-' && argv[i][1] != '-' ? argv[i][1] : '\0';
        query |= letter == 'l' || letter == 'c' || letter == 'h';
    }
    if (!query && !prepare()) return 1;
    return context.run();
}
