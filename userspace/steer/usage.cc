// SPDX-License-Identifier: MIT
#include "steer/usage.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <drover/steer_abi.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "bpf/usage.skel.h"
#include "steer/load_log.h"

namespace drover::steer {

namespace {

// All that the iterator says; nothing where it failed.
std::optional<std::string> read_iterator(const bpf_link* link) {
    Fd iterator(bpf_iter_create(bpf_link__fd(link)));
    if (!iterator.is_open()) return std::nullopt;
    std::string text;
    char part[1 << 15];  // as much as the kernel gives at once
    for (;;) {
        ssize_t size = ::read(iterator.get(), part, sizeof(part));
        if (size == 0) return text;
        if (size > 0) text.append(part, static_cast<size_t>(size));
        if (size < 0 && errno != EINTR && errno != EAGAIN) return std::nullopt;
    }
}

template <typename Row>
std::optional<std::vector<Row>> read_rows(const bpf_link* link) {
    auto text = read_iterator(link);
    if (!text) return std::nullopt;
    std::vector<Row> rows(text->size() / sizeof(Row));
    std::memcpy(rows.data(), text->data(), rows.size() * sizeof(Row));
    return rows;
}

}  // namespace

struct UsageReader::Impl {
    struct Close {
        void operator()(usage_bpf* skeleton) const { usage_bpf::destroy(skeleton); }
    };
    std::unique_ptr<usage_bpf, Close> skeleton;
};

UsageReader::UsageReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
UsageReader::~UsageReader() = default;

Result<std::unique_ptr<UsageReader>> UsageReader::open(const Cgroup& cluster) {
    LoadLog log;
    auto refuse = [&log](int number) {
        auto error = fail_errno(number, "load the BPF programs that read what workers use");
        error.value().code = "bpf";
        if (auto verdict = verdict_of(log.text()); !verdict.empty())
            error.value().text += ": " + verdict;
        return error;
    };
    auto impl = std::make_unique<Impl>();
    impl->skeleton.reset(usage_bpf::open());
    if (!impl->skeleton) return refuse(errno);
    impl->skeleton->rodata->cluster = cluster.id();
    if (int failed = usage_bpf::load(impl->skeleton.get()); failed != 0) return refuse(-failed);

    auto& programs = impl->skeleton->progs;
    auto& links = impl->skeleton->links;
    bpf_iter_link_info below{};
    below.cgroup.order = BPF_CGROUP_ITER_DESCENDANTS_PRE;
    below.cgroup.cgroup_fd = static_cast<uint32_t>(cluster.fd());
    LIBBPF_OPTS(bpf_iter_attach_opts, options, .link_info = &below, .link_info_len = sizeof(below));
    links.cgroups = bpf_program__attach_iter(programs.cgroups, &options);
    if (links.cgroups == nullptr) return refuse(errno);
    links.processes = bpf_program__attach_iter(programs.processes, nullptr);
    if (links.processes == nullptr) return refuse(errno);
    return std::unique_ptr<UsageReader>(new UsageReader(std::move(impl)));
}

std::map<uint64_t, Usage> UsageReader::read() const {
    const auto& links = impl_->skeleton->links;
    auto cgroups = read_rows<drover_cgroup_usage>(links.cgroups);
    if (!cgroups) return {};
    auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    std::map<uint64_t, Usage> usage;
    std::map<uint64_t, uint64_t> uncounted;  // pages
    for (const auto& row : *cgroups) {
        bool counted = row.pages != DROVER_USAGE_UNKNOWN;
        usage[row.cgroup] = {row.cpu_ns / 1000, counted ? row.pages * page : 0};
        if (!counted) uncounted[row.cgroup] = 0;
    }
    if (uncounted.empty()) return usage;
    auto processes = read_rows<drover_process_usage>(links.processes);
    if (!processes) return {};
    for (const auto& row : *processes)
        if (auto found = uncounted.find(row.cgroup); found != uncounted.end())
            found->second += row.pages;
    for (const auto& [cgroup, pages] : uncounted) usage[cgroup].memory_bytes = pages * page;
    return usage;
}

}  // namespace drover::steer
