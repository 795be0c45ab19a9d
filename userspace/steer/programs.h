// SPDX-License-Identifier: MIT
//
// The BPF programs and maps of one cluster: loaded, attached to its cgroup, pinned. Pinned links go
// on without the master; that is what lets a cluster serve on when its master is killed.
#pragma once

#include <drover/steer_abi.h>

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/cgroup.h"
#include "base/result.h"
#include "steer/endpoint.h"

struct drover_bpf;

namespace drover::steer {

using ReasonCounts = std::array<uint64_t, DROVER_REASON_COUNT>;  // index: drover_reason

class Programs {
  public:
    // Maps that a master which was killed left pinned are taken as they are, and its programs are
    // replaced by these, without a moment between.
    enum class From { nothing, pins };
    // Loads everything (where the kernel forbids programs to look into it, without that), attaches
    // the cgroup hooks and pins links and maps below `pin_folder`. `on_event` gets what the
    // programs report, from consume_events(). Error code "bpf" with the lines of the kernel's or
    // verifier's log that matter.
    static Result<std::unique_ptr<Programs>> load(
        const Cgroup& cluster, const std::string& pin_folder, const drover_config& config,
        From from, std::function<void(const drover_event&)> on_event);
    ~Programs();  // leaves the pinned links; see detach()

    // Memory shared with the programs.
    [[nodiscard]] std::span<drover_group, DROVER_MAX_GROUPS> groups();
    [[nodiscard]] std::span<drover_slot, DROVER_MAX_SLOTS> slots();
    [[nodiscard]] const drover_totals& totals() const;
    // Why the kernel lets policies see no handshakes and queues, but live counts alone; or empty.
    [[nodiscard]] const std::string& no_queues() const;
    // Steer may tell again that connections come (DROVER_EVENT_QUEUED) / that one may have to wait
    // (DROVER_EVENT_BUSY).
    void stop_watching();
    void stop_hurrying();
    // Has `queued` of the slots below `slots` counted, in the groups whose bits are set. False
    // where the kernel does not let programs look.
    bool measure(uint32_t groups, uint32_t slots);
    // The slot's owner is that instance.
    void set_instance(uint32_t slot, int instance);
    // `prefix_*`: bits of a client's address that count for the policy `source`.
    void set_source_prefixes(uint32_t prefix_v4, uint32_t prefix_v6);
    void write_source_table(uint32_t group, uint32_t half, std::span<const uint16_t> table);
    void set_policy(drover_policy policy);
    // Loads the user's own from that file and makes it the policy; where that fails the former one
    // stays. Errors as in policy_object.h.
    Result<void> set_custom_policy(const std::string& path);

    // Attaches the steering program to the group of that socket.
    Result<void> attach_steering(int socket);

    Result<void> tag_cgroup(uint64_t cgroup_id, uint32_t slot, uint32_t worker);
    void untag_cgroup(uint64_t cgroup_id);
    void untag_all_but(const std::set<uint32_t>& workers);
    Result<void> set_port(int port, uint32_t flags);
    [[nodiscard]] uint32_t port_flags(int port) const;
    [[nodiscard]] std::optional<uint32_t> group_index(const Endpoint& endpoint) const;
    Result<uint32_t> make_group(const Endpoint& endpoint);
    void drop_group(const Endpoint& endpoint, uint32_t index);
    // Cookie of the listener in a slot; 0: none.
    [[nodiscard]] uint64_t listener_cookie(uint32_t group, uint32_t slot) const;
    // Where the programs find a group's listeners; empty where that cannot be read.
    [[nodiscard]] drover_listener_row listener_row(uint32_t group) const;
    Result<void> put_listener(uint32_t group, uint32_t slot, int socket);
    void forget_listener(uint64_t cookie);
    // How often each reason was counted in the groups 0 to `groups` - 1; one system call.
    [[nodiscard]] std::vector<ReasonCounts> decisions(uint32_t groups) const;
    struct Moved {
        uint64_t cookie;
        drover_tag tag;
    };
    [[nodiscard]] std::vector<Moved> moved() const;

    // The connection with these ends goes to that slot, active or not, or is refused where the slot
    // has no listener. Until unpin().
    Result<void> pin(const drover_pin_key& connection, uint32_t slot);
    void unpin(const drover_pin_key& connection);
    void unpin_all();

    // Readable when the programs have reported something.
    [[nodiscard]] int events_fd() const;
    void consume_events();

    // Detaches everything: removes the links' and maps' pins.
    Result<void> detach();

  private:
    drover_control& control();
    struct Impl;
    explicit Programs(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

// Removes the pins that a dead master left: this detaches its programs.
Result<void> remove_pins(const std::string& pin_folder);

// Mounts the BPF file system below the folder if it is not there yet.
Result<void> ensure_bpffs(const std::string& folder);

}  // namespace drover::steer
