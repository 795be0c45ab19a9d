// SPDX-License-Identifier: MIT
#include "steer/steering.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <climits>

#include "base/log.h"
#include "steer/queue.h"

namespace drover::steer {

namespace {

// Depth of a cgroup below the root of the hierarchy, as the programs count it.
Result<uint32_t> depth_of(const std::string& path) {
    auto mount = Cgroup::mount_point();
    if (!mount) return tl::unexpected(mount.error());
    if (path.rfind(*mount, 0) != 0)
        return fail("usage", fmt::format("{} is not below the cgroup v2 mount {}", path, *mount));
    std::string below = path.substr(mount->size());
    return static_cast<uint32_t>(std::count(below.begin(), below.end(), '/'));
}

}  // namespace

Steering::Steering(Options options, EventLoop& loop, Observer& observer, const Paths& paths)
    : options_(std::move(options)),
      loop_(loop),
      observer_(observer),
      ownership_(paths.port_locks(), options_.cluster),
      pin_folder_(paths.bpffs(options_.cluster)) {}

Steering::~Steering() = default;

Result<std::unique_ptr<Steering>> Steering::open(Options options, const Paths& paths,
                                                 const Cgroup& cluster, EventLoop& loop,
                                                 Observer& observer) {
    std::unique_ptr<Steering> self(new Steering(std::move(options), loop, observer, paths));
    // A keeper that goes on is of the cgroup that there is.
    auto create = self->options_.take_over ? Cgroup::create : Cgroup::create_anew;
    auto keeper = create(cluster.path() + "/keeper");
    if (!keeper) return tl::unexpected(keeper.error());
    self->keeper_cgroup_ = std::move(*keeper);
    self->our_cgroups_.insert(self->keeper_cgroup_.id());

    auto depth = depth_of(self->keeper_cgroup_.path());
    if (!depth) return tl::unexpected(depth.error());
    auto mounted = ensure_bpffs(self->pin_folder_);
    if (!mounted) return tl::unexpected(mounted.error());
    drover_config config{};
    config.worker_level = *depth;
    config.named_ports_only = self->options_.ports.empty() ? 0 : 1;
    auto* raw = self.get();
    auto from = self->options_.take_over ? Programs::From::pins : Programs::From::nothing;
    auto programs = Programs::load(cluster, self->pin_folder_, config, from,
                                   [raw](const drover_event& event) { raw->on_event(event); });
    if (!programs) {
        if (!self->options_.take_over) (void)remove_pins(self->pin_folder_);
        return tl::unexpected(programs.error());
    }
    self->programs_ = std::move(*programs);
    self->programs_->set_source_prefixes(self->options_.source_prefix_v4,
                                         self->options_.source_prefix_v6);
    self->slots_ = std::make_unique<SlotTable>(self->programs_->slots());
    self->slots_->take_keeper_slot();
    self->on_events_ =
        loop.on_io(self->programs_->events_fd(), EPOLLIN, [raw](uint32_t) { raw->serve_events(); });
    auto opened = self->take_living();
    self->events_lost_ = self->programs_->totals().events_lost_total;
    if (opened)
        opened = self->programs_->tag_cgroup(self->keeper_cgroup_.id(), DROVER_KEEPER_SLOT,
                                             kKeeperWorker);
    if (opened) opened = self->set_policy(self->options_.policy, self->options_.policy_file);
    if (opened) opened = self->open_named_ports();
    if (!opened) {
        if (!self->options_.take_over) self->close();  // else the workers are to be steered on
        return tl::unexpected(opened.error());
    }
    if (const std::string& why = self->programs_->no_queues(); !why.empty())
        log::warn(fmt::format(
            "this kernel lets programs not look at listeners' queues (is it locked down?): {}; "
            "least-busy goes by connections alone",
            why));
    self->schedule_reconcile();
    return self;
}

// Ports that were named are ours before the first worker starts; those named with an address also
// have their keeper, so that connections wait from the first moment on.
Result<void> Steering::open_named_ports() {
    for (const NamedPort& port : options_.ports) {
        auto at = Endpoint::parse(port.address.empty() ? "::" : port.address, port.number);
        if (!at) return tl::unexpected(at.error());
        auto claimed = ownership_.claim(*at, [this](uint64_t cgroup) { return is_ours(cgroup); });
        if (!claimed) return fail("conflict", claimed.error().text);
        auto set = programs_->set_port(port.number, DROVER_PORT_NAMED | DROVER_PORT_OWNED);
        if (!set) return set;
        if (port.address.empty()) continue;
        auto index = programs_->make_group(*at);
        if (!index) return tl::unexpected(index.error());
        auto made = set_up_group(*index, *at, false, options_.uid);
        if (!made) return made;
    }
    return {};
}

bool Steering::is_ours(uint64_t cgroup_id) const {
    return our_cgroups_.contains(cgroup_id) || workers_by_cgroup().contains(cgroup_id);
}

// A worker may have made cgroups below its own.
std::map<uint64_t, uint32_t> Steering::workers_by_cgroup() const {
    std::map<uint64_t, uint32_t> workers;
    for (const auto& [worker, member] : members_)
        for (uint64_t id : member.cgroup.ids()) workers[id] = worker;
    return workers;
}

Result<int> Steering::add_worker(uint32_t worker, int instance, const Cgroup& cgroup) {
    auto own = Cgroup::open(cgroup.path());
    if (!own) return tl::unexpected(own.error());
    auto slot = slots_->take(worker);
    if (!slot) return slot;
    auto tagged = programs_->tag_cgroup(cgroup.id(), static_cast<uint32_t>(*slot), worker);
    if (!tagged) {
        slots_->give_back(*slot);
        return tl::unexpected(tagged.error());
    }
    our_cgroups_.insert(cgroup.id());
    programs_->set_instance(static_cast<uint32_t>(*slot), instance);
    Member member;
    member.slot = *slot;
    member.instance = instance;
    member.cgroup = std::move(*own);
    members_.emplace(worker, std::move(member));
    return slot;
}

void Steering::remove_worker(uint32_t worker) {
    auto found = members_.find(worker);
    if (found == members_.end()) return;
    finish_rescue(worker, fail("no-such-worker", fmt::format("worker {} is gone", worker)));
    Member& member = found->second;
    for (const auto& [cookie, listener] : member.listeners) programs_->forget_listener(cookie);
    programs_->untag_cgroup(member.cgroup.id());
    our_cgroups_.erase(member.cgroup.id());
    drift_.erase(member.slot);
    int slot = member.slot;
    members_.erase(found);
    update_active_sets();
    slots_->give_back(slot);
}

void Steering::activate(uint32_t worker) {
    auto found = members_.find(worker);
    if (found == members_.end() || found->second.active) return;
    found->second.active = true;
    if (options_.slow_start.count() > 0) {
        found->second.warm_since = std::chrono::steady_clock::now();
        warm_up();
    }
    update_active_sets();
}

Result<Fd> Steering::make_worker_socket(uint32_t worker, const Endpoint& at, bool v6only,
                                        int backlog) {
    auto found = members_.find(worker);
    if (found == members_.end()) return fail("no-such-worker", fmt::format("no worker {}", worker));
    if (!own_port(worker, at)) return fail_errno(EADDRINUSE, fmt::format("bind {}", at.text()));
    return make_socket(
        {at, v6only, options_.uid, backlog, {found->second.cgroup.fd(), options_.enter_late}});
}

Result<Fd> Steering::make_shared_socket(uint32_t worker, const Endpoint& at, bool v6only,
                                        int backlog) {
    if (at.port() != 0 && !own_port(worker, at))
        return fail_errno(EADDRINUSE, fmt::format("bind {}", at.text()));
    return make_socket({at, v6only, options_.uid, backlog, {}, /*alone=*/true});
}

Result<int> Steering::free_port(const Endpoint& at, bool v6only) {
    auto socket =
        make_socket({at, v6only, options_.uid, -1, {keeper_cgroup_.fd(), options_.enter_late}});
    if (!socket) return tl::unexpected(socket.error());
    sockaddr_storage address{};
    socklen_t length = sizeof(address);
    ::getsockname(socket->get(), reinterpret_cast<sockaddr*>(&address), &length);
    return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                               : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

Result<PinnedConnection> Steering::connect_to(uint32_t worker, std::optional<int> port) {
    auto found = members_.find(worker);
    const Listener* chosen = nullptr;
    if (found != members_.end())
        for (const auto& [cookie, listener] : found->second.listeners) {
            if (!listener.steered || !groups_.contains(listener.group)) continue;
            if (port && listener.endpoint.port() != *port) continue;
            if (chosen == nullptr || listener.endpoint.port() < chosen->endpoint.port())
                chosen = &listener;
        }
    if (chosen == nullptr)
        return fail("not-listening", fmt::format("worker {} does not listen{}", worker,
                                                 port ? fmt::format(" on port {}", *port) : ""));
    return PinnedConnection::open(*programs_, chosen->endpoint, groups_.at(chosen->group).v6only,
                                  static_cast<uint32_t>(found->second.slot));
}

void Steering::deactivate(uint32_t worker) {
    auto found = members_.find(worker);
    if (found == members_.end() || !found->second.active) return;
    found->second.active = false;
    update_active_sets();
    found->second.handshakes.clear();
    if (auto sockets = list_sockets(kHandshake))
        for (const Socket& socket : *sockets)
            if (ownership_.owns(socket.local.port()))
                found->second.handshakes.insert(socket.cookie);
}

// A handshake under way cannot be told to be this worker's. So all of those that there were at
// deactivation must have ended; later ones are not its. Their cookies become their connections'.
bool Steering::is_drained(uint32_t worker) {
    auto found = members_.find(worker);
    if (found == members_.end()) return true;
    auto& handshakes = found->second.handshakes;
    if (live(worker) > 0) return false;
    if (handshakes.empty()) return true;
    auto sockets = list_sockets(kHandshake);
    if (!sockets) return true;
    std::set<uint64_t> still;
    for (const Socket& socket : *sockets)
        if (handshakes.contains(socket.cookie)) still.insert(socket.cookie);
    handshakes = std::move(still);
    // One that ended between the two looks may be a connection now.
    return handshakes.empty() && live(worker) == 0;
}

bool Steering::is_active(uint32_t worker) const {
    auto found = members_.find(worker);
    return found != members_.end() && found->second.active;
}

void Steering::move_keeper_queue(Group& group) {
    if (!group.keeper.is_open() || group.active.empty()) return;
    auto moved = move_queue(group.keeper.get(), keeper_backlog());
    if (!moved) observer_.on_trouble(moved.error().text);
}

// Connections whose handshake began with a keeper end up with it, even when there is a worker by
// the time it is done.
void Steering::move_parked() {
    auto listening = list_sockets(kListening);
    if (!listening) return;
    for (const Socket& socket : *listening)
        for (auto& [index, group] : groups_)
            if (socket.cookie == group.keeper_cookie && socket.queued > 0) move_keeper_queue(group);
}

void Steering::refuse_when_idle() {
    refusing_ = true;
    for (auto& [index, group] : groups_) group.keeper.reset();
}

void Steering::serve_events() {
    programs_->consume_events();
    uint64_t lost = programs_->totals().events_lost_total;
    uint64_t more = lost - std::exchange(events_lost_, lost);
    if (more == 0) return;
    // Not at once: this may be in the middle of something.
    on_rescan_ = loop_.soon([this, more] {
        observer_.on_trouble(fmt::format(
            "{} reports of the BPF programs found no room: all listeners are looked at anew",
            more));
        reconcile();
    });
}

int Steering::keeper_backlog() const {
    return options_.backlog > 0 ? options_.backlog : INT_MAX;
}

void Steering::on_event(const drover_event& event) {
    if (event.kind == DROVER_EVENT_QUEUED) return watch_queues();
    if (event.kind == DROVER_EVENT_BUSY) return hurry();
    if (event.worker == kKeeperWorker) return;  // the keeper's own bind, listen and close
    switch (event.kind) {
        case DROVER_EVENT_BIND:
            on_bind(event);
            break;
        case DROVER_EVENT_LISTEN:
            on_listen(event);
            break;
        case DROVER_EVENT_CLOSE:
            on_close(event.worker, event.cookie);
            break;
        case DROVER_EVENT_DENIED:
            observer_.on_denied(event.worker, static_cast<int>(event.option));
            break;
        case DROVER_EVENT_PARKED:
            on_move_parked_ = loop_.soon([this] { move_parked(); });
            break;
        default:
            break;
    }
}

// Asked already when a worker binds: where the port is taken, bind() fails and the worker dies of
// it with words of its own; ours name the other.
void Steering::on_bind(const drover_event& event) {
    if (!members_.contains(event.worker)) return;
    own_port(event.worker, Endpoint{event.key});
}

void Steering::on_listen(const drover_event& event) {
    Endpoint endpoint{event.key};
    auto found = members_.find(event.worker);
    if (found == members_.end()) return;
    if (event.result == DROVER_LISTEN_NO_GROUP || event.result == DROVER_LISTEN_FAILED) {
        std::string why =
            event.result == DROVER_LISTEN_NO_GROUP
                ? fmt::format("the cluster listens on more than {} addresses and ports",
                              DROVER_MAX_GROUPS)
                : std::strerror(-event.error);
        observer_.on_trouble(
            fmt::format("a listener on {} is not steered: {}", endpoint.text(), why));
        return;
    }
    adopt(event.worker, event.cookie,
          Listener{endpoint, event.group, event.result == DROVER_LISTEN_STEERED, {}});
}

void Steering::adopt(uint32_t worker, uint64_t cookie, const Listener& listener) {
    Member& member = members_.at(worker);
    if (member.listeners.contains(cookie)) return;
    if (!own_port(worker, listener.endpoint)) return;
    (void)ensure_group(listener, cookie, /*tell=*/true);
    drop_unused_groups(listener.endpoint);
    member.listeners[cookie] = listener;
    update_active_set(listener.group);
    observer_.on_listening(worker, listener.endpoint, !listener.steered);
}

// The group of a worker's listener, whose cookie that is. True where there is one.
bool Steering::ensure_group(const Listener& listener, uint64_t cookie, bool tell) {
    if (!groups_.contains(listener.group)) {
        auto made = list_sockets(kListening).and_then([&](const auto& sockets) -> Result<void> {
            auto own = std::ranges::find(sockets, cookie, &Socket::cookie);
            if (own == sockets.end()) return fail("closed", "the listener has just been closed");
            return set_up_group(listener.group, listener.endpoint, own->v6only, own->uid);
        });
        if (!made && tell && made.error().code != "closed")
            observer_.on_trouble(fmt::format("{}; trying again in {} s", made.error().text,
                                             kReconcileEvery.count()));
        if (!made) return false;
    }
    groups_.at(listener.group).was_listened = true;
    return true;
}

// What could not be made when the listener was adopted.
void Steering::ensure_groups() {
    for (const auto& [worker, member] : members_)
        for (const auto& [cookie, listener] : member.listeners)
            if (!groups_.contains(listener.group) && ensure_group(listener, cookie, /*tell=*/false))
                update_active_set(listener.group);
}

// --port named another address than the workers chose. The more specific of the two would win, and
// its keeper would hold connections for which nobody comes.
void Steering::drop_unused_groups(const Endpoint& chosen) {
    // Where the chosen one was named too, several were meant.
    for (const NamedPort& port : options_.ports)
        if (port.number == chosen.port() && port.address == chosen.address()) return;
    for (auto entry = groups_.begin(); entry != groups_.end();) {
        Group& group = entry->second;
        if (group.was_listened || group.endpoint == chosen ||
            group.endpoint.port() != chosen.port()) {
            ++entry;
            continue;
        }
        observer_.on_trouble(fmt::format("--port {} is given up: the workers listen on {} instead",
                                         group.endpoint.text(), chosen.text()));
        programs_->drop_group(group.endpoint, entry->first);
        entry = groups_.erase(entry);
    }
}

// A group gets its keeper, and through the keeper's socket the program for all its members.
Result<void> Steering::set_up_group(uint32_t index, const Endpoint& endpoint, bool v6only,
                                    uid_t uid) {
    Group group;
    group.endpoint = endpoint;
    group.v6only = v6only;
    // The set of a group that is taken over is in force until it is written anew.
    if (!options_.take_over) {
        write_active_set(programs_->groups()[index], {}, {});
        programs_->groups()[index].turn = 0;
    }
    Result<Fd> keeper = inherited_keeper(endpoint, v6only);
    if (!keeper->is_open())
        keeper = make_socket(
            {endpoint, v6only, uid, keeper_backlog(), {keeper_cgroup_.fd(), options_.enter_late}});
    if (!keeper)
        return wrap(keeper.error(),
                    "connections to this port are not steered, because no keeper "
                    "could be made");
    if (auto attached = programs_->attach_steering(keeper->get()); !attached) return attached;
    group.keeper_cookie = socket_cookie(keeper->get());
    group.keeper = std::move(*keeper);
    groups_[index] = std::move(group);
    used_groups_.insert(index);
    return {};
}

void Steering::on_close(uint32_t worker, uint64_t cookie) {
    if (relistened_.contains(cookie)) return;
    // Not yet: the kernel may still be moving its queue, and counts by its tag.
    closed_.push_back(cookie);
    auto found = members_.find(worker);
    if (found == members_.end()) return;
    auto listener = found->second.listeners.find(cookie);
    if (listener == found->second.listeners.end()) return;
    Listener closed = listener->second;
    found->second.listeners.erase(listener);
    if (closed.steered) promote(worker, closed);
    update_active_set(closed.group);
    bool still_listens = std::ranges::any_of(found->second.listeners, [&closed](const auto& entry) {
        return entry.second.group == closed.group;
    });
    if (!still_listens) observer_.on_listener_closed(worker, closed.endpoint);
}

// The next listener of the same worker at the same endpoint takes the slot of the one that closed.
void Steering::promote(uint32_t worker, const Listener& closed) {
    Member& member = members_.at(worker);
    for (auto& [cookie, listener] : member.listeners) {
        if (listener.steered || listener.group != closed.group) continue;
        auto sockets = list_sockets(kListening);
        if (!sockets) return;
        for (const Socket& socket : *sockets) {
            if (socket.cookie != cookie) continue;
            auto borrowed = borrow_socket(member.cgroup, socket.inode, listener.place);
            if (!borrowed) continue;
            auto slot = static_cast<uint32_t>(member.slot);
            if (programs_->put_listener(listener.group, slot, borrowed->get())) {
                listener.steered = true;
                return;
            }
        }
    }
}

void Steering::schedule_reconcile() {
    on_reconcile_ = loop_.after(kReconcileEvery, [this] {
        reconcile();
        schedule_reconcile();
    });
}

void Steering::close() {
    on_events_.reset();
    on_rescan_.reset();
    on_reconcile_.reset();
    on_move_parked_.reset();
    on_warm_up_.reset();
    on_watch_.reset();
    on_hurry_.reset();
    members_.clear();  // with the pins that some have
    groups_.clear();
    if (programs_)
        if (auto detached = programs_->detach(); !detached)
            observer_.on_trouble(detached.error().text);
    programs_.reset();
    ownership_.release();
    (void)keeper_cgroup_.remove();
}

}  // namespace drover::steer
