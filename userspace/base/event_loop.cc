// SPDX-License-Identifier: MIT
#include "base/event_loop.h"

#include <algorithm>
#include <csignal>

namespace drover {

struct EventLoop::Source::Registration {
    sd_event_source* source = nullptr;
    std::function<void(uint32_t)> on_value;
    std::function<void()> on_fire;

    ~Registration() { sd_event_source_disable_unref(source); }
};

namespace {

// The callback may destroy its own Source: sd-event keeps the source alive while it dispatches, and
// the callable is copied out first, because its closure would die under it.
template <class Callable, class... Args>
int call(Callable callable, Args... args) {
    if (callable) callable(args...);
    return 0;
}

}  // namespace

Result<EventLoop> EventLoop::open() {
    sd_event* event = nullptr;
    int result = sd_event_new(&event);
    if (result < 0) return fail_errno(-result, "create the event loop");
    EventLoop loop;
    loop.event_.reset(event);
    return loop;
}

EventLoop::Source EventLoop::on_io(int fd, uint32_t epoll_events,
                                   std::function<void(uint32_t)> handler) {
    Source source;
    auto registration = std::make_shared<Source::Registration>();
    registration->on_value = std::move(handler);
    auto dispatch = [](sd_event_source*, int, uint32_t ready, void* data) {
        return call(static_cast<Source::Registration*>(data)->on_value, ready);
    };
    if (sd_event_add_io(event_.get(), &registration->source, fd, epoll_events, dispatch,
                        registration.get()) >= 0)
        source.registration_ = std::move(registration);
    return source;
}

EventLoop::Source EventLoop::after(std::chrono::microseconds delay, std::function<void()> handler) {
    Source source;
    auto registration = std::make_shared<Source::Registration>();
    registration->on_fire = std::move(handler);
    auto dispatch = [](sd_event_source*, uint64_t, void* data) {
        return call(static_cast<Source::Registration*>(data)->on_fire);
    };
    // From now on: what sd-event itself calls "now" is when it woke up, and a handler may have
    // taken its time since.
    auto due = std::chrono::ceil<std::chrono::microseconds>(
        std::chrono::steady_clock::now().time_since_epoch() +
        std::max(delay, std::chrono::microseconds(0)));
    constexpr uint64_t kAccuracy = 1000;
    if (sd_event_add_time(event_.get(), &registration->source, CLOCK_MONOTONIC,
                          static_cast<uint64_t>(due.count()), kAccuracy, dispatch,
                          registration.get()) >= 0)
        source.registration_ = std::move(registration);
    return source;
}

EventLoop::Source EventLoop::on_signal(int signal, std::function<void(int)> handler) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    Source source;
    auto registration = std::make_shared<Source::Registration>();
    registration->on_value = [handler = std::move(handler)](uint32_t pid) {
        handler(static_cast<int>(pid));
    };
    auto dispatch = [](sd_event_source*, const signalfd_siginfo* info, void* data) {
        return call(static_cast<Source::Registration*>(data)->on_value, info->ssi_pid);
    };
    if (sd_event_add_signal(event_.get(), &registration->source, signal, dispatch,
                            registration.get()) >= 0)
        source.registration_ = std::move(registration);
    return source;
}

EventLoop::Source EventLoop::soon(std::function<void()> handler) {
    Source source;
    auto registration = std::make_shared<Source::Registration>();
    registration->on_fire = std::move(handler);
    auto dispatch = [](sd_event_source*, void* data) {
        return call(static_cast<Source::Registration*>(data)->on_fire);
    };
    if (sd_event_add_defer(event_.get(), &registration->source, dispatch, registration.get()) >= 0)
        source.registration_ = std::move(registration);
    return source;
}

void EventLoop::feed_watchdog() {
    sd_event_set_watchdog(event_.get(), 1);
}

int EventLoop::run() {
    int status = sd_event_loop(event_.get());
    return status < 0 ? 1 : status;
}

void EventLoop::exit(int status) {
    sd_event_exit(event_.get(), status);
}

void EventLoop::run_once(std::chrono::microseconds timeout) {
    sd_event_run(event_.get(), static_cast<uint64_t>(timeout.count()));
}

}  // namespace drover
