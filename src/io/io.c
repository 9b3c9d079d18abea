/* io.c - see io.h. epoll_wait(2) on the sources and on one timerfd, set to the earliest timer.
 *
 * `life` is held by who starts or ends the thread. `lock` guards all else and is held for moments;
 * functions of owners run without it, while `current` names the timer or source that they are for.
 * Setting a timer needs no word to the thread: whoever sets one that is earlier than all others
 * sets the timerfd. A descriptor that epoll does not take, as of a regular file or when the user's
 * watches are used up, is looked at by poll(2) every POLL_NS. */
#include "io/io.h"

#include "jail/jail.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define STACK (256u << 10)
#define SLICE_NS 100000
#define POLL_NS 10000000 /* between two looks at what epoll does not take */

static void poll_sources(void *unused);

static struct {
    pthread_mutex_t life, lock;
    pthread_cond_t over; /* of `current` */
    unsigned users;
    bool runs, ending, forks_known;
    pthread_t thread;
    int epoll, clock;           /* descriptors */
    uint64_t clock_at;          /* what the timerfd is set to */
    struct mk_io_timer *timers; /* earliest first */
    struct mk_io_source *sources;
    const void *current;
    struct mk_io_timer poller;
} io = { .life = PTHREAD_MUTEX_INITIALIZER,
         .lock = PTHREAD_MUTEX_INITIALIZER,
         .over = PTHREAD_COND_INITIALIZER,
         .epoll = -1,
         .clock = -1,
         .poller = { .fire = poll_sources } };

/* --- timers; callers hold the lock --- */

static void set_clock(uint64_t at)
{
    struct itimerspec once = { 0 };
    if (at == io.clock_at)
        return;
    io.clock_at = at;
    if (at != UINT64_MAX) {
        once.it_value.tv_sec = (time_t)(at / 1000000000u);
        once.it_value.tv_nsec = (long)(at % 1000000000u) + (at == 0); /* all 0 would stop it */
    }
    timerfd_settime(io.clock, TFD_TIMER_ABSTIME, &once, NULL);
}

static uint64_t earliest(void)
{
    return io.timers ? io.timers->at : UINT64_MAX;
}

static void unlist_timer(struct mk_io_timer *timer)
{
    struct mk_io_timer **at = &io.timers;
    while (timer->listed && *at != timer)
        at = &(*at)->next;
    if (timer->listed)
        *at = timer->next;
    timer->listed = false;
}

static void list_timer(struct mk_io_timer *timer)
{
    struct mk_io_timer **at = &io.timers;
    while (*at && (*at)->at <= timer->at)
        at = &(*at)->next;
    timer->next = *at;
    *at = timer;
    timer->listed = true;
}

static void set_timer(struct mk_io_timer *timer, uint64_t at)
{
    if (timer->ends || (timer->listed ? timer->at == at : at == UINT64_MAX))
        return;
    bool first = io.timers == timer;
    unlist_timer(timer);
    timer->at = at;
    if (at != UINT64_MAX)
        list_timer(timer);
    if (first || io.timers == timer)
        set_clock(earliest());
}

void mk_io_arm(struct mk_io_timer *timer, uint64_t at)
{
    pthread_mutex_lock(&io.lock);
    set_timer(timer, at);
    pthread_mutex_unlock(&io.lock);
}

/* --- owners' functions --- */

static void wait_callback(const void *what)
{
    while (io.current == what && !pthread_equal(io.thread, pthread_self()))
        pthread_cond_wait(&io.over, &io.lock);
}

/* The timerfd keeps its time: to wake once for nothing is cheaper than to set it again. */
void mk_io_disarm(struct mk_io_timer *timer)
{
    pthread_mutex_lock(&io.lock);
    unlist_timer(timer);
    timer->ends = true; /* its function cannot set it again */
    wait_callback(timer);
    timer->ends = false;
    pthread_mutex_unlock(&io.lock);
}

/* Calls out; the lock is held before and after. */
static void call(const void *what, void (*fn)(void *ctx), void *ctx)
{
    io.current = what;
    pthread_mutex_unlock(&io.lock);
    fn(ctx);
    pthread_mutex_lock(&io.lock);
    io.current = NULL;
    pthread_cond_broadcast(&io.over);
}

static void fire_timers(void)
{
    uint64_t now = mk_now();
    while (io.timers && io.timers->at <= now) {
        struct mk_io_timer *timer = io.timers;
        unlist_timer(timer);
        call(timer, timer->fire, timer->ctx);
    }
    set_clock(earliest());
}

/* --- sources --- */

enum { POLLED = 1, READY }; /* of source->polled */

/* EPOLLONESHOT: after an event nothing of it is ready until it is watched again, errors and hangups
 * neither. */
void mk_io_watch(struct mk_io_source *source)
{
    struct epoll_event event = { .events = source->events | EPOLLONESHOT, .data.ptr = source };
    pthread_mutex_lock(&io.lock);
    if (!source->listed) {
        source->listed = true;
        source->next = io.sources;
        io.sources = source;
    }
    int rc = epoll_ctl(io.epoll, EPOLL_CTL_MOD, source->fd, &event);
    if (rc < 0 && errno == ENOENT)
        rc = epoll_ctl(io.epoll, EPOLL_CTL_ADD, source->fd, &event);
    source->polled = rc < 0 ? POLLED : 0;
    if (rc < 0 && io.epoll >= 0)
        set_timer(&io.poller, mk_now() + POLL_NS);
    pthread_mutex_unlock(&io.lock);
}

void mk_io_unwatch(struct mk_io_source *source)
{
    struct mk_io_source **at;
    pthread_mutex_lock(&io.lock);
    wait_callback(source); /* its function may watch it again */
    for (at = &io.sources; source->listed && *at != source;)
        at = &(*at)->next;
    if (source->listed) {
        *at = source->next;
        epoll_ctl(io.epoll, EPOLL_CTL_DEL, source->fd, NULL);
    }
    source->listed = false;
    pthread_mutex_unlock(&io.lock);
}

/* Its owner may have taken it away since the kernel told of it. */
static void source_ready(const void *ready)
{
    struct mk_io_source *source = io.sources;
    while (source && source != ready)
        source = source->next;
    if (source)
        call(source, source->ready, source->ctx);
}

static bool is_ready(const struct mk_io_source *source)
{
    struct pollfd fd = { .fd = source->fd, .events = (short)source->events }; /* the same bits */
    return poll(&fd, 1, 0) != 0;
}

/* Each once: its function may have it polled again. */
static void poll_sources(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&io.lock);
    for (struct mk_io_source *s = io.sources; s; s = s->next)
        s->polled = s->polled && is_ready(s) ? READY : s->polled;
    for (struct mk_io_source *s = io.sources; s;) {
        if (s->polled == POLLED)
            set_timer(&io.poller, mk_now() + POLL_NS);
        if (s->polled != READY) {
            s = s->next;
            continue;
        }
        s->polled = 0;
        call(s, s->ready, s->ctx);
        s = io.sources; /* may be others now */
    }
    pthread_mutex_unlock(&io.lock);
}

/* --- the thread --- */

/* It runs for moments and others wait for it: with a short slice it comes before threads that
 * compute (sched_setattr(2); Linux 6.12 and later, without effect elsewhere). */
static void run_soon(void)
{
    struct { /* sched_attr */
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attr = { .size = sizeof(attr), .policy = SCHED_OTHER, .runtime = SLICE_NS };
    syscall(SYS_sched_setattr, 0, &attr, 0);
}

static void *io_thread(void *unused)
{
    (void)unused;
    struct epoll_event event;
    struct mk_err err;
    if (mk_jail_begin_thread(MK_ROLE_IO, &err) < 0)
        abort(); /* nobody waits here for an error, and nothing runs without this thread */
    run_soon();
    pthread_mutex_lock(&io.lock);
    while (!io.ending) {
        pthread_mutex_unlock(&io.lock);
        int count = epoll_wait(io.epoll, &event, 1, -1);
        pthread_mutex_lock(&io.lock);
        if (count > 0 && event.data.ptr == &io.clock)
            io.clock_at = UINT64_MAX; /* it has gone off, and is not set any more */
        else if (count > 0)
            source_ready(event.data.ptr);
        fire_timers();
    }
    pthread_mutex_unlock(&io.lock);
    return NULL;
}

static void close_descriptors(void)
{
    if (io.epoll >= 0)
        close(io.epoll);
    if (io.clock >= 0)
        close(io.clock);
    io.epoll = io.clock = -1;
}

static void before_fork(void)
{
    pthread_mutex_lock(&io.life);
    pthread_mutex_lock(&io.lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&io.lock);
    pthread_mutex_unlock(&io.life);
}

static void in_child(void)
{
    pthread_mutex_init(&io.life, NULL);
    pthread_mutex_init(&io.lock, NULL);
    pthread_cond_init(&io.over, NULL);
    io.runs = false;
    io.current = NULL;
    close_descriptors();
}

/* The descriptors, and the thread with all signals blocked. */
static int start(void)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.ptr = &io.clock };
    pthread_attr_t attr;
    sigset_t all, before;
    io.epoll = epoll_create1(EPOLL_CLOEXEC);
    io.clock = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (io.epoll < 0 || io.clock < 0 || epoll_ctl(io.epoll, EPOLL_CTL_ADD, io.clock, &event) < 0)
        return errno;
    io.ending = false;
    io.clock_at = UINT64_MAX;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&io.thread, &attr, io_thread, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return code;
}

int mk_io_ref(struct mk_err *err)
{
    int code = 0;
    pthread_mutex_lock(&io.life);
    if (!io.forks_known)
        code = pthread_atfork(before_fork, after_fork, in_child);
    io.forks_known = code == 0;
    if (code == 0 && !io.runs) {
        code = start();
        io.runs = code == 0;
        if (code)
            close_descriptors();
    }
    io.users += code == 0;
    pthread_mutex_unlock(&io.life);
    return code ? mk_fail_errno(err, code, "the I/O thread") : 0;
}

void mk_io_unref(void)
{
    pthread_mutex_lock(&io.life);
    if (--io.users == 0 && io.runs) {
        pthread_mutex_lock(&io.lock);
        io.ending = true;
        set_clock(0);
        pthread_mutex_unlock(&io.lock);
        pthread_join(io.thread, NULL);
        io.runs = false;
        close_descriptors();
    }
    pthread_mutex_unlock(&io.life);
}

void mk_io_keep(void)
{
    pthread_mutex_lock(&io.life);
    io.users++;
    if (io.runs)
        pthread_detach(io.thread);
    pthread_mutex_unlock(&io.life);
}
