/* clock.c - see clock.h. */
#include "clock.h"

void mk_clock_init(struct mk_clock *clock)
{
    *clock = (struct mk_clock){ 0 };
    pthread_mutex_init(&clock->lock, NULL);
}

void mk_clock_free(struct mk_clock *clock)
{
    pthread_mutex_destroy(&clock->lock);
}

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

uint64_t mk_clock_next(struct mk_clock *clock)
{
    pthread_mutex_lock(&clock->lock);
    uint64_t at = clock->first ? clock->first->at : UINT64_MAX;
    pthread_mutex_unlock(&clock->lock);
    return at;
}

static struct mk_timer *take_due(struct mk_clock *clock, uint64_t now)
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

void mk_clock_run(struct mk_clock *clock, uint64_t now)
{
    struct mk_timer *timer;
    while ((timer = take_due(clock, now)))
        timer->fire(timer->ctx, now);
}
