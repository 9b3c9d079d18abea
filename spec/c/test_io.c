/* test_io.c - the I/O thread by itself: timers, sources, and a child of fork(2). */
#include "io/io.h"

#include "tap.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static atomic_int fired;
static char order[8];

static void fire(void *ctx)
{
    order[fired % 8] = *(const char *)ctx;
    fired++;
}

/* Until it was called so often; false after ten seconds. */
static bool called(int times)
{
    const struct timespec ms = { .tv_nsec = 1000000 };
    for (int i = 0; i < 10000 && fired < times; i++)
        nanosleep(&ms, NULL);
    return fired >= times;
}

static void test_timers(void)
{
    struct mk_io_timer a = { .fire = fire, .ctx = (char[]){ 'a' } },
                       b = { .fire = fire, .ctx = (char[]){ 'b' } },
                       never = { .fire = fire, .ctx = (char[]){ 'n' } };
    fired = 0;
    uint64_t now = mk_now();
    mk_io_arm(&never, now + 3600 * UINT64_C(1000000000));
    mk_io_arm(&b, now + 20000000);
    mk_io_arm(&a, now + 10000000);
    tap_ok(called(2) && order[0] == 'a' && order[1] == 'b', "io: timers fire in order of time");
    mk_io_arm(&a, now + 3600 * UINT64_C(1000000000));
    mk_io_arm(&a, 0);
    tap_ok(called(3), "io: a timer set to the past fires at once");
    mk_io_arm(&a, mk_now() + 5000000);
    mk_io_arm(&a, UINT64_MAX);
    mk_io_arm(&b, mk_now() + 10000000);
    tap_ok(called(4) && order[3] == 'b', "io: a timer set to never does not fire");
    mk_io_disarm(&a);
    mk_io_disarm(&b);
    mk_io_disarm(&never);
}

static void again(void *ctx)
{
    fired++;
    mk_io_arm(ctx, 0);
}

static void test_clear(void)
{
    struct mk_io_timer t = { .fire = again, .ctx = &t };
    fired = 0;
    mk_io_arm(&t, 0);
    called(1);
    mk_io_disarm(&t);
    int count = fired;
    struct mk_io_timer b = { .fire = fire, .ctx = (char[]){ 'b' } };
    mk_io_arm(&b, mk_now() + 5000000);
    tap_ok(called(count + 1) && fired == count + 1,
           "io: a timer that sets itself again ends when cleared");
    mk_io_disarm(&b);
}

static void test_sources(void)
{
    int pipe_fd[2];
    char byte;
    if (pipe(pipe_fd) < 0)
        return;
    struct mk_io_source s = {
        .ready = fire, .ctx = (char[]){ 's' }, .fd = pipe_fd[0], .events = EPOLLIN
    };
    struct mk_io_timer later = { .fire = fire, .ctx = (char[]){ 't' } };
    fired = 0;
    mk_io_watch(&s);
    tap_ok(write(pipe_fd[1], "xy", 2) == 2 && called(1), "io: a source is told of");
    mk_io_arm(&later, mk_now() + 10000000);
    tap_ok(called(2) && order[1] == 't', "io: but once, though there is more");
    tap_ok(read(pipe_fd[0], &byte, 1) == 1, "io: a byte is read");
    mk_io_watch(&s);
    tap_ok(called(3) && order[2] == 's', "io: watched again it is told of again");
    close(pipe_fd[1]);
    mk_io_arm(&later, mk_now() + 10000000);
    tap_ok(called(4) && order[3] == 't', "io: a hangup is not told of while nobody watches");
    mk_io_watch(&s);
    mk_io_unwatch(&s);
    close(pipe_fd[0]);
    mk_io_disarm(&later);
}

/* epoll does not take a regular file (epoll_ctl(2), EPERM). */
static void test_refused(void)
{
    FILE *file = tmpfile();
    struct mk_io_source s = {
        .ready = fire, .ctx = (char[]){ 'f' }, .fd = fileno(file), .events = EPOLLIN
    };
    fired = 0;
    mk_io_watch(&s);
    tap_ok(called(1), "io: a source that epoll refuses is told of");
    mk_io_watch(&s);
    tap_ok(called(2), "io: and again");
    mk_io_unwatch(&s);
    fclose(file);
}

/* The child: what was set before the fork does nothing, and a new hold starts a thread. */
static int in_child(struct mk_io_timer *old)
{
    struct mk_err err;
    struct mk_io_timer t = { .fire = fire, .ctx = (char[]){ 'c' } };
    mk_io_disarm(old);
    fired = 0;
    if (mk_io_ref(&err) < 0)
        return 1;
    mk_io_arm(&t, 0);
    int bad = called(1) && order[0] == 'c' ? 0 : 2;
    mk_io_disarm(&t);
    mk_io_unref();
    return bad;
}

static void test_fork(void)
{
    struct mk_io_timer old = { .fire = fire, .ctx = (char[]){ 'o' } };
    int status = -1;
    mk_io_arm(&old, mk_now() + 3600 * UINT64_C(1000000000));
    pid_t pid = fork();
    if (pid == 0)
        _exit(in_child(&old));
    tap_ok(waitpid(pid, &status, 0) == pid && status == 0, "io: a child of fork() has its own");
    fired = 0;
    mk_io_arm(&old, 0);
    tap_ok(called(1), "io: the parent's goes on");
    mk_io_disarm(&old);
}

#ifdef __SANITIZE_THREAD__
/* It ends a child of fork() that makes threads, unless it is told not to. */
__attribute__((visibility("default"))) const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "die_after_fork=0";
}
#endif

int main(void)
{
    struct mk_err err;
    for (int i = 0; i < 3; i++) {
        if (mk_io_ref(&err) < 0)
            break;
        test_timers();
        test_clear();
        test_sources();
        test_refused();
        test_fork();
        mk_io_unref();
    }
    return tap_done();
}
