// SPDX-License-Identifier: MIT
//
// One control socket carries a status request a second and a request for each key; replies come as
// things are done, in any order, and are known by their id. Nothing here waits: a drain may take
// minutes, and the screen goes on.
//
// When the connection ends, the master has ended, or has become another program (upgrade): its pid
// tells.
#include "cli/top.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <map>
#include <utility>

#include "base/event_loop.h"
#include "cli/cli.h"
#include "cli/clusters.h"
#include "cli/connection.h"
#include "cli/top_terminal.h"

namespace drover::cli {

namespace {

using std::chrono::steady_clock;

constexpr std::chrono::seconds kInterval{1};
constexpr int kMessageTicks = 15;    // for so long what came of a key is shown
constexpr int kSilentTicks = 3;      // after that a master is said to be silent
constexpr int kReconnectTicks = 10;  // for so long a master may take to become another program

struct Action {
    const char* verb;
    const char* doing;  // "draining", before "worker 3"
    const char* done;
    const char* hint;
};
constexpr Action kDrain = {"drain", "draining", "drained", ": r gives it connections again"};
constexpr Action kResume = {"resume", "resuming", "resumed", ""};
constexpr Action kRescue = {"rescue", "moving what waits for", "moved what waited for", ""};
constexpr Action kRestart = {"restart", "restarting", "restarted", ""};

class Top {
  public:
    Top(EventLoop& loop, TopTerminal& terminal, const Paths& paths,
        std::vector<std::string> clusters)
        : loop_(loop), terminal_(terminal), paths_(paths), clusters_(std::move(clusters)) {}

    void start(const std::string& cluster, Connection connection) {
        auto leave = [this](int) { loop_.exit(kDone); };
        signals_.push_back(loop_.on_signal(SIGINT, leave));
        signals_.push_back(loop_.on_signal(SIGTERM, leave));
        signals_.push_back(loop_.on_signal(SIGHUP, [this](int) { loop_.exit(kFailed); }));
        signals_.push_back(loop_.on_signal(SIGWINCH, [this](int) {
            terminal_.resize();
            draw();
        }));
        keys_ = loop_.on_io(STDIN_FILENO, EPOLLIN, [this](uint32_t bits) {
            if ((bits & (EPOLLHUP | EPOLLERR)) != 0) return loop_.exit(kFailed);
            while (auto key = terminal_.key()) on_key(*key);
            draw();
        });
        watch(cluster, std::move(connection));
        tick();
    }

    // Why it ended; "" where the user wanted it to.
    [[nodiscard]] const std::string& farewell() const { return farewell_; }

  private:
    // --- The master ------------------------------------------------------------------------------

    void watch(const std::string& cluster, Connection connection) {
        cluster_ = cluster;
        replies_.reset();
        connection_ = std::move(connection);
        closed_ticks_ = 0;
        status_id_ = 0;
        actions_.clear();
        master_exit_.reset();
        master_ = connection_->master();
        replies_ = loop_.on_io(connection_->fd(), EPOLLIN, [this](uint32_t) { on_replies(); });
        ask_status();
    }

    void ask(const std::string& verb, const Json& args, int64_t id) {
        if (!connection_) return;
        if (!connection_->send(make_request(verb, args, id))) on_closed();
    }

    void ask_status() {
        if (status_id_ != 0 || !connection_) return;
        status_id_ = ++last_id_;
        silent_ticks_ = 0;
        ask("status", Json::object(), status_id_);
    }

    void on_replies() {
        auto more = connection_->receive();
        while (connection_) {  // what is asked in return may find it closed
            auto line = connection_->take_line();
            if (!line) break;
            on_reply(Json::parse(*line, nullptr, false));
        }
        if (connection_ && (!more || !*more)) on_closed();
        draw();
    }

    void on_reply(const Json& reply) {
        auto id = static_cast<int64_t>(number_of(reply, "id"));
        auto data = read_reply(reply);
        if (id == status_id_) {
            status_id_ = 0;
            if (silent_ticks_ >= kSilentTicks) say("", false);  // it does answer
            if (!data) return say(data.error().text, true);
            return model_.add(*data, steady_clock::now(), std::chrono::system_clock::now());
        }
        auto asked = actions_.find(id);
        if (asked == actions_.end()) return;
        auto [action, worker] = asked->second;
        actions_.erase(asked);
        if (data) say(fmt::format("{} worker {}{}", action->done, worker, action->hint), false);
        if (!data)
            say(fmt::format("{} worker {}: {}", action->verb, worker, one_line(data.error().text)),
                true);
        ask_status();
    }

    static std::string one_line(std::string text) {
        std::ranges::replace(text, '\n', ' ');
        return text;
    }

    void on_closed() {
        replies_.reset();
        connection_.reset();
        status_id_ = 0;
        closed_ticks_ = 1;
        if (!master_.is_open()) return end();
        say("the master has closed the connection: waiting for it", true);
        master_exit_ = loop_.on_io(master_.get(), EPOLLIN, [this](uint32_t) { end(); });
    }

    void reconnect() {
        if (++closed_ticks_ > kReconnectTicks) return end();
        auto again = Connection::open(paths_.control_socket(cluster_));
        if (!again) return;
        model_.clear();
        say("the master goes on as another program", false);
        watch(cluster_, std::move(*again));
    }

    void end() {
        farewell_ = fmt::format("the master of cluster {} has ended", cluster_);
        loop_.exit(kFailed);
    }

    void tick() {
        tick_ = loop_.after(kInterval, [this] { tick(); });
        if (message_ticks_ > 0 && --message_ticks_ == 0) message_.clear();
        if (!connection_) {
            if (closed_ticks_ > 0) reconnect();
        } else if (status_id_ == 0) {
            ask_status();
        } else if (++silent_ticks_ >= kSilentTicks) {
            say(fmt::format("no answer from the master for {} s", silent_ticks_), true);
        }
        draw();
    }

    // --- The keys --------------------------------------------------------------------------------

    void on_key(const Key& key) {
        if (to_restart_) return on_answer(key.character);
        if (shows_help_) {
            shows_help_ = false;
            return;
        }
        auto page = static_cast<int>(top_page(model_, frame()));
        switch (key.kind) {
            case Key::Kind::up:
                return model_.move_selection(-1);
            case Key::Kind::down:
                return model_.move_selection(1);
            case Key::Kind::page_up:
                return model_.move_selection(-page);
            case Key::Kind::page_down:
                return model_.move_selection(page);
            case Key::Kind::home:
                return model_.select(0);
            case Key::Kind::end:
                return model_.select(SIZE_MAX);
            case Key::Kind::character:
                return on_character(key.character);
            case Key::Kind::other:
                return;
        }
    }

    void on_character(char character) {
        if (character >= '1' && character <= '9')
            return show_cluster(static_cast<size_t>(character - '1'));
        switch (character) {
            case 'q':
                return loop_.exit(kDone);
            case 'k':
                return model_.move_selection(-1);
            case 'j':
                return model_.move_selection(1);
            case 'd':
                return act(kDrain, selected_worker());
            case 'r':
                return act(kResume, selected_worker());
            case 'u':
                return act(kRescue, selected_worker());
            case 'R':
                to_restart_ = selected_worker();
                if (to_restart_) say(fmt::format("restart worker {}? y/n", *to_restart_), false);
                return;
            case 's':
                return model_.set_sort(next(model_.sort()));
            case 'h':
            case '?':
                shows_help_ = true;
                return;
            case '\t':
                return show_cluster(std::nullopt);
            case '\f':  // Ctrl-L
                return terminal_.resize();
            default:
                return;
        }
    }

    void on_answer(char character) {
        auto worker = std::exchange(to_restart_, std::nullopt);
        if (character == 'y' || character == 'Y') return act(kRestart, worker);
        say("", false);
    }

    std::optional<uint64_t> selected_worker() {
        auto selected = model_.selected();
        if (!selected) return std::nullopt;
        model_.select(*selected);  // also when rows are sorted anew it is this one
        return model_.rows()[*selected].id;
    }

    void act(const Action& action, std::optional<uint64_t> worker) {
        if (!worker || !connection_) return;
        auto id = ++last_id_;
        actions_[id] = {&action, *worker};
        say(fmt::format("{} worker {}...", action.doing, *worker), false);
        ask(action.verb, {{"worker", *worker}}, id);
        ask_status();
    }

    // The one of that index; without one the next.
    void show_cluster(std::optional<size_t> index) {
        auto running = running_clusters(paths_);
        if (running.empty()) return;
        clusters_ = running;
        auto own = static_cast<size_t>(std::ranges::find(running, cluster_) - running.begin());
        size_t wanted = index.value_or(own + 1 < running.size() ? own + 1 : 0);
        if (wanted >= running.size())
            return say(fmt::format("no cluster {}: {} run here", wanted + 1, running.size()), true);
        if (wanted == own) return;
        auto connection = Connection::open(paths_.control_socket(running[wanted]));
        if (!connection) return say(one_line(connection.error().text), true);
        model_.clear();
        say("", false);
        watch(running[wanted], std::move(*connection));
    }

    // --- The screen ------------------------------------------------------------------------------

    void say(const std::string& text, bool is_error) {
        message_ = text;
        is_error_ = is_error;
        message_ticks_ = kMessageTicks;
    }

    [[nodiscard]] TopFrame frame() const {
        return {terminal_.width(), terminal_.height(), terminal_.is_utf8(),
                message_,          is_error_,          clusters_};
    }

    void draw() {
        terminal_.draw(shows_help_ ? render_top_help(frame()) : render_top(model_, frame()));
    }

    EventLoop& loop_;
    TopTerminal& terminal_;
    const Paths& paths_;
    std::vector<std::string> clusters_;
    TopModel model_;

    std::string cluster_;
    std::optional<Connection> connection_;
    Fd master_;  // pidfd
    int64_t last_id_ = 0;
    int64_t status_id_ = 0;  // of the status that was asked for; 0: none is on its way
    int silent_ticks_ = 0;
    int closed_ticks_ = 0;
    std::map<int64_t, std::pair<const Action*, uint64_t>> actions_;  // without a reply yet

    std::optional<uint64_t> to_restart_;  // the question is on the screen
    bool shows_help_ = false;
    std::string message_;
    bool is_error_ = false;
    int message_ticks_ = 0;
    std::string farewell_;

    std::vector<EventLoop::Source> signals_;
    EventLoop::Source keys_, replies_, master_exit_, tick_;
};

int complain(const Error& error) {
    std::fputs(fmt::format("drover: {}\n", error.text).c_str(), stderr);
    return error.code == "usage" ? kUsage : kFailed;
}

}  // namespace

int run_top(const std::string& named, const Paths& paths) {
    if (::isatty(STDIN_FILENO) == 0 || ::isatty(STDOUT_FILENO) == 0)
        return complain({"usage", "drover top needs a terminal: use drover status --json", 0});
    auto clusters = find_clusters(paths);
    bool is_any = named.empty() && clusters.running.size() > 1;
    auto cluster = choose_cluster(is_any ? clusters.running.front() : named, clusters);
    if (!cluster) return complain(cluster.error());
    auto connection = Connection::open(paths.control_socket(*cluster));
    if (!connection) return complain(connection.error());

    auto loop = EventLoop::open();
    if (!loop) return complain(loop.error());
    auto terminal = TopTerminal::open();
    if (!terminal) return complain(terminal.error());
    Top top(*loop, **terminal, paths, clusters.running);
    top.start(*cluster, std::move(*connection));
    int status = loop->run();
    terminal->reset();  // before a word on the terminal that was
    return top.farewell().empty() ? status : complain({"closed", top.farewell(), 0});
}

}  // namespace drover::cli
