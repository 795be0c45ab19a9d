// SPDX-License-Identifier: MIT
#include "base/event_loop.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <thread>

#include "base/log.h"

namespace drover {

struct EventLoop::Source::Registration {
    sd_event* event = nullptr;
    sd_event_source* source = nullptr;
    sd_event_source* next_try = nullptr;
    std::function<int(Registration&)> add;
    std::function<void(uint32_t)> on_value;
    std::function<void()> on_fire;

    ~Registration() {
        sd_event_source_disable_unref(source);
        sd_event_source_disable_unref(next_try);
    }
};

namespace {

constexpr uint64_t kAccuracy = 1000;            // of timers, in microseconds
constexpr uint64_t kBetweenTries = 100 * 1000;  // the same

// The callback may destroy its own Source: sd-event keeps the source alive while it dispatches, and
// the callable is copied out first, because its closure would die under it.
template <class Callable, class... Args>
int call(Callable callable, Args... args) {
    if (callable) callable(args...);
    return 0;
}

// Refused for want of memory or of room for one more.
bool may_be_had_later(int result) {
    return result == -ENOMEM || result == -ENOSPC || result == -EMFILE || result == -ENFILE;
}

// What is refused now is asked for again until it is had: who waits for an event must not wait for
// ever. Timers are not refused (see open()).
template <class Registration>
void try_later(Registration& registration) {
    auto again = [](sd_event_source*, uint64_t, void* data) {
        auto& late = *static_cast<Registration*>(data);
        late.next_try = sd_event_source_disable_unref(late.next_try);
        if (may_be_had_later(late.add(late))) try_later(late);
        return 0;
    };
    sd_event_add_time_relative(registration.event, &registration.next_try, CLOCK_MONOTONIC,
                               kBetweenTries, kAccuracy, again, &registration);
}

}  // namespace

Result<EventLoop> EventLoop::open() {
    sd_event* event = nullptr;
    int result = sd_event_new(&event);
    if (result < 0) return fail_errno(-result, "create the event loop");
    EventLoop loop;
    loop.event_.reset(event);
    // The first timer makes what all further ones share.
    sd_event_source* first = nullptr;
    result = sd_event_add_time_relative(event, &first, CLOCK_MONOTONIC, 0, 0, nullptr, nullptr);
    sd_event_source_disable_unref(first);
    if (result < 0) return fail_errno(-result, "create the event loop's timer");
    return loop;
}

EventLoop::Source EventLoop::on_io(int fd, uint32_t epoll_events,
                                   std::function<void(uint32_t)> handler) {
    auto registration = std::make_shared<Source::Registration>();
    registration->on_value = std::move(handler);
    registration->add = [fd, epoll_events](Source::Registration& self) {
        auto dispatch = [](sd_event_source*, int, uint32_t ready, void* data) {
            return call(static_cast<Source::Registration*>(data)->on_value, ready);
        };
        return sd_event_add_io(self.event, &self.source, fd, epoll_events, dispatch, &self);
    };
    return add(std::move(registration));
}

EventLoop::Source EventLoop::after(std::chrono::microseconds delay, std::function<void()> handler) {
    auto registration = std::make_shared<Source::Registration>();
    registration->on_fire = std::move(handler);
    // From now on: what sd-event itself calls "now" is when it woke up, and a handler may have
    // taken its time since.
    auto due = std::chrono::ceil<std::chrono::microseconds>(
        std::chrono::steady_clock::now().time_since_epoch() +
        std::max(delay, std::chrono::microseconds(0)));
    registration->add = [due](Source::Registration& self) {
        auto dispatch = [](sd_event_source*, uint64_t, void* data) {
            return call(static_cast<Source::Registration*>(data)->on_fire);
        };
        return sd_event_add_time(self.event, &self.source, CLOCK_MONOTONIC,
                                 static_cast<uint64_t>(due.count()), kAccuracy, dispatch, &self);
    };
    return add(std::move(registration));
}

EventLoop::Source EventLoop::on_signal(int signal, std::function<void(int)> handler) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    auto registration = std::make_shared<Source::Registration>();
    registration->on_value = [handler = std::move(handler)](uint32_t pid) {
        handler(static_cast<int>(pid));
    };
    registration->add = [signal](Source::Registration& self) {
        auto dispatch = [](sd_event_source*, const signalfd_siginfo* info, void* data) {
            return call(static_cast<Source::Registration*>(data)->on_value, info->ssi_pid);
        };
        return sd_event_add_signal(self.event, &self.source, signal, dispatch, &self);
    };
    return add(std::move(registration));
}

EventLoop::Source EventLoop::soon(std::function<void()> handler) {
    auto registration = std::make_shared<Source::Registration>();
    registration->on_fire = std::move(handler);
    registration->add = [](Source::Registration& self) {
        auto dispatch = [](sd_event_source*, void* data) {
            return call(static_cast<Source::Registration*>(data)->on_fire);
        };
        return sd_event_add_defer(self.event, &self.source, dispatch, &self);
    };
    return add(std::move(registration));
}

EventLoop::Source EventLoop::add(std::shared_ptr<Source::Registration> registration) {
    registration->event = event_.get();
    int result = registration->add(*registration);
    if (result < 0 && !may_be_had_later(result)) return {};
    if (result < 0) {
        log::warn(fmt::format("wait for an event: {}: trying again", std::strerror(-result)));
        try_later(*registration);
    }
    Source source;
    source.registration_ = std::move(registration);
    return source;
}

void EventLoop::feed_watchdog() {
    sd_event_set_watchdog(event_.get(), 1);
}

// What fails in the loop itself (a timer that cannot be set, a signal that cannot be read) is no
// reason to leave: what was ready is so still.
int EventLoop::run() {
    constexpr std::chrono::milliseconds kPause{100};
    for (bool told = false;; told = true) {
        int status = sd_event_loop(event_.get());
        if (status >= 0) return status;
        if (sd_event_get_state(event_.get()) == SD_EVENT_FINISHED) return 1;
        if (!told) log::error(fmt::format("the event loop: {}: going on", std::strerror(-status)));
        std::this_thread::sleep_for(kPause);
    }
}

void EventLoop::exit(int status) {
    sd_event_exit(event_.get(), status);
}

void EventLoop::run_once(std::chrono::microseconds timeout) {
    sd_event_run(event_.get(), static_cast<uint64_t>(timeout.count()));
}

}  // namespace drover
