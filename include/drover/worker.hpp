// SPDX-License-Identifier: MIT
//
// For authors of workers in C++17: messages to and from drover's master, load reports, and the
// sockets that the master passes. It is this one file, long therefore, and needs nothing but libc.
//
//     #include <drover/worker.hpp>
//
//     auto channel = drover::Channel::open();
//     channel.ready();                                  // with --ready message: send me traffic
//     channel.send(R"({"jobs":3})");                    // to the master: `drover events` shows it
//     channel.send("\"hello\"", drover::To::all());     // to every other worker
//     while (auto message = channel.wait(std::chrono::seconds(1)))
//         if (message->kind == drover::Message::Kind::message) use(message->data, message->from);
//
// A program that is not under drover runs as well: everything here is then a no-op, is_worker()
// false, and a wait just waits.
//
// Nothing throws but the allocator, nothing but wait() and flush() blocks, and SIGPIPE does not
// occur: a worker holds both ends of its pipes, so it does not even notice that the master was
// killed. It then goes on serving, and Sent::queue_full comes in the end. A Channel is to be used
// from one thread at a time. Two Channels of one process would take each other's messages.
//
// What is on the pipes is one JSON object a line; any language can speak it by hand (README).
#ifndef DROVER_WORKER_HPP
#define DROVER_WORKER_HPP

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace drover {

// --- Who am I ------------------------------------------------------------------------------------

inline bool is_worker();           // whether drover started this program
inline std::uint64_t worker_id();  // counts up from 1, never used twice; 0 where not under drover
inline int
instance();  // 0 … workers() − 1: a replacement has its predecessor's. 0 where not under drover
inline int workers();  // how many there were to be when this one started; 1 where not under drover

// --- Sockets of --listen -------------------------------------------------------------------------

struct ListeningFd {
    int fd;            // listening, closed on exec; the caller's from now on
    std::string name;  // of LISTEN_FDNAMES; "unknown" where there is none
};
// What was passed to this very process by the systemd protocol (LISTEN_PID, LISTEN_FDS), in the
// order of the --listen options. Empty where nothing was: bind as usual then. The same each time.
inline std::vector<ListeningFd> listening_fds();

// --- Messages ------------------------------------------------------------------------------------

// A JSON string, quotes included. What is not UTF-8 in `text` becomes U+FFFD.
inline std::string json_string(std::string_view text);

struct Message {
    enum class Kind {
        message,     // data, from
        disconnect,  // finish what is begun and exit, before `deadline` is over
    };
    Kind kind = Kind::message;
    std::string data;        // JSON text on one line, as the sender wrote it
    std::uint64_t from = 0;  // id of the worker that sent it; 0: the master
    std::chrono::milliseconds deadline{0};
};

// Whom a message is for.
class To {
  public:
    static To master() { return To(Kind::master, 0); }
    static To all() { return To(Kind::all, 0); }  // every other worker
    static To worker(std::uint64_t id) { return To(Kind::worker, id); }

  private:
    friend class Channel;
    enum class Kind { master, all, worker };
    To(Kind kind, std::uint64_t id) : kind_(kind), id_(id) {}
    Kind kind_;
    std::uint64_t id_;
};

// What became of something to be sent. Only with `yes` any of it was or will be written: whoever
// tries again after queue_full loses nothing and sends nothing twice.
enum class Sent {
    yes,         // written, or queued in order behind what waits
    queue_full,  // the master does not read as fast: flush() or wait, then try again
    too_long,    // more than Channel::kMaxLine bytes with what goes around it
    invalid,     // data is not JSON or nested deeper than kMaxDepth; a load is no number from 0 up
    no_channel,  // not under drover, or the pipe is closed
};

class Channel {
  public:
    static constexpr std::size_t kMaxLine = 1024 * 1024;     // bytes, line break not counted
    static constexpr std::size_t kMaxQueued = 4 * kMaxLine;  // bytes that wait in this process
    static constexpr int kMaxDepth = 128;                    // arrays and objects in each other

    // The channel of this process, by its environment; one that leads nowhere where there is none.
    // Its descriptors become nonblocking and closed on exec, and stay open for the process's life.
    static Channel open();
    // The same on given pipes (nonnegative).
    static Channel open(int read_fd, int write_fd);

    Channel() = default;  // leads nowhere
    Channel(Channel&& other) noexcept { *this = std::move(other); }
    Channel& operator=(Channel&& other) noexcept;

    bool is_open() const { return read_fd_ >= 0 || write_fd_ >= 0; }

    // "I can take traffic", with --ready message.
    Sent ready() { return send_line("{\"type\":\"ready\"}"); }
    // `data` is JSON text; it may have line breaks between its tokens.
    Sent send(std::string_view data, To to = To::master());
    // How busy this worker is: 0 idle, 1 all that it can do, more is allowed. Kept to 6 decimals.
    Sent report_load(double value);
    // "I will take no more messages."
    Sent disconnect() { return send_line("{\"type\":\"disconnect\"}"); }

    // For an event loop of one's own: when fd() is readable (−1: there is none), call receive()
    // until it returns nothing: one read may have brought several messages, which fd() then no
    // longer tells of. While has_unsent(), wait for write_fd() to be writable and call flush().
    int fd() const { return read_fd_; }
    int write_fd() const { return write_fd_; }

    // The next message; nothing where none is there yet. Never blocks. Pings are answered here, so
    // a worker that is to count as alive calls this now and then.
    std::optional<Message> receive();
    // The same, but waits for one. A negative timeout waits forever; a signal ends it early. Where
    // there is no channel (any more) it waits all the same, so that a loop around it never spins.
    std::optional<Message> wait(std::chrono::milliseconds timeout);

    // Whether something waits for room in the pipe. It is written on along with any later call.
    bool has_unsent() const { return sent_ < output_.size(); }
    // Waits until nothing is unsent, at most for `timeout` (negative: forever). Whether it is so.
    bool flush(std::chrono::milliseconds timeout = std::chrono::milliseconds(0));

    // Lines from the master that were ignored: of a type unknown to this version, or malformed.
    std::uint64_t ignored_total() const { return ignored_total_; }

  private:
    Sent send_line(std::string_view line);
    void write_some();
    bool read_some();
    std::optional<std::string> next_line();
    std::optional<Message> understand(const std::string& line);

    int read_fd_ = -1;
    int write_fd_ = -1;
    std::string input_;
    std::size_t begin_ = 0;    // of the next line in input_
    std::size_t scanned_ = 0;  // no line break before this
    bool skipping_ = false;    // within a line that is too long
    std::string output_;
    std::size_t sent_ = 0;  // bytes of output_ that are in the pipe
    std::uint64_t ignored_total_ = 0;
};

// --- From here on: how it is done ----------------------------------------------------------------

namespace worker_detail {

inline std::optional<std::uint64_t> to_number(std::string_view text) {
    std::uint64_t number = 0;
    if (text.empty()) return std::nullopt;
    for (char digit : text) {
        if (digit < '0' || digit > '9') return std::nullopt;
        auto value = static_cast<std::uint64_t>(digit - '0');
        if (number > (UINT64_MAX - value) / 10) return std::nullopt;
        number = number * 10 + value;
    }
    return number;
}

inline std::optional<std::uint64_t> number_variable(const char* name, std::uint64_t most) {
    const char* text = std::getenv(name);
    if (text == nullptr) return std::nullopt;
    auto number = to_number(text);
    return number && *number <= most ? number : std::nullopt;
}

// The descriptor that a variable names, if it is one that messages can come through: a helper of
// the worker's may have inherited the variable without it.
inline int fd_variable(const char* name) {
    auto number = number_variable(name, INT32_MAX);
    struct stat status {};
    if (!number || ::fstat(static_cast<int>(*number), &status) != 0) return -1;
    if (!S_ISFIFO(status.st_mode) && !S_ISSOCK(status.st_mode)) return -1;
    return static_cast<int>(*number);
}

// Bytes of the UTF-8 character at `at`; 0 where there is no valid one.
inline std::size_t utf8_length(std::string_view text, std::size_t at) {
    auto byte = [&](std::size_t i) -> unsigned {
        return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0;
    };
    unsigned first = byte(0), second = byte(1);
    if (first < 0x80) return 1;
    if (first < 0xC2 || first > 0xF4) return 0;
    std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    for (std::size_t i = 1; i < length; ++i)
        if ((byte(i) & 0xC0) != 0x80) return 0;
    // Written longer than need be, a surrogate, beyond U+10FFFF.
    if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second >= 0xA0) ||
        (first == 0xF0 && second < 0x90) || (first == 0xF4 && second >= 0x90))
        return 0;
    return length;
}

// A strict reader of JSON text that builds nothing: it says what is valid, and where it ends.
class Scanner {
  public:
    explicit Scanner(std::string_view text) : text_(text) {}

    std::size_t at() const { return at_; }
    bool is_at_end() const { return at_ == text_.size(); }

    void space() {
        while (!is_at_end() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\r' ||
                                text_[at_] == '\n'))
            ++at_;
    }

    bool take(char wanted) {
        if (is_at_end() || text_[at_] != wanted) return false;
        ++at_;
        return true;
    }

    // One value, with at most `depth` arrays and objects in each other.
    bool value(int depth) {
        if (is_at_end()) return false;
        switch (text_[at_]) {
            case '{':
                return list(depth, '}', /*has_keys=*/true);
            case '[':
                return list(depth, ']', /*has_keys=*/false);
            case '"':
                return string();
            case 't':
                return word("true");
            case 'f':
                return word("false");
            case 'n':
                return word("null");
            default:
                return number();
        }
    }

    bool string() {
        if (!take('"')) return false;
        while (!is_at_end()) {
            auto byte = static_cast<unsigned char>(text_[at_]);
            if (byte == '"') return take('"');
            if (byte < 0x20) return false;
            if (byte == '\\') {
                if (!escape()) return false;
                continue;
            }
            std::size_t length = byte < 0x80 ? 1 : utf8_length(text_, at_);
            if (length == 0) return false;
            at_ += length;
        }
        return false;
    }

  private:
    bool word(std::string_view wanted) {
        if (text_.substr(at_, wanted.size()) != wanted) return false;
        at_ += wanted.size();
        return true;
    }

    bool list(int depth, char end, bool has_keys) {
        if (depth <= 0) return false;
        ++at_;
        space();
        if (take(end)) return true;
        do {
            space();
            if (has_keys) {
                if (!string()) return false;
                space();
                if (!take(':')) return false;
                space();
            }
            if (!value(depth - 1)) return false;
            space();
        } while (take(','));
        return take(end);
    }

    bool digits() {
        std::size_t begin = at_;
        while (!is_at_end() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
        return at_ > begin;
    }

    bool number() {
        take('-');
        if (!take('0') && !digits()) return false;
        if (take('.') && !digits()) return false;
        if (!take('e') && !take('E')) return true;
        if (!take('+')) take('-');
        return digits();
    }

    bool escape() {
        ++at_;
        if (is_at_end()) return false;
        char kind = text_[at_++];
        if (kind != 'u') return std::string_view("\"\\/bfnrt").find(kind) != std::string_view::npos;
        auto first = hex();
        if (!first || (*first >= 0xDC00 && *first < 0xE000)) return false;
        if (*first < 0xD800 || *first >= 0xE000) return true;
        if (!word("\\u")) return false;
        auto second = hex();
        return second && *second >= 0xDC00 && *second < 0xE000;
    }

    std::optional<unsigned> hex() {
        unsigned number = 0;
        for (int i = 0; i < 4; ++i) {
            char digit = is_at_end() ? ' ' : text_[at_++];
            if (digit >= '0' && digit <= '9')
                number = number * 16 + static_cast<unsigned>(digit - '0');
            else if (digit >= 'a' && digit <= 'f')
                number = number * 16 + static_cast<unsigned>(digit - 'a') + 10;
            else if (digit >= 'A' && digit <= 'F')
                number = number * 16 + static_cast<unsigned>(digit - 'A') + 10;
            else
                return std::nullopt;
        }
        return number;
    }

    std::string_view text_;
    std::size_t at_ = 0;
};

inline bool is_json(std::string_view text, int max_depth) {
    Scanner scanner(text);
    scanner.space();
    if (!scanner.value(max_depth)) return false;
    scanner.space();
    return scanner.is_at_end();
}

// Calls `field` with each key (between its quotes, escapes left as they are) and value (JSON text)
// of an object. Whether the text is one, and valid; some fields may have been told before that is
// known.
template <class OnField>
bool each_field(std::string_view text, int max_depth, OnField on_field) {
    Scanner scanner(text);
    scanner.space();
    if (!scanner.take('{')) return false;
    scanner.space();
    if (!scanner.take('}')) {
        do {
            scanner.space();
            std::size_t key_begin = scanner.at();
            if (!scanner.string()) return false;
            auto key = text.substr(key_begin + 1, scanner.at() - key_begin - 2);
            scanner.space();
            if (!scanner.take(':')) return false;
            scanner.space();
            std::size_t begin = scanner.at();
            if (!scanner.value(max_depth - 1)) return false;
            on_field(key, text.substr(begin, scanner.at() - begin));
            scanner.space();
        } while (scanner.take(','));
        if (!scanner.take('}')) return false;
    }
    scanner.space();
    return scanner.is_at_end();
}

// In valid JSON a raw line break can only stand between tokens, where a space means the same.
inline void append_on_one_line(std::string& line, std::string_view json) {
    std::size_t begin = line.size();
    line.append(json);
    for (char end : {'\n', '\r'})
        for (auto at = begin; (at = line.find(end, at)) != std::string::npos;) line[at] = ' ';
}

// Milliseconds for poll(): −1 forever, else what is left until `end`, rounded up.
class Deadline {
  public:
    explicit Deadline(std::chrono::milliseconds timeout)
        : is_never_(timeout.count() < 0),
          end_(Clock::now() +
               std::min(timeout, std::chrono::milliseconds(std::chrono::hours(24 * 365)))) {}
    int left() const {
        if (is_never_) return -1;
        auto rest = std::chrono::ceil<std::chrono::milliseconds>(end_ - Clock::now()).count();
        return static_cast<int>(std::clamp<long long>(rest, 0, INT32_MAX));
    }

  private:
    using Clock = std::chrono::steady_clock;
    bool is_never_;
    Clock::time_point end_;
};

}  // namespace worker_detail

inline bool is_worker() {
    return worker_id() != 0;
}

inline std::uint64_t worker_id() {
    return worker_detail::number_variable("DROVER_WORKER_ID", UINT64_MAX).value_or(0);
}

inline int instance() {
    return static_cast<int>(
        worker_detail::number_variable("DROVER_INSTANCE", INT32_MAX).value_or(0));
}

inline int workers() {
    auto number = worker_detail::number_variable("DROVER_WORKERS", INT32_MAX).value_or(1);
    return number > 0 ? static_cast<int>(number) : 1;
}

inline std::vector<ListeningFd> listening_fds() {
    constexpr int kFirst = 3;
    auto pid = worker_detail::number_variable("LISTEN_PID", INT32_MAX);
    auto count = worker_detail::number_variable("LISTEN_FDS", 65536);
    if (!pid || static_cast<pid_t>(*pid) != ::getpid() || !count) return {};
    const char* variable = std::getenv("LISTEN_FDNAMES");
    std::string_view names = variable != nullptr ? variable : "";
    std::vector<ListeningFd> fds;
    for (int fd = kFirst; fd < kFirst + static_cast<int>(*count); ++fd) {
        auto name = names.substr(0, names.find(':'));
        names.remove_prefix(std::min(names.size(), name.size() + 1));
        int flags = ::fcntl(fd, F_GETFD);
        if (flags < 0) continue;
        ::fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
        fds.push_back({fd, name.empty() ? "unknown" : std::string(name)});
    }
    return fds;
}

inline std::string json_string(std::string_view text) {
    constexpr char kHex[] = "0123456789abcdef";
    std::string json = "\"";
    for (std::size_t at = 0; at < text.size();) {
        auto byte = static_cast<unsigned char>(text[at]);
        std::size_t length = worker_detail::utf8_length(text, at);
        if (byte == '"' || byte == '\\') {
            json += '\\';
            json += text[at];
        } else if (byte < 0x20 || byte == 0x7F) {
            json += "\\u00";
            json += kHex[byte >> 4];
            json += kHex[byte & 15];
        } else if (length == 0) {
            json += "\xEF\xBF\xBD";
        } else {
            json.append(text, at, length);
        }
        at += std::max<std::size_t>(length, 1);
    }
    return json += '"';
}

inline Channel Channel::open() {
    int read_fd = worker_detail::fd_variable("DROVER_IPC_READ_FD");
    int write_fd = worker_detail::fd_variable("DROVER_IPC_WRITE_FD");
    if (read_fd < 0 || write_fd < 0) return Channel();
    return open(read_fd, write_fd);
}

inline Channel Channel::open(int read_fd, int write_fd) {
    Channel channel;
    for (int fd : {read_fd, write_fd}) {
        int flags = ::fcntl(fd, F_GETFL);
        if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return channel;
        ::fcntl(fd, F_SETFD, ::fcntl(fd, F_GETFD) | FD_CLOEXEC);
    }
    channel.read_fd_ = read_fd;
    channel.write_fd_ = write_fd;
    return channel;
}

inline Channel& Channel::operator=(Channel&& other) noexcept {
    if (this == &other) return *this;
    read_fd_ = std::exchange(other.read_fd_, -1);
    write_fd_ = std::exchange(other.write_fd_, -1);
    input_ = std::exchange(other.input_, {});
    begin_ = std::exchange(other.begin_, 0);
    scanned_ = std::exchange(other.scanned_, 0);
    skipping_ = std::exchange(other.skipping_, false);
    output_ = std::exchange(other.output_, {});
    sent_ = std::exchange(other.sent_, 0);
    ignored_total_ = other.ignored_total_;
    return *this;
}

inline Sent Channel::send(std::string_view data, To to) {
    if (write_fd_ < 0) return Sent::no_channel;
    if (data.size() > kMaxLine) return Sent::too_long;
    if (!worker_detail::is_json(data, kMaxDepth)) return Sent::invalid;
    std::string line = "{\"type\":\"message\",\"data\":";
    worker_detail::append_on_one_line(line, data);
    if (to.kind_ == To::Kind::all) line += ",\"to\":\"all\"";
    if (to.kind_ == To::Kind::worker) line += ",\"to\":" + std::to_string(to.id_);
    line += '}';
    return send_line(line);
}

inline Sent Channel::report_load(double value) {
    constexpr double kMost = 1e9;
    if (!(value >= 0 && value <= kMost)) return Sent::invalid;  // and what is not a number
    // By hand: printf would write the locale's decimal comma.
    auto millionths = static_cast<std::uint64_t>(value * 1e6 + 0.5);
    auto fraction = std::to_string(millionths % 1000000);
    fraction.insert(0, 6 - fraction.size(), '0');
    return send_line("{\"type\":\"load\",\"value\":" + std::to_string(millionths / 1000000) + "." +
                     fraction + "}");
}

inline Sent Channel::send_line(std::string_view line) {
    write_some();
    if (write_fd_ < 0) return Sent::no_channel;
    if (line.size() > kMaxLine) return Sent::too_long;
    if (output_.size() - sent_ + line.size() + 1 > kMaxQueued) return Sent::queue_full;
    output_.append(line).push_back('\n');
    write_some();
    return write_fd_ < 0 ? Sent::no_channel : Sent::yes;
}

inline void Channel::write_some() {
    while (write_fd_ >= 0 && has_unsent()) {
        // Asked first: a pipe that nobody reads any more would answer a write with SIGPIPE.
        pollfd one{write_fd_, POLLOUT, 0};
        if (::poll(&one, 1, 0) == 1 && (one.revents & (POLLERR | POLLNVAL)) != 0) {
            write_fd_ = -1;
            break;
        }
        ssize_t size = ::write(write_fd_, output_.data() + sent_, output_.size() - sent_);
        if (size < 0 && errno == EINTR) continue;
        if (size < 0 && errno == EAGAIN) break;
        if (size < 0) {
            write_fd_ = -1;
            break;
        }
        sent_ += static_cast<std::size_t>(size);
    }
    if (write_fd_ < 0 || !has_unsent()) {
        output_.clear();
        sent_ = 0;
    } else if (sent_ > kMaxLine) {
        output_.erase(0, sent_);
        sent_ = 0;
    }
}

inline bool Channel::flush(std::chrono::milliseconds timeout) {
    worker_detail::Deadline deadline(timeout);
    write_some();
    while (has_unsent()) {
        int left = deadline.left();
        if (left == 0) return false;
        pollfd one{write_fd_, POLLOUT, 0};
        if (::poll(&one, 1, left) < 0 && errno != EINTR) return false;
        write_some();
    }
    return true;
}

inline std::optional<Message> Channel::receive() {
    write_some();
    for (;;) {
        while (auto line = next_line())
            if (auto message = understand(*line)) return message;
        if (!read_some()) return std::nullopt;
    }
}

inline std::optional<Message> Channel::wait(std::chrono::milliseconds timeout) {
    worker_detail::Deadline deadline(timeout);
    for (;;) {
        if (auto message = receive()) return message;
        int left = deadline.left();
        if (left == 0) return std::nullopt;
        // poll() passes over negative descriptors.
        pollfd both[2] = {{read_fd_, POLLIN, 0}, {has_unsent() ? write_fd_ : -1, POLLOUT, 0}};
        if (::poll(both, 2, left) < 0) return std::nullopt;
    }
}

// Whether bytes have come.
inline bool Channel::read_some() {
    if (read_fd_ < 0) return false;
    // What has been read is dropped here, once for all lines that one read brought.
    input_.erase(0, begin_);
    scanned_ -= begin_;
    begin_ = 0;
    char bytes[65536];
    ssize_t size = 0;
    do size = ::read(read_fd_, bytes, sizeof(bytes));
    while (size < 0 && errno == EINTR);
    if (size > 0) {
        input_.append(bytes, static_cast<std::size_t>(size));
        return true;
    }
    if (size == 0 || errno != EAGAIN) read_fd_ = -1;
    return false;
}

inline std::optional<std::string> Channel::next_line() {
    for (;;) {
        std::size_t end = input_.find('\n', scanned_);
        bool is_whole = end != std::string::npos;
        scanned_ = is_whole ? end + 1 : input_.size();
        std::size_t length = (is_whole ? end : input_.size()) - begin_;
        bool is_too_long = !skipping_ && length > kMaxLine;
        if (is_too_long) ++ignored_total_;
        if (!is_whole) {
            skipping_ = skipping_ || is_too_long;
            if (skipping_) begin_ = scanned_;
            return std::nullopt;
        }
        std::size_t begin = std::exchange(begin_, scanned_);
        bool is_skipped = std::exchange(skipping_, false) || is_too_long;
        if (!is_skipped) return input_.substr(begin, length);
    }
}

// Nothing where the line is not for the program.
inline std::optional<Message> Channel::understand(const std::string& line) {
    std::string_view type, data, from, deadline;
    bool is_valid = worker_detail::each_field(line, kMaxDepth + 1,
                                              [&](std::string_view key, std::string_view value) {
                                                  if (key == "type") type = value;
                                                  if (key == "data") data = value;
                                                  if (key == "from") from = value;
                                                  if (key == "deadline_ms") deadline = value;
                                              });
    Message message;
    if (is_valid && type == "\"message\"" && !data.empty()) {
        message.data = data;
        message.from = worker_detail::to_number(from).value_or(0);
        return message;
    }
    if (is_valid && type == "\"disconnect\"") {
        message.kind = Message::Kind::disconnect;
        auto milliseconds =
            std::min<std::uint64_t>(worker_detail::to_number(deadline).value_or(0), INT32_MAX);
        message.deadline = std::chrono::milliseconds(milliseconds);
        return message;
    }
    if (is_valid && type == "\"ping\"")
        (void)send_line("{\"type\":\"pong\"}");
    else if (!is_valid || type != "\"hello\"")
        ++ignored_total_;
    return std::nullopt;
}

}  // namespace drover

#endif
