/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * least-busy: the active slot whose worker has the least to do, by what can be seen at the moment
 * of the SYN and without the worker's help:
 *
 *     live connections, those in its queue included
 *   + handshakes under way (the listener's own count: it falls by itself; up to 128, so that in a SYN
 *     flood, where all have more, the rest decides as ever)
 *   + age:   how long ago it last finished a connection. Less than one connection, so it decides
 *            between equals: of two workers with one connection each, the one that has been at it
 *            for longer is the one that is likelier to be at it for long. It stops counting at 8 ms,
 *            and does not count with a worker that serves several connections at once: there it says
 *            little, and would have the latest one get everything while others have idle
 *            connections.
 *   + delay: a worker that finishes nothing for longer than usual is at something long, and whoever
 *            comes must wait: each time its usual pace counts as one connection. Only where somebody
 *            would have to wait: if its queue is not empty (up to 32), or if it serves one connection
 *            at a time (up to 8: that is a guess from how it was seen, and idle connections must not
 *            be shared badly for long where it is wrong).
 *
 * Where the kernel does not let programs look at listeners (lockdown), live connections and age
 * remain.
 */
#ifndef DROVER_POLICY_LEAST_BUSY_BPF_H
#define DROVER_POLICY_LEAST_BUSY_BPF_H

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
    struct drover_slot *counts = &view->slots[slot];
    __u64 listener = *(const volatile __u64 *)&view->listeners[slot];
    __u64 live = live_of(view, slot), young = listener_young(listener);
    __u64 since, age, score, queued;
    __u32 serial;

    if (young > BUSY_MOST_YOUNG)
        young = BUSY_MOST_YOUNG;
    score = (live + young + 1) * BUSY_CONNECTION;
    if (!live)
        return score;
    queued = listener_queued(listener);
    if (listener)
        note_serial(counts, live, queued);
    serial = *(const volatile __u8 *)&counts->serial;
    since = *(const volatile __u64 *)&counts->progress_at;
    since = view->now > since ? view->now - since : 0;
    age = since / BUSY_AGE_UNIT;
    if (serial != DROVER_NOT_SERIAL)
        score += age < BUSY_MOST_AGE ? age : BUSY_MOST_AGE;
    if (queued)
        return score + busy_delay(counts, since, BUSY_MOST_DELAY);
    if (serial == BUSY_SEEN_SERIAL)
        return score + busy_delay(counts, since, BUSY_MOST_GUESS);
    return score;
}

static __always_inline __u32 policy_least_busy(const struct policy_view *view)
{
    return least_of(view, LEAST_BUSY_EXACT, least_busy_score);
}

#endif
