// SPDX-License-Identifier: MIT
#include "steer/ground.h"

#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>

#include "base/cgroup.h"
#include "base/privileges.h"
#include "steer/diag.h"
#include "steer/usage.h"

namespace drover::steer {

namespace {

struct Version {
    int major = 0, minor = 0, patch = 0;
};

Version parse_release(const std::string& release) {
    Version version;
    std::sscanf(release.c_str(), "%d.%d.%d", &version.major, &version.minor, &version.patch);
    return version;
}

std::string kernel_release() {
    utsname name{};
    ::uname(&name);
    // Debian's release has its own number (6.1.0-13); the kernel's is in the version, with a date.
    std::string version = name.version;
    auto debian = version.find("Debian ");
    if (debian == std::string::npos) return name.release;
    auto begin = debian + 7;
    return version.substr(begin, version.find(' ', begin) - begin);
}

Check bpf_check() {
    if (auto missing = missing_for_bpf(); !missing.empty())
        return {"bpf", false, true,
                fmt::format("drover lacks {}: give it to the container or the unit", missing)};
    bool loads = libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_SK_REUSEPORT, nullptr) == 1 &&
                 libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_SOCK_OPS, nullptr) == 1 &&
                 libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, nullptr) == 1;
    return {"bpf", loads, true,
            loads
                ? "the kernel takes sk_reuseport, sock_ops and cgroup programs"
                : "the kernel refuses BPF programs (in a container it needs CAP_BPF, CAP_NET_ADMIN "
                  "and CAP_PERFMON)"};
}

// Without it the policies go by connections alone (programs.cc).
Check queues_check() {
    bool reads = libbpf_probe_bpf_helper(BPF_PROG_TYPE_SK_REUSEPORT, BPF_FUNC_probe_read_kernel,
                                         nullptr) == 1;
    return {"queues", reads, false,
            reads ? "policies look at listeners' queues"
                  : "this kernel lets programs not look at listeners' queues (is it locked down?): "
                    "least-busy goes by connections alone"};
}

Check usage_check() {
    auto reader = Cgroup::mount_point().and_then(Cgroup::open).and_then(UsageReader::open);
    return {"usage", reader.has_value(), false,
            reader ? "CPU and memory of all workers are read at once"
                   : fmt::format("{}: status reads CPU and memory of one worker after the other",
                                 reader.error().text)};
}

}  // namespace

bool is_new_enough(const std::string& release) {
    Version version = parse_release(release);
    return version.major > 6 || (version.major == 6 && version.minor >= 1);
}

bool wakes_after_migration(const std::string& release) {
    Version version = parse_release(release);
    if (version.major != 6) return version.major > 6;
    if (version.minor == 1) return version.patch >= 175;
    if (version.minor == 12) return version.patch >= 86;
    return version.minor > 12;
}

std::vector<Check> check_ground(const Paths& paths) {
    std::vector<Check> checks;
    bool root = ::geteuid() == 0;
    checks.push_back(
        {"root", root, true,
         root ? "running as root" : "drover must be root to load BPF programs: run it with sudo"});
    std::string release = kernel_release();
    bool recent = is_new_enough(release);
    checks.push_back(
        {"kernel", recent, true,
         recent ? fmt::format("Linux {}", release)
                : fmt::format("Linux {} is too old: drover needs 6.1 or later", release)});
    auto mount = Cgroup::mount_point();
    checks.push_back({"cgroup v2", mount.has_value(), true,
                      mount ? fmt::format("mounted on {}", *mount) : mount.error().text});
    if (!root || !recent) return checks;  // the rest would only repeat it

    std::error_code ignored;
    bool btf = std::filesystem::exists("/sys/kernel/btf/vmlinux", ignored);
    checks.push_back(
        {"btf", btf, true,
         btf ? "the kernel describes its types"
             : "the kernel has no type information (/sys/kernel/btf/vmlinux): it needs "
               "CONFIG_DEBUG_INFO_BTF"});
    checks.push_back(bpf_check());
    checks.push_back(queues_check());
    auto sockets = list_sockets(kListening);
    checks.push_back({"sock_diag", sockets.has_value(), false,
                      sockets ? "the kernel lists its sockets"
                              : fmt::format("{}: queues and foreign listeners are not seen; load "
                                            "the module tcp_diag",
                                            sockets.error().text)});
    bool wakes = wakes_after_migration(release);
    checks.push_back({"migration", wakes, false,
                      wakes ? "workers are woken for connections that are moved to them"
                            : "this kernel may leave a moved connection waiting until the next one "
                              "comes (CVE-2026-46015): update to 6.1.175, 6.12.86 or later"});
    bool bpffs = std::filesystem::exists(paths.bpffs_root, ignored) ||
                 std::filesystem::exists("/sys/fs/bpf", ignored);
    checks.push_back({"bpffs", bpffs, true,
                      bpffs ? "there is a place for pins"
                            : "there is no /sys/fs/bpf to pin programs in: mount sysfs"});
    return checks;
}

std::vector<Check> check_ground_fully(const Paths& paths) {
    auto checks = check_ground(paths);
    if (std::ranges::any_of(checks, [](const Check& check) { return check.fatal && !check.ok; }))
        return checks;
    checks.push_back(usage_check());
    return checks;
}

}  // namespace drover::steer
