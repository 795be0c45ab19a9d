// SPDX-License-Identifier: MIT
#include "steer/policy_object.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <drover/steer_abi.h>
#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <string_view>

#include "base/fd.h"
#include "steer/load_log.h"

namespace drover::steer {

namespace {

constexpr off_t kLargest = 16 << 20;
constexpr int kVerifierLines = 8;
constexpr const char* kSection = "sk_reuseport/migrate";

tl::unexpected<Error> refuse(std::string text) {
    return fail("bad-policy", std::move(text));
}

// drover_policy_1 → 1.
std::optional<int> version_of(const bpf_program* program) {
    constexpr std::string_view kPrefix = "drover_policy_";
    std::string_view name = bpf_program__name(program);
    if (!name.starts_with(kPrefix)) return std::nullopt;
    int version = 0;
    auto [end, error] = std::from_chars(name.data() + kPrefix.size(), name.end(), version);
    if (error != std::errc() || end != name.end()) return std::nullopt;
    return version;
}

// The policy; whatever else the object has is left out.
Result<bpf_program*> find_policy(const std::string& path, bpf_object* object) {
    bpf_program* found = nullptr;
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, object) {
        bool is_policy = version_of(program).has_value();
        bpf_program__set_autoload(program, is_policy);
        if (is_policy) found = program;
    }
    if (found == nullptr)
        return refuse(fmt::format(
            "there is no policy in {}: DROVER_POLICY of <drover/policy.bpf.h> makes one", path));
    if (int version = *version_of(found); version != DROVER_POLICY_VERSION)
        return refuse(
            fmt::format("{} was compiled with version {} of <drover/policy.bpf.h>, and "
                        "this drover has version {}: compile it again",
                        path, version, DROVER_POLICY_VERSION));
    if (std::strcmp(bpf_program__section_name(found), kSection) != 0)
        return refuse(
            fmt::format("the policy in {} is in the section \"{}\" instead of \"{}\", where "
                        "DROVER_POLICY puts it",
                        path, bpf_program__section_name(found), kSection));
    return found;
}

// Has the object use that map of ours instead of making one.
Result<void> share(const std::string& path, bpf_object* object, const char* name, int fd) {
    bpf_map* map = bpf_object__find_map_by_name(object, name);
    bpf_map_info ours{};
    uint32_t length = sizeof(ours);
    if (bpf_obj_get_info_by_fd(fd, &ours, &length) != 0)
        return fail_errno(errno, fmt::format("look at the map {}", name));
    if (map == nullptr || bpf_map__type(map) != ours.type ||
        bpf_map__value_size(map) != ours.value_size || bpf_map__key_size(map) != ours.key_size)
        return refuse(
            fmt::format("{} was not compiled with this drover's <drover/policy.bpf.h> "
                        "(its map {} is another): compile it again",
                        path, name));
    if (bpf_map__reuse_fd(map, fd) != 0)
        return fail_errno(errno, fmt::format("share the map {} with {}", name, path));
    return {};
}

tl::unexpected<Error> refuse_as_object(const std::string& path, const LoadLog& log) {
    auto text = fmt::format(
        "{} is no BPF object, as \"clang -O2 -g -target bpf -mcpu=v3 -c\" makes one", path);
    // What libbpf said last, without its own name in front.
    auto said = last_lines(log.text(), 1);
    while (!said.empty() && said.back() == '\n') said.pop_back();
    constexpr std::string_view kName = "libbpf: ";
    if (said.starts_with(kName)) said.erase(0, kName.size());
    return refuse(said.empty() ? text : text + ": " + said);
}

tl::unexpected<Error> refuse_as_program(const std::string& path, const LoadLog& log, int number) {
    auto verdict = verdict_of(log.text());
    if (verdict.empty())
        return refuse(
            fmt::format("the kernel does not load the policy {}: {}", path, std::strerror(number)));
    return refuse(fmt::format("the kernel's verifier refuses the policy {}: {}\n{}", path, verdict,
                              verifier_lines(log.text(), kVerifierLines)));
}

}  // namespace

void PolicyObject::Close::operator()(bpf_object* object) const {
    bpf_object__close(object);
}

Result<void> check_policy_file(const std::string& path, const struct stat& file) {
    if (!S_ISREG(file.st_mode)) return refuse(fmt::format("{} is no file with a policy", path));
    if (file.st_uid != 0 || (file.st_mode & (S_IWGRP | S_IWOTH)) != 0)
        return refuse(
            fmt::format("the policy {} must be root's and writable by nobody else, as it becomes a "
                        "part of the kernel: chown root and chmod go-w would do",
                        path));
    if (file.st_size > kLargest)
        return refuse(fmt::format("{} is too big to be a policy ({} bytes)", path, file.st_size));
    return {};
}

Result<std::vector<char>> read_policy_file(const std::string& path) {
    auto doing = fmt::format("read the policy {}", path);
    Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    struct stat about {};
    if (!file.is_open() || ::fstat(file.get(), &about) != 0)
        return fail("usage", fmt::format("cannot {}: {}", doing, std::strerror(errno)));
    if (auto checked = check_policy_file(path, about); !checked)
        return tl::unexpected(checked.error());
    std::vector<char> content(static_cast<size_t>(about.st_size));
    size_t length = 0;
    while (length < content.size()) {
        ssize_t size = ::read(file.get(), content.data() + length, content.size() - length);
        if (size < 0) return fail_errno(errno, doing);
        if (size == 0) break;
        length += static_cast<size_t>(size);
    }
    content.resize(length);
    return content;
}

Result<PolicyObject> PolicyObject::load(const std::string& path, const Maps& maps) {
    auto content = read_policy_file(path);
    if (!content) return tl::unexpected(content.error());

    LoadLog log;
    LIBBPF_OPTS(bpf_object_open_opts, options);
    options.object_name = "drover_policy";
    PolicyObject self;
    self.object_.reset(bpf_object__open_mem(content->data(), content->size(), &options));
    if (!self.object_) return refuse_as_object(path, log);
    auto program = find_policy(path, self.object_.get());
    if (!program) return tl::unexpected(program.error());
    for (auto [name, fd] :
         {std::pair{"drover_views", maps.views}, {"drover_programs", maps.programs}})
        if (auto shared = share(path, self.object_.get(), name, fd); !shared)
            return tl::unexpected(shared.error());
    if (int failed = bpf_object__load(self.object_.get()); failed != 0)
        return refuse_as_program(path, log, -failed);
    self.program_ = bpf_program__fd(*program);
    return self;
}

}  // namespace drover::steer
