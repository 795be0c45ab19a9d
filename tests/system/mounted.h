// SPDX-License-Identifier: MIT
//
// A small file system that is there as long as this, for tests in which a disk is full.
#pragma once

#include <doctest/doctest.h>
#include <sys/mount.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace drover::test {

class Mounted {
  public:
    // `options` as of mount(8): "size=256k". The folder is made where there is none.
    Mounted(std::string path, const std::string& options) : path_(std::move(path)) {
        std::filesystem::create_directories(path_);
        REQUIRE(::mount("tmpfs", path_.c_str(), "tmpfs", 0, options.c_str()) == 0);
    }
    ~Mounted() { ::umount2(path_.c_str(), MNT_DETACH); }
    Mounted(const Mounted&) = delete;
    Mounted& operator=(const Mounted&) = delete;

    void fill() { std::ofstream(filler()) << std::string(1 << 20, 'x'); }
    void make_room() { std::filesystem::remove(filler()); }

  private:
    [[nodiscard]] std::string filler() const { return path_ + "/filler"; }
    std::string path_;
};

}  // namespace drover::test
