/* clock.c - see clock.h. */
#include "io/clock.h"

void mk_clock_init(struct mk_clock *clock)
{
    *clock = (struct mk_clock){ 0 };
    pthread_mutex_init(&clock->lock, NULL);
}

void mk_clock_free(struct mk_clock *clock)
{
    pthread_mutex_destroy(&clock->lock);
}

/* --- the VM's time --- */

uint64_t mk_clock_now(const struct mk_clock *clock)
{
    int64_t time = atomic_load_explicit(&clock->time, memory_order_acquire);
    return (uint64_t)(time & 1 ? (int64_t)mk_now() - (time >> 1) : time >> 1);
}

void mk_clock_start(struct mk_clock *clock)
{
    pthread_mutex_lock(&clock->lock);
    if (clock->running++ == 0)
        clock->time = (int64_t)(mk_now() - mk_clock_now(clock)) * 2 + 1;
    pthread_mutex_unlock(&clock->lock);
}

void mk_clock_stop(struct mk_clock *clock)
{
    pthread_mutex_lock(&clock->lock);
    if (--clock->running == 0)
        clock->time = (int64_t)mk_clock_now(clock) * 2;
    pthread_mutex_unlock(&clock->lock);
}

void mk_clock_set(struct mk_clock *clock, uint64_t now)
{
    clock->time = (int64_t)now * 2;
}

/* --- timers --- */

/* Caller holds the lock. */
static bool unlink_timer(struct mk_clock *clock, struct mk_timer *timer)
{
    bool armed = timer->at != 0;
    for (struct mk_timer **at = &clock->first; *at; at = &(*at)->next)
        if (*at == timer) {
            *at = timer->next;
            break;
        }
    timer->at = 0;
    return armed;
}

void mk_clock_arm(struct mk_clock *clock, struct mk_timer *timer, uint64_t when)
{
    pthread_mutex_lock(&clock->lock);
    unlink_timer(clock, timer);
    timer->at = when ? when : 1;
    struct mk_timer **at = &clock->first;
    while (*at && (*at)->at <= timer->at)
        at = &(*at)->next;
    timer->next = *at;
    *at = timer;
    bool earlier = clock->first == timer;
    pthread_mutex_unlock(&clock->lock);
    if (earlier && clock->on_earlier)
        clock->on_earlier(clock->ctx);
}

bool mk_clock_disarm(struct mk_clock *clock, struct mk_timer *timer)
{
    pthread_mutex_lock(&clock->lock);
    bool armed = unlink_timer(clock, timer);
    pthread_mutex_unlock(&clock->lock);
    return armed;
}

uint64_t mk_clock_at(struct mk_clock *clock, const struct mk_timer *timer)
{
    pthread_mutex_lock(&clock->lock);
    uint64_t at = timer->at;
    pthread_mutex_unlock(&clock->lock);
    return at;
}

uint64_t mk_clock_next(struct mk_clock *clock)
{
    pthread_mutex_lock(&clock->lock);
    int64_t time = clock->time;
    uint64_t at = clock->first && time & 1 ? clock->first->at + (uint64_t)(time >> 1) : UINT64_MAX;
    pthread_mutex_unlock(&clock->lock);
    return at;
}

static struct mk_timer *pop_due(struct mk_clock *clock, uint64_t now)
{
    pthread_mutex_lock(&clock->lock);
    struct mk_timer *timer = clock->first;
    if (timer && timer->at <= now) {
        timer->due = timer->at;
        unlink_timer(clock, timer);
    } else {
        timer = NULL;
    }
    pthread_mutex_unlock(&clock->lock);
    return timer;
}

void mk_clock_run(struct mk_clock *clock)
{
    uint64_t now = mk_clock_now(clock);
    struct mk_timer *timer;
    while ((timer = pop_due(clock, now)))
        timer->fire(timer->ctx, now);
}
