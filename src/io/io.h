/* io.h - the I/O thread: one a process, there while somebody holds it: every VM, every Lua state
 * with one.
 *
 * It does what must not wait for a guest or for a script: console input and output, deadlines,
 * alarms, doorbells. Timers and sources belong to their owners, who may be on any thread; their
 * functions are called on the I/O thread, one at a time, without a lock, and must not block. It has
 * all signals blocked, and never enters a script's Lua. In a child of fork() it is gone: what was
 * set there before does nothing any more, and the next hold starts a new one. */
#ifndef MK_IO_H
#define MK_IO_H

#include "base/err.h"
#include "base/util.h"

struct mk_io_timer {
    void (*fire)(void *ctx);
    void *ctx;
    uint64_t at;
    bool listed; /* it is set */
    bool ends;   /* it is being cleared */
    struct mk_io_timer *next;
};

struct mk_io_source {
    void (*ready)(void *ctx);
    void *ctx;
    int fd;
    uint32_t events; /* EPOLLIN, EPOLLOUT */
    bool listed;
    uint8_t polled; /* it is looked at now and then: epoll(7) does not take it */
    struct mk_io_source *next;
};

int mk_io_ref(struct mk_err *err);
void mk_io_unref(void);
/* The process ends soon, and the thread with it: nobody waits for that. */
void mk_io_keep(void);

/* Calls timer->fire once, at the mk_now() time `at`; UINT64_MAX: not any more. */
void mk_io_arm(struct mk_io_timer *timer, uint64_t at);
/* It is not set, and its function does not run any more. Not under a lock that that takes. */
void mk_io_disarm(struct mk_io_timer *timer);

/* Calls source->ready once, when the descriptor is; whoever handles it watches again. */
void mk_io_watch(struct mk_io_source *source);
/* As mk_io_disarm(). The descriptor may be closed after it. */
void mk_io_unwatch(struct mk_io_source *source);

#endif
