/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * Whether a worker has nothing to do at this moment, by the kernel's own knowledge: a thread of it
 * sleeps in epoll_wait(), poll() or accept() until a connection comes to its listener. Who has
 * something to do sleeps there no more: it left the queue of waiters in the moment in which it was
 * woken.
 *
 * And since when it is busy: since it was first seen so, unless the thread that waited before has
 * slept meanwhile, unseen. The kernel counts how often it did.
 *
 * What cannot be seen is no claim: more waiters than are looked at, an epoll instance that is waited
 * for by way of another one, a locked kernel. One that waits by io_uring seems to wait always.
 */
#ifndef DROVER_AWAITED_BPF_H
#define DROVER_AWAITED_BPF_H

#include "listener.bpf.h"

enum listener_look {
    LISTENER_UNSEEN = 0,
    LISTENER_AWAITED = 1, /* somebody waits for its next connection */
    LISTENER_BUSY = 2,    /* nobody does */
};

/* Returns what was seen. `sleeps`: of the thread that was seen to wait last. */
static __always_inline int note_look(struct drover_look *look, int seen, __u64 sleeps, __u64 now)
{
    if (seen == LISTENER_AWAITED && look->busy_since)
        look->busy_since = 0;
    if (seen != LISTENER_BUSY)
        return seen;
    if (!look->busy_since || look->sleeps != sleeps)
        look->busy_since = now;
    look->sleeps = sleeps;
    return seen;
}

#ifdef __bpf__

#define LISTENER_WAITERS 4 /* that are looked at */

static __always_inline struct list_head *first_of(struct list_head *head)
{
    struct list_head *first = 0;

    bpf_core_read(&first, sizeof(first), &head->next);
    return first;
}

/* Of the waiter with that place in a queue: the thread, or something else that is told; or 0 where an
 * epoll instance is. */
static __always_inline void *told_at(struct list_head *place)
{
    struct wait_queue_entry *waiter =
        (void *)place - bpf_core_field_offset(struct wait_queue_entry, entry);
    void *told = 0;

    bpf_core_read(&told, sizeof(told), &waiter->private);
    return told;
}

/* The epoll instance behind a waiter that is none itself. */
static __always_inline struct eventpoll *epoll_at(struct list_head *place)
{
    struct wait_queue_entry *waiter =
        (void *)place - bpf_core_field_offset(struct wait_queue_entry, entry);
    struct eppoll_entry *polled = (void *)waiter - bpf_core_field_offset(struct eppoll_entry, wait);
    struct eventpoll *epoll = 0;
    struct epitem *item = 0;

    bpf_core_read(&item, sizeof(item), &polled->base);
    bpf_core_read(&epoll, sizeof(epoll), &item->ep);
    return epoll;
}

static __always_inline int look_at_waiters(struct list_head *head, struct drover_look *look)
{
    struct list_head *place = first_of(head), *sleeper;
    struct eventpoll *epoll;

    for (int i = 0; i < LISTENER_WAITERS; i++) {
        if (!place)
            return LISTENER_UNSEEN;
        if (place == head)
            return LISTENER_BUSY;
        if (told_at(place))
            return LISTENER_AWAITED;
        epoll = epoll_at(place);
        sleeper = first_of(&epoll->wq.head);
        if (sleeper != &epoll->wq.head) {
            look->thread = (__u64)told_at(sleeper);
            return LISTENER_AWAITED;
        }
        if (first_of(&epoll->poll_wait.head) != &epoll->poll_wait.head)
            return LISTENER_UNSEEN;
        place = first_of(place);
    }
    return LISTENER_UNSEEN;
}

/* Looks at a slot's listener. Returns an enum listener_look. A function that the verifier checks once
 * by itself, as pick(). */
__noinline int look_at_listener(__u64 listener, struct drover_look *look, __u64 now)
{
    struct sock *sk = (struct sock *)listener;
    struct task_struct *thread;
    struct socket_wq *wq = 0;
    unsigned long sleeps = 0;
    int seen;

    if (!look || !config.reads_kernel || !listener || (listener & DROVER_LISTENER_CLOSED))
        return LISTENER_UNSEEN;
    bpf_core_read(&wq, sizeof(wq), &sk->sk_wq);
    seen = look_at_waiters(&wq->wait.head, look);
    thread = (struct task_struct *)look->thread;
    if (seen == LISTENER_BUSY && thread)
        bpf_core_read(&sleeps, sizeof(sleeps), &thread->nvcsw);
    return note_look(look, seen, sleeps, now);
}

#else

static inline int look_at_listener(__u64 listener, struct drover_look *look, __u64 now)
{
    const struct policy_listener *shown = (const struct policy_listener *)listener;

    return shown ? note_look(look, shown->look, shown->sleeps, now) : LISTENER_UNSEEN;
}

#endif

#endif
