/* clock.h - a VM's pending timers: C devices and scripts ask to be called at a time.
 *
 * Times are nanoseconds of the VM's own time. It goes while a vCPU is in its run loop, and stands
 * still while the VM is stopped or paused: then a device stays where it is, and no timer comes due.
 * The vCPU loop runs what is due and arranges to be woken for what is not. Any thread may arm,
 * disarm and ask for the time; callbacks run on a vCPU thread with no lock held. */
#ifndef MK_CLOCK_H
#define MK_CLOCK_H

#include "base/util.h"

#include <pthread.h>
#include <stdatomic.h>

#define MK_CLOCK_MAX (UINT64_C(1) << 61) /* 73 years; twice that fits a time */

struct mk_timer {
    uint64_t at;  /* 0: not armed */
    uint64_t due; /* when it last fired, or fires now: what `at` was */
    void (*fire)(void *ctx, uint64_t now);
    void *ctx;
    struct mk_timer *next;
};

struct mk_clock {
    pthread_mutex_t lock;
    struct mk_timer *first; /* earliest first */
    unsigned running;       /* vCPUs in their run loop */
    /* Twice the time it stands at, or, plus 1, twice what mk_now() is ahead of it while it goes. */
    _Atomic int64_t time;
    void (*on_earlier)(void *ctx); /* the earliest time moved forward: wake who sleeps for it */
    void *ctx;
};

void mk_clock_init(struct mk_clock *clock);
void mk_clock_free(struct mk_clock *clock);
/* The VM's time. No lock. */
uint64_t mk_clock_now(const struct mk_clock *clock);
/* A vCPU enters its run loop, or leaves it: time goes while one is in there. */
void mk_clock_start(struct mk_clock *clock);
void mk_clock_stop(struct mk_clock *clock);
/* Sets the time, while it stands still. Timers keep theirs. */
void mk_clock_set(struct mk_clock *clock, uint64_t now);

/* (Re-)arms; `at` in the past fires at once. */
void mk_clock_arm(struct mk_clock *clock, struct mk_timer *timer, uint64_t at);
/* False when it was not armed: never, or it fires this moment. */
bool mk_clock_disarm(struct mk_clock *clock, struct mk_timer *timer);
/* When it is due; 0: it is not armed, or fires this moment. */
uint64_t mk_clock_at(struct mk_clock *clock, const struct mk_timer *timer);
/* The mk_now() time at which the next timer is due; UINT64_MAX when none is armed, or time stands.
 */
uint64_t mk_clock_next(struct mk_clock *clock);
/* Fires what is due. */
void mk_clock_run(struct mk_clock *clock);

#endif
