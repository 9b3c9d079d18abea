/* wait.h - how a thread waits for what another thread announces, for a time, or for a signal.
 *
 * Signals are blocked except while the thread sleeps, so that none that comes between the look at
 * what is waited for and the sleep is lost: neither the kick (vcpu.h) of who announces something,
 * nor Ctrl-C. All waiting in minikvm is this function; what it waits for is under a lock that it is
 * given. */
#ifndef MK_WAIT_H
#define MK_WAIT_H

#include "base/util.h"

#include <pthread.h>

struct mk_waiter {
    pthread_t thread;
    struct mk_waiter *next;
};

struct mk_wait {
    pthread_mutex_t *lock; /* held when done() is asked; NULL: none */
    struct mk_waiter *
        *waiters;            /* under it: whom mk_wake() wakes; NULL: somebody kicks the thread */
    bool (*done)(void *ctx); /* NULL: only the time or a signal ends it */
    void *ctx;
    bool (*interrupted)(void *ctx); /* asked after every signal; NULL: no signal ends it */
    void *interrupted_ctx;
};

/* Waits until it is done, interrupted, or mk_now() is `until` (0: only asks, UINT64_MAX: for ever).
 * True when it is done. */
bool mk_wait(const struct mk_wait *wait, uint64_t until);

/* Wakes all that wait, to ask again. The caller holds their lock. */
void mk_wake(const struct mk_waiter *waiters);

#endif
