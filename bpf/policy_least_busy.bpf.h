/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * least-busy: the active slot whose worker has the least to do, by what can be seen at the moment
 * of the SYN and without the worker's help:
 *
 *     live connections, those in its queue included
 *   + handshakes under way (the listener's own count: it falls by itself; up to 128, so that in a SYN
 *     flood, where all have more, the rest decides as ever)
 *
 * and, where nobody waits for its next connection just now (awaited.bpf.h), so that who comes has to
 * wait for what it is at:
 *
 *   + age:   how long ago it last finished a connection. Less than one connection, so it decides
 *            between equals: of two workers with one connection each, the one that has been at it
 *            for longer is the one that is likelier to be at it for long. It stops counting at 8 ms.
 *   + delay: a worker that finishes nothing for longer than usual is at something long: each time its
 *            usual pace counts as one connection, up to 32 if its queue is not empty, else up to 8.
 *
 * A worker that serves several connections at once may be at something new although it has finished
 * none for long: its delay counts from when it was first seen busy and has not slept since.
 *
 * Where it cannot be seen whether somebody waits, age and delay count for who serves one connection at
 * a time, by how it was seen so far; with others they say little, and would have the latest one get
 * everything while others have idle connections. A delay counts with each that has a queue. Where the
 * kernel does not let programs look at listeners at all (lockdown), live connections and age remain.
 */
#ifndef DROVER_POLICY_LEAST_BUSY_BPF_H
#define DROVER_POLICY_LEAST_BUSY_BPF_H

#include "awaited.bpf.h"
#include "listener.bpf.h"
#include "policy_view.bpf.h"

#define LEAST_BUSY_EXACT 16

#define BUSY_CONNECTION 1024u    /* the score of one connection */
#define BUSY_MOST_YOUNG 128u     /* in a SYN flood all have thousands, and these are nobody's load;
                                    and a listener that is just closing may show anything */
#define BUSY_AGE_UNIT (8u << 10) /* ns: 8 µs; 1,000 of them count */
#define BUSY_MOST_AGE 1000u      /* below one connection */
#define BUSY_USUAL 2u            /* so many times its pace a worker may take */
#define BUSY_MOST_DELAY (32u * BUSY_CONNECTION)
#define BUSY_MOST_GUESS (8u * BUSY_CONNECTION)
#define BUSY_SEEN_SERIAL 16u     /* so often, until it is believed */
#define BUSY_MOST_DOUBTS 8u      /* so often in a row, until it never will be: a connection that is just
                                    being moved is counted a moment before it is in the queue */

/* How much a worker that has finished nothing since `since` ns is behind its pace, as a score. */
static __always_inline __u64 busy_delay(const struct drover_slot *counts, __u64 since, __u64 most)
{
    __u64 pace = *(const volatile __u32 *)&counts->pace;
    __u64 paces;

    since >>= 10; /* a pace is in units of 1,024 ns */
    if (!pace || since <= BUSY_USUAL * pace)
        return 0;
    paces = (since - BUSY_USUAL * pace) * BUSY_CONNECTION / pace;
    return paces < most ? paces : most;
}

/* What is seen of whether the worker serves one connection at a time. */
static __always_inline void note_serial(struct drover_slot *counts, __u64 live, __u64 queued)
{
    __u32 serial = *(const volatile __u8 *)&counts->serial;

    if (serial == DROVER_NOT_SERIAL)
        return;
    if (live > queued + 1) {
        if (++counts->doubts >= BUSY_MOST_DOUBTS)
            counts->serial = DROVER_NOT_SERIAL;
    } else if (queued) {
        counts->doubts = 0;
        if (serial < BUSY_SEEN_SERIAL)
            counts->serial = serial + 1;
    }
}

static __always_inline __u64 least_busy_score(const struct policy_view *view, __u32 slot)
{
    __u64 listener = *(const volatile __u64 *)&view->listeners[slot];
    __u64 young = listener_young(listener);

    if (young > BUSY_MOST_YOUNG)
        young = BUSY_MOST_YOUNG;
    return (live_of(view, slot) + young + 1) * BUSY_CONNECTION;
}

/* Age and delay. In BPF a function that the verifier checks once by itself, as pick(): it is asked for
 * each candidate. */
#ifdef __bpf__
__noinline
#else
static inline
#endif
__u64 busy_more(struct drover_slot *counts, struct drover_look *look, __u64 listener, __u64 now)
{
    __u64 since, busy_since, age, live, queued;
    __u32 is_serial, is_wide;
    int seen;

    if (!counts || !look)
        return 0;
    live = live_in(counts);
    queued = live ? listener_queued(listener) : 0;
    seen = look_at_listener(listener, look, now);
    if (live && listener)
        note_serial(counts, live, queued);
    if (seen == LISTENER_AWAITED || (!live && seen == LISTENER_UNSEEN))
        return 0;
    is_wide = *(const volatile __u8 *)&counts->serial == DROVER_NOT_SERIAL;
    is_serial = *(const volatile __u8 *)&counts->serial == BUSY_SEEN_SERIAL;
    since = *(const volatile __u64 *)&counts->progress_at;
    age = (now > since ? now - since : 0) / BUSY_AGE_UNIT;
    busy_since = look->busy_since;
    if (seen == LISTENER_BUSY && !queued && (is_wide || !live) && busy_since > since)
        since = busy_since;
    since = now > since ? now - since : 0;
    if (age > BUSY_MOST_AGE)
        age = BUSY_MOST_AGE;
    if (seen == LISTENER_BUSY)
        age++; /* more than nothing in any case */
    else if (is_wide)
        age = 0;
    if (queued)
        return age + busy_delay(counts, since, BUSY_MOST_DELAY);
    if (is_serial || seen == LISTENER_BUSY)
        return age + busy_delay(counts, since, BUSY_MOST_GUESS);
    return age;
}

static __always_inline __u64 least_busy_more(const struct policy_view *view, __u32 slot)
{
    return busy_more(&view->slots[slot], &view->looks[slot],
                     *(const volatile __u64 *)&view->listeners[slot], view->now);
}

static __always_inline __u32 policy_least_busy(const struct policy_view *view)
{
    return least_of(view, LEAST_BUSY_EXACT, BUSY_CONNECTION, least_busy_score, least_busy_more);
}

#endif
