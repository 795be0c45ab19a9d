// SPDX-License-Identifier: MIT
//
// The log file from both ends: what the logger writes and how it rotates, what `drover logs` reads.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/journal.h"
#include "base/log_line.h"
#include "cli/log_files.h"
#include "cli/logs.h"
#include "logger/log_file.h"
#include "logger/rate.h"
#include "logger/settings.h"
#include "supervisor/config.h"

using namespace drover;
using namespace std::chrono_literals;
namespace fs = std::filesystem;

namespace {

const WallTime kNoon = *parse_time("2026-11-26T12:00:00.000Z");

struct Folder {
    fs::path path;
    Folder() {
        char pattern[] = "/tmp/drover-unit-XXXXXX";
        path = ::mkdtemp(pattern);
    }
    ~Folder() { fs::remove_all(path); }
    [[nodiscard]] std::string file(const std::string& name) const { return path / name; }
};

std::string content_of(const std::string& path) {
    std::ifstream file(path);
    std::stringstream content;
    content << file.rdbuf();
    return content.str();
}

std::string line_at(std::chrono::milliseconds after_noon, LogWorker worker,
                    const std::string& text) {
    return log_line_head(kNoon + after_noon, worker, LogStream::out) + text + "\n";
}

// The texts that a query finds, joined by blanks.
std::string found(const std::string& path, const cli::LogQuery& query) {
    std::string texts;
    auto read = cli::read_log_files(path, query, [&](const LogLine& line) {
        texts += (texts.empty() ? "" : " ") + line.text;
        return true;
    });
    return read ? texts : "error: " + read.error().text;
}

cli::LogQuery wanted(std::optional<uint64_t> worker, std::optional<uint64_t> last,
                     std::optional<WallTime> since) {
    return {"web", worker, last, since, false};
}

}  // namespace

TEST_SUITE_BEGIN("logs");

TEST_CASE("a line of the log file says when, who, where and what, and is read back as it was") {
    auto head = log_line_head(kNoon + 123ms, LogWorker{0, 7}, LogStream::err);
    CHECK(head == "2026-11-26T12:00:00.123Z 0/7 err ");
    CHECK(parse_log_line(head + "a b  c ") ==
          LogLine{kNoon + 123ms, LogWorker{0, 7}, LogStream::err, "a b  c "});
    CHECK(parse_log_line(head) == LogLine{kNoon + 123ms, LogWorker{0, 7}, LogStream::err, ""});
    auto own = log_line_head(kNoon, std::nullopt, LogStream::drover);
    CHECK(own == "2026-11-26T12:00:00.000Z - drover ");
    CHECK(parse_log_line(own + "web: 4 workers are ready") ==
          LogLine{kNoon, std::nullopt, LogStream::drover, "web: 4 workers are ready"});
}

TEST_CASE("what is no line of the log file is none") {
    for (const char* text :
         {"", " ", "hello", "2026-11-26T12:00:00.123Z", "2026-11-26T12:00:00.123Z 0/7",
          "2026-11-26T12:00:00.123Z 0/7 out", "2026-11-26T12:00:00.123Z 0/7 in text",
          "2026-11-26T12:00:00.123Z 7 out text", "2026-11-26T12:00:00.123Z /7 out text",
          "2026-11-26T12:00:00.123Z 0/ out text", "2026-11-26T12:00:00.123Z 0/-1 out text",
          "2026-11-26T12:00:00.123Z 0/7x out text", "2026-11-26 0/7 out text",
          "2026-11-26T12:00:00.123 0/7 out text"}) {
        INFO(text);
        CHECK_FALSE(parse_log_line(text));
    }
}

TEST_CASE("so many lines pass in the time, the others are counted; then it begins anew") {
    logger::Rate rate({3, 1s});
    logger::Rate::Time now{};
    now += 1h;
    CHECK(rate.pass("a\nb\n", now) == "a\nb\n");
    CHECK_FALSE(rate.is_spent(now));
    CHECK(rate.pass("c\nd\ne\n", now + 999ms) == "c\n");
    CHECK(rate.is_spent(now + 999ms));
    CHECK(rate.has_dropped());
    CHECK(rate.end() == now + 1s);
    CHECK(rate.take_dropped() == 2);
    CHECK(rate.take_dropped() == 0);
    CHECK_FALSE(rate.is_spent(now + 1s));
    CHECK(rate.pass("f\ng\nh\n", now + 1s) == "f\ng\nh\n");
    CHECK_FALSE(rate.has_dropped());
    CHECK(rate.pass("i\n", now + 1999ms).empty());
    CHECK(rate.take_dropped() == 1);
}

TEST_CASE("a long line counts as several, so that the limit is one of bytes, too") {
    logger::Rate rate({3, 1s});
    logger::Rate::Time now{};
    now += 1h;
    std::string two(logger::Rate::kBytesPerLine, 'x');
    CHECK(rate.pass(two + "\na\nb\n", now) == two + "\na\n");
    CHECK(rate.take_dropped() == 1);
    // The first one passes, however long.
    std::string many(60'000, 'x');
    CHECK(rate.pass(many + "\na\n", now + 1s) == many + "\n");
}

TEST_CASE("without a limit all pass") {
    logger::Rate rate({});
    std::string many;
    for (int i = 0; i < 100'000; i++) many += "y\n";
    bool all = rate.pass(many, {}).size() == many.size();
    CHECK(all);
    CHECK_FALSE(rate.is_spent({}));
}

TEST_CASE("the logger's settings are read, and what makes no sense is left out") {
    using logger::parse_settings;
    CHECK(parse_settings(R"({"file":"/a","size":5,"keep":2,"rate":{"lines":7,"ms":9}})") ==
          logger::Settings{"/a", 5, 2, {7, 9ms}});
    CHECK(parse_settings(R"({"size":0,"keep":-1,"file":7,"rate":"x"})") == logger::Settings{});
    for (const char* text : {"", "{", "[]", "null", "{}"})
        CHECK(parse_settings(text) == logger::Settings{});
}

TEST_CASE("the journal is known by the socket's own numbers") {
    CHECK(is_journal_stream("8:4711", 8, 4711));
    for (const char* other : {"", "8", "8:", "8:471", "8:47110", "9:4711", " 8:4711"})
        CHECK_FALSE(is_journal_stream(other, 8, 4711));
    CHECK_FALSE(is_journal(-1));
}

TEST_CASE("a log file is rotated by size, and so many are kept") {
    Folder folder;
    auto path = folder.file("sub/web.log");
    logger::LogFile file(path, 10, 2);
    for (const char* line : {"one 56789\n", "two\n", "two again\n", "three 789\n", "four\n"})
        file.write(line, kNoon);
    CHECK(content_of(path) == "four\n");
    CHECK(content_of(path + ".1") == "three 789\n");
    CHECK(content_of(path + ".2") == "two\ntwo again\n");
    CHECK_FALSE(fs::exists(path + ".3"));
    CHECK_FALSE(file.take_trouble());
    struct stat info {};
    REQUIRE(::stat(path.c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == 0640);
    REQUIRE(::stat(folder.file("sub").c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == 0750);
    // Kept by somebody who wanted more.
    for (int n : {3, 4}) std::ofstream(path + fmt::format(".{}", n)) << "old\n";
    file.write("four more\n", kNoon);
    file.write("five\n", kNoon);
    CHECK(content_of(path + ".2") == "three 789\n");
    CHECK_FALSE(fs::exists(path + ".3"));
    CHECK_FALSE(fs::exists(path + ".4"));
}

TEST_CASE("two that write to one log file rotate it once, and lose nothing") {
    Folder folder;
    auto path = folder.file("web.log");
    logger::LogFile one(path, 100, 50), other(path, 100, 50);
    std::string expected, found;
    for (int i = 0; i < 100; i++) {
        auto line = fmt::format("line {:04}\n", i);
        (i % 3 == 0 ? one : other).write(line, kNoon);
        expected += line;
    }
    for (int n = 50; n > 0; n--) found += content_of(logger::rotated_name(path, n));
    CHECK(fs::exists(path + ".9"));
    CHECK_FALSE(fs::exists(path + ".10"));
    CHECK(found + content_of(path) == expected);
}

TEST_CASE("whoever holds the folder's lock keeps nobody from writing") {
    Folder folder;
    auto path = folder.file("web.log");
    logger::LogFile file(path, 10, 5);
    file.write("0123456789\n", kNoon);
    {
        Fd lock(::open(folder.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        REQUIRE(::flock(lock.get(), LOCK_EX) == 0);
        file.write("more\n", kNoon);
        CHECK(content_of(path) == "0123456789\nmore\n");
    }
    file.write("last\n", kNoon);
    CHECK(content_of(path) == "last\n");
    CHECK(content_of(path + ".1") == "0123456789\nmore\n");
}

TEST_CASE("a log file that somebody moved, removed or cut off is written on under its name") {
    Folder folder;
    auto path = folder.file("web.log");
    logger::LogFile file(path, 1000, 5);
    file.write("one\n", kNoon);
    fs::rename(path, path + "-old");
    file.write("two\n", kNoon);
    CHECK(content_of(path + "-old") == "one\n");
    CHECK(content_of(path) == "two\n");
    // Moved, and another one made for us.
    fs::rename(path, path + "-old");
    std::ofstream(path) << "";
    file.write("three\n", kNoon);
    CHECK(content_of(path) == "three\n");
    fs::remove(path);
    file.write("four\n", kNoon);
    CHECK(content_of(path) == "four\n");
    fs::resize_file(path, 0);
    file.write("five\n", kNoon);
    CHECK(content_of(path) == "five\n");
}

TEST_CASE("lines that cannot be written are counted, and told of when they can") {
    Folder folder;
    auto path = folder.file("web.log");
    logger::LogFile file(path, 1000, 5);
    fs::create_symlink("/etc/passwd", path);
    file.write("one\ntwo\n", kNoon);
    auto trouble = file.take_trouble();
    REQUIRE(trouble);
    CHECK(trouble->find(path + " cannot be written, so lines are missing there: ") == 0);
    file.write("three\n", kNoon);
    CHECK_FALSE(file.take_trouble());  // told once
    CHECK(file.dropped_lines_total() == 3);
    fs::remove(path);
    file.write("four\n", kNoon);
    CHECK(content_of(path) ==
          "2026-11-26T12:00:00.000Z - drover 3 lines are missing here: this file "
          "could not be written\nfour\n");
    fs::remove(path);
    fs::create_directory(path);
    file.write("five\n", kNoon);
    CHECK(file.take_trouble());
    CHECK(file.dropped_lines_total() == 4);
}

TEST_CASE("the last lines are found, across rotated files, of one worker or all") {
    Folder folder;
    auto path = folder.file("web.log");
    LogWorker one{0, 1}, two{1, 2};
    std::ofstream(path + ".2") << line_at(0ms, one, "a") << line_at(1ms, two, "b");
    std::ofstream(path + ".1") << line_at(10'000ms, one, "c") << "not ours\n"
                               << line_at(11'000ms, two, "d");
    std::ofstream(path) << line_at(20'000ms, one, "e") << line_at(21'000ms, two, "f");
    CHECK(found(path, wanted({}, {}, {})) == "a b c d e f");
    CHECK(found(path, wanted({}, 1, {})) == "f");
    CHECK(found(path, wanted({}, 2, {})) == "e f");
    CHECK(found(path, wanted({}, 3, {})) == "d e f");
    CHECK(found(path, wanted({}, 6, {})) == "a b c d e f");
    CHECK(found(path, wanted({}, 0, {})) == "");
    CHECK(found(path, wanted(2, {}, {})) == "b d f");
    CHECK(found(path, wanted(1, 2, {})) == "c e");
    CHECK(found(path, wanted(3, {}, {})) == "");
    CHECK(found(path, wanted({}, {}, kNoon + 11s)) == "d e f");
    CHECK(found(path, wanted({}, 1, kNoon + 11s)) == "f");
    CHECK(found(path, wanted({}, {}, kNoon + 1h)) == "");
    CHECK(found(folder.file("other.log"), wanted({}, {}, {})).find("No such file") !=
          std::string::npos);
}

TEST_CASE("a log file of any length is searched from its end") {
    Folder folder;
    auto path = folder.file("web.log");
    {
        std::ofstream file(path);
        for (int i = 0; i < 20'000; i++)
            file << line_at(std::chrono::milliseconds(i), {0, 1},
                            fmt::format("{}{}", i, i % 1000 == 0 ? std::string(70'000, 'x') : ""));
    }
    CHECK(found(path, wanted({}, 3, {})) == "19997 19998 19999");
    auto many = found(path, wanted({}, 19'999, {}));
    CHECK(many.starts_with("1 2 3 "));
    CHECK(std::ranges::count(many, ' ') == 19'998);
}

TEST_CASE("following goes on over a rotation, also over several at once, and a cut-off") {
    Folder folder;
    auto path = folder.file("web.log");
    std::ofstream(path) << line_at(0ms, {0, 1}, "a") << "2026-11-26T12:00";
    std::string texts;
    int step = 0;
    // Each line that is told is the occasion for the next change; nothing is waited for.
    auto query = wanted({}, 1, {});
    query.follow = true;
    auto read = cli::read_log_files(path, query, [&](const LogLine& line) {
        texts += line.text;
        switch (++step) {
            case 1:  // the rest of the line, and two rotations
                std::ofstream(path, std::ios::app) << ":01.000Z 0/1 out b\n";
                fs::rename(path, path + ".2");
                std::ofstream(path + ".1") << line_at(2ms, {0, 1}, "c");
                std::ofstream(path) << line_at(3ms, {10, 1000}, "d");
                break;
            case 4:
                fs::resize_file(path, 0);
                std::ofstream(path, std::ios::app) << line_at(4ms, {0, 1}, "e");
                break;
            default:
                break;
        }
        return step < 5;
    });
    CHECK(read);
    CHECK(texts == "abcde");
}

TEST_CASE("since is a duration or a time") {
    CHECK(cli::parse_since("10m", kNoon) == kNoon - 10min);
    CHECK(cli::parse_since("500ms", kNoon) == kNoon - 500ms);
    CHECK(cli::parse_since("2026-11-26T12:00:00Z", kNoon + 5h) == kNoon);
    for (const char* bad : {"", "10", "yesterday", "2026-11-26", "12:00", "-5m"}) {
        INFO(bad);
        auto parsed = cli::parse_since(bad, kNoon);
        REQUIRE_FALSE(parsed);
        CHECK(parsed.error().text.find("is neither a duration like 10m nor a time like") !=
              std::string::npos);
    }
}

TEST_CASE("a line is shown with its worker, harmless; for a program as JSON") {
    LogLine line{kNoon, LogWorker{1, 7}, LogStream::err, "oops\x1b[2J\x1b[31mred"};
    CHECK(cli::render_log_line(line, "web", false) ==
          "2026-11-26T12:00:00.000Z [web/1] oops\\x1b[2J\x1b[31mred\n");
    CHECK(cli::render_log_line(line, "web", true) ==
          "2026-11-26T12:00:00.000Z \x1b[33m[web/1]\x1b[0m oops\\x1b[2J\x1b[31mred\x1b[0m\n");
    LogLine own{kNoon, std::nullopt, LogStream::drover, "warning: x"};
    CHECK(cli::render_log_line(own, "web", true) ==
          "2026-11-26T12:00:00.000Z drover: warning: x\n");
    CHECK(cli::to_json(own, "web").dump() ==
          R"({"v":1,"time":"2026-11-26T12:00:00.000Z","cluster":"web","worker":null,)"
          R"("stream":"drover","text":"warning: x"})");
    line.text = "oops";
    CHECK(cli::to_json(line, "web").dump() ==
          R"({"v":1,"time":"2026-11-26T12:00:00.000Z","cluster":"web",)"
          R"("worker":{"id":7,"instance":1},"stream":"err","text":"oops"})");
}

TEST_CASE("the options of the log are checked") {
    using namespace supervisor;
    Config config;
    CHECK(config.log_rate == LogRate{10'000, Duration(1000)});
    CHECK(set_option(config, "log-file", "/var/log/web.log"));
    CHECK(set_option(config, "log-size", "64K"));
    CHECK(set_option(config, "log-keep", "3"));
    CHECK(set_option(config, "log-rate", "50/10s"));
    CHECK(config.log_file == "/var/log/web.log");
    CHECK(config.log_size == 65536);
    CHECK(config.log_keep == 3);
    CHECK(config.log_rate == LogRate{50, Duration(10'000)});
    CHECK(set_option(config, "log-file", "none"));
    CHECK(set_option(config, "log-rate", "none"));
    CHECK_FALSE(config.log_rate);
    auto refuses = [&](const char* option, const char* value) {
        INFO(option, " ", value);
        auto set = set_option(config, option, value);
        CHECK_FALSE(set);
        if (!set) CHECK(set.error().text.starts_with(fmt::format("--{}: \"{}\"", option, value)));
    };
    for (const char* value : {"", "web.log", "./web.log", "/var/log/"}) refuses("log-file", value);
    for (const char* value : {"1K", "ten", ""}) refuses("log-size", value);
    for (const char* value : {"0", "1001", "x"}) refuses("log-keep", value);
    for (const char* value : {"", "5", "0/1s", "x/1s", "-1/1s"}) refuses("log-rate", value);
    CHECK_FALSE(set_option(config, "log-rate", "5/0s"));
    CHECK_FALSE(set_option(config, "log-rate", "5/x"));
}
