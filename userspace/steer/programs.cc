// SPDX-License-Identifier: MIT
#include "steer/programs.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <string_view>

#include "base/fd.h"
#include "base/folder.h"
#include "bpf/drover.skel.h"
#include "steer/load_log.h"
#include "steer/policy_object.h"

namespace drover::steer {

namespace fs = std::filesystem;

struct Programs::Impl {
    struct Close {
        void operator()(drover_bpf* skeleton) const { drover_bpf::destroy(skeleton); }
        void operator()(ring_buffer* ring) const { ring_buffer__free(ring); }
    };
    std::unique_ptr<drover_bpf, Close> skeleton;
    std::unique_ptr<ring_buffer, Close> events;
    std::function<void(const drover_event&)> on_event;
    PolicyObject policy;
    std::string pin_folder;
    std::string no_queues;

    Result<void> put_program(uint32_t place, int program);
};

// The array goes on to hold it, also when the master is gone.
Result<void> Programs::Impl::put_program(uint32_t place, int program) {
    int map = bpf_map__fd(skeleton->maps.drover_programs);
    if (bpf_map_update_elem(map, &place, &program, BPF_ANY) != 0)
        return fail_errno(errno, "link the steering program and the policy");
    return {};
}

namespace {

// The name that libbpf gives the pin of a map.
std::string pin_of(const std::string& folder, const bpf_map* map) {
    std::string name = bpf_map__name(map);
    std::ranges::replace(name, '.', '_');
    return folder + "/" + name;
}

// The configuration, which no program changes: each load has its own.
bool is_configuration(const bpf_map* map) {
    return std::string_view(bpf_map__name(map)).find(".rodata") != std::string_view::npos;
}

Result<void> reuse_maps(bpf_object* object, const std::string& folder) {
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, object) {
        if (is_configuration(map)) continue;
        Fd pinned(bpf_obj_get(pin_of(folder, map).c_str()));
        if (!pinned.is_open() || bpf_map__reuse_fd(map, pinned.get()) != 0)
            return fail_errno(errno, fmt::format("take over the BPF map {}", bpf_map__name(map)));
    }
    return {};
}

// Between the two there is always one program that runs.
Result<void> replace(bpf_program* program, bpf_link*& link, const std::string& pin) {
    link = bpf_link__open(pin.c_str());
    if (link == nullptr || bpf_link__update_program(link, program) != 0)
        return fail_errno(errno,
                          fmt::format("take over the BPF program {}", bpf_program__name(program)));
    return {};
}

Result<void> attach(bpf_program* program, bpf_link*& link, int cgroup, const std::string& pin) {
    link = bpf_program__attach_cgroup(program, cgroup);
    if (link == nullptr)
        return fail_errno(errno, fmt::format("attach the BPF program {} to the cluster's cgroup",
                                             bpf_program__name(program)));
    if (bpf_link__pin(link, pin.c_str()) != 0) return fail_errno(errno, fmt::format("pin {}", pin));
    return {};
}

Result<void> pin_maps(bpf_object* object, const std::string& folder) {
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, object) {
        if (is_configuration(map)) continue;
        if (bpf_map__pin(map, pin_of(folder, map).c_str()) != 0)
            return fail_errno(errno, fmt::format("pin the BPF map {}", bpf_map__name(map)));
    }
    return {};
}

// In place of the one that may be there: a take-over that is cut short leaves one of the two.
Result<void> pin_program(bpf_program* program, const std::string& path) {
    std::string fresh = path + "_new";  // bpffs takes no dots
    std::error_code ignored;
    fs::remove(fresh, ignored);
    if (bpf_program__pin(program, fresh.c_str()) != 0 ||
        std::rename(fresh.c_str(), path.c_str()) != 0)
        return fail_errno(errno, fmt::format("pin the BPF program {}", bpf_program__name(program)));
    return {};
}

}  // namespace

Programs::Programs(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Programs::~Programs() = default;

Result<std::unique_ptr<Programs>> Programs::load(
    const Cgroup& cluster, const std::string& pin_folder, const drover_config& config, From from,
    std::function<void(const drover_event&)> on_event) {
    auto impl = std::make_unique<Impl>();
    impl->on_event = std::move(on_event);
    impl->pin_folder = pin_folder;

    LoadLog log;
    int failed = 0;
    std::string refusal;
    // Under lockdown=confidentiality programs that read kernel memory do not load.
    for (uint32_t reads_kernel : {1u, 0u}) {
        impl->skeleton.reset(drover_bpf::open());
        failed = impl->skeleton ? 0 : errno;
        if (failed) break;
        auto& own = const_cast<drover_config&>(
            const_cast<const drover_config&>(impl->skeleton->rodata->config));
        own = config;
        own.reads_kernel = reads_kernel;
        if (from == From::pins)
            if (auto reused = reuse_maps(impl->skeleton->obj, pin_folder); !reused)
                return tl::unexpected(reused.error());
        failed = -drover_bpf::load(impl->skeleton.get());
        bool for_want = failed == ENOMEM || failed == EMFILE || failed == ENFILE;
        if (!failed || for_want) break;
        if (reads_kernel) refusal = verdict_of(log.text());
    }
    if (failed) {
        auto error = fail_errno(failed, "load the BPF programs");
        error.value().code = "bpf";
        if (verdict_of(log.text()).empty())
            error.value().text += fmt::format(" ({})", first_line(log.text()));
        else
            error.value().text += "\n" + last_lines(log.text(), 12);
        return error;
    }

    // libbpf tries whether maps can be mapped, and does without where just that try has failed.
    const drover_bpf& loaded = *impl->skeleton;
    if (!loaded.data_control || !loaded.data_groups || !loaded.data_slots ||
        !loaded.data_instances || !loaded.data_totals)
        return fail("bpf",
                    "load the BPF programs: the kernel did not let drover share memory with them: "
                    "try again");

    if (loaded.rodata->config.reads_kernel == 0)
        impl->no_queues = refusal.empty() ? "no reason given" : refusal;

    std::error_code ignored;
    fs::create_directories(pin_folder, ignored);
    fs::permissions(pin_folder, fs::perms::owner_all, ignored);
    auto& programs = impl->skeleton->progs;
    auto& links = impl->skeleton->links;
    struct {
        bpf_program* program;
        bpf_link** link;
        const char* name;
    } hooks[] = {{programs.bind4, &links.bind4, "link_bind4"},
                 {programs.bind6, &links.bind6, "link_bind6"},
                 {programs.guard_setsockopt, &links.guard_setsockopt, "link_guard_setsockopt"},
                 {programs.account, &links.account, "link_account"}};
    for (auto& hook : hooks) {
        auto pin = pin_folder + "/" + hook.name;
        auto attached = from == From::pins ? replace(hook.program, *hook.link, pin)
                                           : attach(hook.program, *hook.link, cluster.fd(), pin);
        if (!attached) return tl::unexpected(attached.error());
    }
    if (from == From::nothing)
        if (auto pinned = pin_maps(impl->skeleton->obj, pin_folder); !pinned)
            return tl::unexpected(pinned.error());
    if (auto pinned = pin_program(programs.steer, pin_folder + "/program_steer"); !pinned)
        return tl::unexpected(pinned.error());

    auto sample = [](void* context, void* data, size_t size) {
        auto* self = static_cast<Impl*>(context);
        if (size >= sizeof(drover_event)) self->on_event(*static_cast<drover_event*>(data));
        return 0;
    };
    impl->events.reset(
        ring_buffer__new(bpf_map__fd(impl->skeleton->maps.events), sample, impl.get(), nullptr));
    if (!impl->events) return fail_errno(errno, "open the ring of BPF events");
    int free_groups = bpf_map__fd(impl->skeleton->maps.free_groups);
    for (uint32_t index = 0; index < DROVER_MAX_GROUPS && from == From::nothing; index++)
        if (bpf_map_update_elem(free_groups, nullptr, &index, 0) != 0)
            return fail_errno(errno, "fill the BPF map free_groups");
    auto linked =
        impl->put_program(DROVER_PROGRAM_DELIVER, bpf_program__fd(programs.deliver_chosen));
    if (!linked) return tl::unexpected(linked.error());
    return std::unique_ptr<Programs>(new Programs(std::move(impl)));
}

std::span<drover_group, DROVER_MAX_GROUPS> Programs::groups() {
    return impl_->skeleton->data_groups->groups;
}

std::span<drover_slot, DROVER_MAX_SLOTS> Programs::slots() {
    return impl_->skeleton->data_slots->slots;
}

const drover_totals& Programs::totals() const {
    return impl_->skeleton->data_totals->totals;
}

drover_control& Programs::control() {
    return impl_->skeleton->data_control->control;
}

const std::string& Programs::no_queues() const {
    return impl_->no_queues;
}

void Programs::stop_watching() {
    std::atomic_ref<uint32_t>(control().watched).store(0);
}

void Programs::stop_hurrying() {
    std::atomic_ref<uint32_t>(control().hurried).store(0);
}

bool Programs::measure(uint32_t groups, uint32_t slots) {
    drover_measure what{groups, slots};
    LIBBPF_OPTS(bpf_test_run_opts, options);
    options.ctx_in = &what;
    options.ctx_size_in = sizeof(what);
    int program = bpf_program__fd(impl_->skeleton->progs.measure);
    return bpf_prog_test_run_opts(program, &options) == 0 && options.retval == 0;
}

void Programs::set_instance(uint32_t slot, int instance) {
    auto& place = impl_->skeleton->data_instances->instances[slot];
    std::atomic_ref<uint16_t>(place).store(static_cast<uint16_t>(instance));
}

void Programs::set_source_prefixes(uint32_t prefix_v4, uint32_t prefix_v6) {
    control().prefix_v4 = prefix_v4;
    control().prefix_v6 = prefix_v6;
}

void Programs::write_source_table(uint32_t group, uint32_t half, std::span<const uint16_t> table) {
    auto value = std::make_unique<drover_source_table>();
    std::ranges::copy(table.first(std::min<size_t>(table.size(), DROVER_SOURCE_TABLE_ROOM)),
                      value->slots);
    uint32_t index = group * 2 + half;
    bpf_map_update_elem(bpf_map__fd(impl_->skeleton->maps.source_tables), &index, value.get(), 0);
}

void Programs::set_policy(drover_policy policy) {
    control().policy = policy;
    if (policy == DROVER_POLICY_CUSTOM || impl_->policy.program() < 0) return;
    uint32_t place = DROVER_PROGRAM_POLICY;
    bpf_map_delete_elem(bpf_map__fd(impl_->skeleton->maps.drover_programs), &place);
    impl_->policy = {};
}

Result<void> Programs::set_custom_policy(const std::string& path) {
    auto& maps = impl_->skeleton->maps;
    auto loaded = PolicyObject::load(
        path, {bpf_map__fd(maps.drover_views), bpf_map__fd(maps.drover_programs)});
    if (!loaded) return tl::unexpected(loaded.error());
    auto put = impl_->put_program(DROVER_PROGRAM_POLICY, loaded->program());
    if (!put) return put;
    impl_->policy = std::move(*loaded);
    set_policy(DROVER_POLICY_CUSTOM);
    return {};
}

Result<void> Programs::attach_steering(int socket) {
    int program = bpf_program__fd(impl_->skeleton->progs.steer);
    if (::setsockopt(socket, SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, &program, sizeof(program)) != 0)
        return fail_errno(errno, "attach the steering program to the port");
    return {};
}

Result<void> Programs::tag_cgroup(uint64_t cgroup_id, uint32_t slot, uint32_t worker) {
    drover_tag tag{slot, worker};
    int map = bpf_map__fd(impl_->skeleton->maps.cgroup_tags);
    if (bpf_map_update_elem(map, &cgroup_id, &tag, BPF_ANY) != 0)
        return fail_errno(errno, "tell the BPF programs of a worker");
    return {};
}

void Programs::untag_cgroup(uint64_t cgroup_id) {
    bpf_map_delete_elem(bpf_map__fd(impl_->skeleton->maps.cgroup_tags), &cgroup_id);
}

void Programs::untag_all_but(const std::set<uint32_t>& workers) {
    int map = bpf_map__fd(impl_->skeleton->maps.cgroup_tags);
    std::vector<uint64_t> others;
    uint64_t cgroup = 0;
    const uint64_t* previous = nullptr;
    for (uint32_t i = 0; i < DROVER_MAX_SLOTS && !bpf_map_get_next_key(map, previous, &cgroup);
         i++) {
        drover_tag tag{};
        if (bpf_map_lookup_elem(map, &cgroup, &tag) == 0 && !workers.contains(tag.worker))
            others.push_back(cgroup);
        previous = &cgroup;
    }
    for (uint64_t other : others) untag_cgroup(other);
}

Result<void> Programs::set_port(int port, uint32_t flags) {
    auto key = static_cast<uint32_t>(port);
    if (bpf_map_update_elem(bpf_map__fd(impl_->skeleton->maps.ports), &key, &flags, BPF_ANY) != 0)
        return fail_errno(errno, fmt::format("tell the BPF programs of port {}", port));
    return {};
}

uint32_t Programs::port_flags(int port) const {
    auto key = static_cast<uint32_t>(port);
    uint32_t flags = 0;
    bpf_map_lookup_elem(bpf_map__fd(impl_->skeleton->maps.ports), &key, &flags);
    return flags;
}

std::optional<uint32_t> Programs::group_index(const Endpoint& endpoint) const {
    uint32_t index = 0;
    if (bpf_map_lookup_elem(bpf_map__fd(impl_->skeleton->maps.group_index), &endpoint.key,
                            &index) != 0)
        return std::nullopt;
    return index;
}

Result<uint32_t> Programs::make_group(const Endpoint& endpoint) {
    if (auto known = group_index(endpoint)) return *known;
    uint32_t index = 0;
    int free_groups = bpf_map__fd(impl_->skeleton->maps.free_groups);
    if (bpf_map_lookup_and_delete_elem(free_groups, nullptr, &index) != 0)
        return fail("no-group", fmt::format("more than {} addresses and ports", DROVER_MAX_GROUPS));
    int map = bpf_map__fd(impl_->skeleton->maps.group_index);
    if (bpf_map_update_elem(map, &endpoint.key, &index, BPF_NOEXIST) != 0)
        return fail_errno(errno, fmt::format("enter the group of {}", endpoint.text()));
    groups()[index].key = endpoint.key;
    control().likely_groups[endpoint.key.port % DROVER_MAX_GROUPS] = static_cast<uint8_t>(index);
    return index;
}

void Programs::drop_group(const Endpoint& endpoint, uint32_t index) {
    groups()[index].key.family = 0;
    int map = bpf_map__fd(impl_->skeleton->maps.group_index);
    if (bpf_map_delete_elem(map, &endpoint.key) != 0) return;
    bpf_map_update_elem(bpf_map__fd(impl_->skeleton->maps.free_groups), nullptr, &index, 0);
}

uint64_t Programs::listener_cookie(uint32_t group, uint32_t slot) const {
    uint32_t index = DROVER_LISTENER_INDEX(group, slot);
    uint64_t cookie = 0;
    bpf_map_lookup_elem(bpf_map__fd(impl_->skeleton->maps.listeners), &index, &cookie);
    return cookie;
}

drover_listener_row Programs::listener_row(uint32_t group) const {
    drover_listener_row row{};
    bpf_map_lookup_elem(bpf_map__fd(impl_->skeleton->maps.listener_rows), &group, &row);
    return row;
}

Result<void> Programs::put_listener(uint32_t group, uint32_t slot, int socket) {
    uint32_t index = DROVER_LISTENER_INDEX(group, slot);
    auto value = static_cast<uint64_t>(socket);
    int map = bpf_map__fd(impl_->skeleton->maps.listeners);
    if (bpf_map_update_elem(map, &index, &value, BPF_ANY) != 0)
        return fail_errno(errno, "put a listener into its slot");
    return {};
}

void Programs::forget_listener(uint64_t cookie) {
    bpf_map_delete_elem(bpf_map__fd(impl_->skeleton->maps.listener_tags), &cookie);
}

std::vector<ReasonCounts> Programs::decisions(uint32_t groups) const {
    static const auto cpus = static_cast<size_t>(std::max(libbpf_num_possible_cpus(), 1));
    std::vector<ReasonCounts> totals(groups);
    uint32_t count = groups * DROVER_REASON_COUNT, next = 0;
    if (count == 0) return totals;
    std::vector<uint32_t> keys(count);
    std::vector<uint64_t> per_cpu(count * cpus);
    int map = bpf_map__fd(impl_->skeleton->maps.decisions);
    // The keys of an array come in their order.
    if (bpf_map_lookup_batch(map, nullptr, &next, keys.data(), per_cpu.data(), &count, nullptr) !=
            0 &&
        errno != ENOENT)
        return totals;
    for (size_t i = 0; i < count; i++)
        for (size_t cpu = 0; cpu < cpus; cpu++)
            totals[i / DROVER_REASON_COUNT][i % DROVER_REASON_COUNT] += per_cpu[i * cpus + cpu];
    return totals;
}

std::vector<Programs::Moved> Programs::moved() const {
    std::vector<Moved> all;
    int map = bpf_map__fd(impl_->skeleton->maps.moved);
    uint64_t cookie = 0;
    const uint64_t* previous = nullptr;
    // Entries may vanish meanwhile and the walk begin again: bounded by the map's size.
    for (int i = 0; i < 65536 && bpf_map_get_next_key(map, previous, &cookie) == 0; i++) {
        drover_tag tag{};
        if (bpf_map_lookup_elem(map, &cookie, &tag) == 0) all.push_back({cookie, tag});
        previous = &cookie;
    }
    return all;
}

Result<void> Programs::pin(const drover_pin_key& connection, uint32_t slot) {
    int map = bpf_map__fd(impl_->skeleton->maps.pins);
    if (bpf_map_update_elem(map, &connection, &slot, BPF_NOEXIST) != 0)
        return fail_errno(errno, "pin a connection to a worker");
    control().pins++;
    return {};
}

void Programs::unpin(const drover_pin_key& connection) {
    int map = bpf_map__fd(impl_->skeleton->maps.pins);
    if (bpf_map_delete_elem(map, &connection) == 0) control().pins--;
}

void Programs::unpin_all() {
    int map = bpf_map__fd(impl_->skeleton->maps.pins);
    drover_pin_key key{};
    while (bpf_map_get_next_key(map, nullptr, &key) == 0)
        if (bpf_map_delete_elem(map, &key) != 0) break;
    control().pins = 0;
}

int Programs::events_fd() const {
    return ring_buffer__epoll_fd(impl_->events.get());
}

void Programs::consume_events() {
    ring_buffer__consume(impl_->events.get());
}

Result<void> Programs::detach() {
    return remove_pins(impl_->pin_folder);
}

Result<void> remove_pins(const std::string& pin_folder) {
    if (auto error = remove_folder(pin_folder))
        return fail_errno(error.value(), fmt::format("remove the pins in {}", pin_folder));
    return {};
}

Result<void> ensure_bpffs(const std::string& folder) {
    struct statfs info {};
    std::string existing = folder;
    while (::statfs(existing.c_str(), &info) != 0 && existing.size() > 1)
        existing = fs::path(existing).parent_path();
    if (static_cast<unsigned long>(info.f_type) == BPF_FS_MAGIC) return {};
    constexpr const char* kUsual = "/sys/fs/bpf";
    if (folder.rfind(kUsual, 0) != 0)
        return fail("no-bpffs", fmt::format("{} is not on a BPF file system: mount one there with "
                                            "\"mount -t bpf bpf FOLDER\"",
                                            folder));
    if (::mount("bpf", kUsual, "bpf", 0, "mode=0700") != 0)
        return fail_errno(errno, "mount the BPF file system on /sys/fs/bpf");
    return {};
}

}  // namespace drover::steer
