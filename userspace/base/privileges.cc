// SPDX-License-Identifier: MIT
#include "base/privileges.h"

#include <cap-ng.h>
#include <linux/capability.h>

#include <algorithm>
#include <cerrno>
#include <span>
#include <utility>
#include <vector>

namespace drover {

namespace {

// README, "Least privilege", has the same list. CAP_SYS_ADMIN stands in where one of the first
// three is not there.
constexpr int kMasters[] = {
    CAP_BPF,               // maps, programs: a policy that is loaded later
    CAP_PERFMON,           // programs that read the kernel's structures
    CAP_NET_ADMIN,         // attaching them to sockets and to the cluster's cgroup
    CAP_NET_BIND_SERVICE,  // the keeper of a port below 1024
    CAP_SYS_PTRACE,        // listeners and channels, fetched from a worker of another user
    CAP_KILL,              // signals to workers of another user
    CAP_SETUID,            // --user
    CAP_SETGID,            // --user, --group
    CAP_CHOWN,             // a socket or an output that belongs to --user
    CAP_SYS_RESOURCE,      // --nofile above the hard limit
    CAP_DAC_OVERRIDE,      // --cwd, --env-file, policies and logs in folders of other users
    CAP_FOWNER,            // logs there that are replaced
};
constexpr int kLoggers[] = {CAP_DAC_OVERRIDE, CAP_FOWNER};  // for the logs, as above

Result<void> keep(std::span<const int> kept) {
    if (::capng_get_caps_process() != 0) return fail_errno(errno, "read the capabilities");
    for (int one = 0; one <= CAP_LAST_CAP; one++) {
        if (std::ranges::find(kept, one) != kept.end()) continue;
        auto sets = static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED);
        (void)::capng_update(CAPNG_DROP, sets, static_cast<unsigned>(one));
    }
    if (::capng_apply(CAPNG_SELECT_CAPS) != 0) return fail_errno(errno, "drop capabilities");
    return {};
}

bool has(unsigned capability) {
    return ::capng_get_caps_process() != 0 ||
           ::capng_have_capability(CAPNG_EFFECTIVE, capability) == 1;
}

// As missing_for_bpf(), whether CAP_SYS_ADMIN is there or not.
std::string lacking_for_bpf() {
    std::string lacking;
    const std::pair<unsigned, const char*> needed[] = {
        {CAP_BPF, "CAP_BPF"}, {CAP_PERFMON, "CAP_PERFMON"}, {CAP_NET_ADMIN, "CAP_NET_ADMIN"}};
    for (auto [one, name] : needed)
        if (!has(one)) lacking += (lacking.empty() ? "" : ", ") + std::string(name);
    return lacking;
}

}  // namespace

std::string missing_for_bpf() {
    return has(CAP_SYS_ADMIN) ? "" : lacking_for_bpf();
}

Result<void> keep_masters_privileges() {
    std::vector<int> kept(std::begin(kMasters), std::end(kMasters));
    // Given instead of those in some containers; a policy that is loaded later needs it then.
    if (!lacking_for_bpf().empty()) kept.push_back(CAP_SYS_ADMIN);
    return keep(kept);
}

Result<void> keep_loggers_privileges() {
    return keep(kLoggers);
}

}  // namespace drover
