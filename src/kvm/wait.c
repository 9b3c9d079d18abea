/* wait.c - see wait.h. */
#include "kvm/wait.h"

#include "kvm/kick.h"

#include <poll.h>
#include <signal.h>

/* A program may handle Ctrl-C on another thread than the one that waits: then nothing wakes this
 * one, and it looks by itself so often. */
#define POLL_NS UINT64_C(1000000000)

static void lock(const struct mk_wait *wait)
{
    if (wait->lock)
        pthread_mutex_lock(wait->lock);
}

static void unlock(const struct mk_wait *wait)
{
    if (wait->lock)
        pthread_mutex_unlock(wait->lock);
}

static void enter(const struct mk_wait *wait, struct mk_waiter *self)
{
    self->thread = pthread_self();
    if (!wait->waiters)
        return;
    self->next = *wait->waiters;
    *wait->waiters = self;
}

static void leave(const struct mk_wait *wait, const struct mk_waiter *self)
{
    struct mk_waiter **at = wait->waiters;
    while (at && *at != self)
        at = &(*at)->next;
    if (at)
        *at = self->next;
}

/* With the signals of `mask` blocked only. A signal ends it, whatever its handler's flags say. */
static void sleep_until(const struct mk_wait *wait, uint64_t now, uint64_t until,
                        const sigset_t *mask)
{
    uint64_t ns = until - now;
    if (wait->interrupted && ns > POLL_NS)
        ns = POLL_NS;
    struct timespec ts = { (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };
    ppoll(NULL, 0, until == UINT64_MAX && !wait->interrupted ? NULL : &ts, mask);
}

static bool is_done(const struct mk_wait *wait)
{
    return wait->done && wait->done(wait->ctx);
}

/* The lock is held before and after. */
static bool wait_locked(const struct mk_wait *wait, uint64_t until, const sigset_t *mask)
{
    struct mk_waiter self;
    uint64_t now;
    bool done;
    enter(wait, &self);
    while (!(done = is_done(wait)) && (now = mk_now()) < until &&
           !(wait->interrupted && wait->interrupted(wait->interrupted_ctx))) {
        unlock(wait);
        sleep_until(wait, now, until, mask);
        lock(wait);
    }
    leave(wait, &self);
    return done;
}

bool mk_wait(const struct mk_wait *wait, uint64_t until)
{
    sigset_t all, before, inside;
    sigfillset(&all);
    lock(wait);
    bool done = is_done(wait);
    if (!done && until) {
        pthread_sigmask(SIG_BLOCK, &all, &before);
        inside = before;
        sigdelset(&inside, mk_kick_signal());
        done = wait_locked(wait, until, &inside);
        unlock(wait);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    } else {
        unlock(wait);
    }
    return done;
}

void mk_wake(const struct mk_waiter *waiters)
{
    for (; waiters; waiters = waiters->next)
        pthread_kill(waiters->thread, mk_kick_signal());
}
