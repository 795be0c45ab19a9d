// SPDX-License-Identifier: MIT
//
// Files that are no policies, and what of the verifier's log is told. Policies that the kernel has
// to judge are in tests/system/policy_test.cc.
#include "steer/policy_object.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "steer/load_log.h"

namespace drover::steer {

namespace {

bool mentions(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

// A folder of its own, gone at the end.
class Folder {
  public:
    Folder() {
        char name[] = "/tmp/drover-policy-XXXXXX";
        path_ = ::mkdtemp(name) != nullptr ? name : "";
    }
    ~Folder() { std::filesystem::remove_all(path_); }
    // The path of a file with that content.
    [[nodiscard]] std::string file(const std::string& name, const std::string& content) const {
        std::ofstream(path_ + "/" + name) << content;
        return path_ + "/" + name;
    }
    [[nodiscard]] const std::string& path() const { return path_; }

  private:
    std::string path_;
};

struct stat file_like(mode_t mode, uid_t uid) {
    struct stat file {};
    file.st_mode = mode;
    file.st_uid = uid;
    file.st_size = 100;
    return file;
}

constexpr const char* kLog =
    "libbpf: prog 'drover_policy_1': BPF program load failed: Invalid argument\n"
    "libbpf: prog 'drover_policy_1': -- BEGIN PROG LOAD LOG --\n"
    "0: R1=ctx(off=0,imm=0) R10=fp0\n"
    "; for (;;) @ my.bpf.c:7\n"
    "10: (85) call bpf_get_prandom_u32#7       ; R0_w=scalar()\n"
    "; while\t(\033[31m); @ my.bpf.c:8\n"
    "11: (61) r1 = *(u32 *)(r7 +0)\n"
    "from 12 to 10: R0=scalar() R10=fp0\n"
    "infinite loop detected at insn 11\n"
    "cur state: R0=scalar() R10=fp0\n"
    "old state: R0=scalar() R10=fp0\n"
    "processed 15 insns (limit 1000000) max_states_per_insn 0\n"
    "-- END PROG LOAD LOG --\n"
    "libbpf: prog 'drover_policy_1': failed to load: -22\n"
    "libbpf: failed to load object 'drover_policy'\n";

}  // namespace

TEST_SUITE_BEGIN("policy object");

TEST_CASE("a policy is root's own file and writable by nobody else") {
    CHECK(check_policy_file("my.o", file_like(S_IFREG | 0644, 0)).has_value());
    CHECK(check_policy_file("my.o", file_like(S_IFREG | 0400, 0)).has_value());
    for (auto [mode, uid] : {std::pair<mode_t, uid_t>{0664, 0}, {0646, 0}, {0644, 1000}}) {
        auto refused = check_policy_file("my.o", file_like(S_IFREG | mode, uid));
        REQUIRE_FALSE(refused.has_value());
        CHECK(refused.error().code == "bad-policy");
        CHECK(mentions(refused.error().text, "the policy my.o must be root's"));
    }
}

TEST_CASE("only a regular file of some size can be a policy") {
    for (mode_t type : {S_IFDIR, S_IFIFO, S_IFCHR, S_IFSOCK})
        CHECK_FALSE(check_policy_file("my.o", file_like(type | 0600, 0)).has_value());
    auto huge = file_like(S_IFREG | 0600, 0);
    huge.st_size = 1 << 30;
    CHECK_FALSE(check_policy_file("my.o", huge).has_value());
}

TEST_CASE("a file that is not there is a wrong word on the command line") {
    auto missing = read_policy_file("/nowhere/my.bpf.o");
    REQUIRE_FALSE(missing.has_value());
    CHECK(missing.error().code == "usage");
    CHECK(missing.error().text ==
          "cannot read the policy /nowhere/my.bpf.o: No such file or directory");
}

TEST_CASE("a pipe is refused and not waited for") {
    Folder folder;
    auto path = folder.path() + "/pipe";
    REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
    CHECK_FALSE(read_policy_file(path).has_value());
}

TEST_CASE("what is no BPF object is refused as that") {
    if (::geteuid() != 0) return;  // the file must be root's
    Folder folder;
    for (const std::string& content :
         {std::string(), std::string("int main() {}"), std::string("\177ELF"),
          std::string("\177ELF\2\1\1") + std::string(500, '\0'), std::string(5000, '\177')}) {
        auto path = folder.file("my.bpf.o", content);
        auto refused = PolicyObject::load(path, {});
        REQUIRE_FALSE(refused.has_value());
        CAPTURE(refused.error().text);
        CHECK(refused.error().code == "bad-policy");
        CHECK(mentions(refused.error().text, path + " is no BPF object"));
        CHECK_FALSE(mentions(refused.error().text, "\n"));
    }
}

TEST_CASE("a program that is not for BPF is refused as that") {
    if (::geteuid() != 0) return;
    Folder folder;
    std::filesystem::copy_file("/bin/true", folder.path() + "/program.o");
    ::chmod((folder.path() + "/program.o").c_str(), 0600);
    auto refused = PolicyObject::load(folder.path() + "/program.o", {});
    REQUIRE_FALSE(refused.has_value());
    CAPTURE(refused.error().text);
    CHECK(mentions(refused.error().text, "is no BPF object"));
}

TEST_CASE("of the verifier's log the source's last lines and the verdict are told, and no trace") {
    CHECK(verdict_of(kLog) == "infinite loop detected at insn 11");
    CHECK(verifier_lines(kLog, 2) ==
          "; while (?[31m); @ my.bpf.c:8\ninfinite loop detected at insn 11");
    CHECK(verifier_lines(kLog, 100) == "; for (;;) @ my.bpf.c:7\n" + verifier_lines(kLog, 2));
}

TEST_CASE("a verdict about a register is not taken for a register's state") {
    std::string log =
        "-- BEGIN PROG LOAD LOG --\n; return *view;\n3: (61) r1 = *(u32 *)(r1 +4)\n"
        "R1 invalid mem access 'scalar'\nprocessed 4 insns\n-- END PROG LOAD LOG --\n";
    CHECK(verifier_lines(log, 8) == "; return *view;\nR1 invalid mem access 'scalar'");
}

TEST_CASE("a log without a verifier in it has no verdict") {
    CHECK(verdict_of("").empty());
    CHECK(verdict_of("libbpf: failed to create map\n").empty());
    CHECK(verdict_of("libbpf: -- BEGIN PROG LOAD LOG --\n").empty());
    CHECK(verdict_of("-- BEGIN PROG LOAD LOG --\n-- END PROG LOAD LOG --\n").empty());
}

TEST_CASE("the last lines of a text") {
    CHECK(last_lines("a\nb\nc\n", 2) == "b\nc\n");
    CHECK(last_lines("a\nb\nc\n", 9) == "a\nb\nc\n");
    CHECK(last_lines("", 3).empty());
}

TEST_SUITE_END();

}  // namespace drover::steer
