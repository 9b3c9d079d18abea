/* clock.h - a VM's pending timers: C devices and scripts ask to be called at a time.
 *
 * Times are mk_now() nanoseconds. The vCPU loop runs what is due and arranges to be woken for what
 * is not. Any thread may arm and disarm; callbacks run on a vCPU thread with no lock held. */
#ifndef MK_CLOCK_H
#define MK_CLOCK_H

#include "util.h"

#include <pthread.h>

struct mk_timer {
    uint64_t at;  /* 0: not armed */
    uint64_t due; /* when it last fired, or fires now: what `at` was */
    void (*fire)(void *ctx, uint64_t now);
    void *ctx;
    struct mk_timer *next;
};

struct mk_clock {
    pthread_mutex_t lock;
    struct mk_timer *first;        /* earliest first */
    void (*on_earlier)(void *ctx); /* the earliest time moved forward: wake who sleeps for it */
    void *ctx;
};

void mk_clock_init(struct mk_clock *clock);
void mk_clock_free(struct mk_clock *clock);
/* (Re-)arms; `at` in the past fires at once. */
void mk_clock_arm(struct mk_clock *clock, struct mk_timer *timer, uint64_t at);
/* False when it was not armed: never, or it fires this moment. */
bool mk_clock_disarm(struct mk_clock *clock, struct mk_timer *timer);
/* When the next timer is due; UINT64_MAX when none is armed. */
uint64_t mk_clock_next(struct mk_clock *clock);
/* Fires what is due at `now`. */
void mk_clock_run(struct mk_clock *clock, uint64_t now);

#endif
