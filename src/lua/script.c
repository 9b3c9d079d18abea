/* script.c - the time of a whole script, for --safe (limit.h).
 *
 * A timer signals the script's thread; its handler raises in the script when the time is up, and
 * ends the process after twice that: then the script is where no hook gets in. */
#include "lua/core.h"
#include "io/tty.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct mk_script {
    struct mk_guard guard;
    struct mk_lua *lua;
    uint64_t began, ns;
    timer_t tick;
};

void mk_limit_die(const char *text)
{
    mk_tty_restore();
    if (write(STDERR_FILENO, "minikvm: ", 9) < 0 ||
        write(STDERR_FILENO, text, strlen(text)) < 0 || write(STDERR_FILENO, "\n", 1) < 0)
        _exit(2); /* nobody reads */
    _exit(1);
}

static void die(const struct mk_script *s)
{
    char where[100], text[300];
    mk_lua_where(mk_lua_innermost(s->lua->away ? s->lua->main : s->lua->base), where, sizeof(where));
    snprintf(text, sizeof(text), "%s: the script's time of %llu.%llu s is long up, and it goes on "
             "where nothing can end it", where, (unsigned long long)(s->ns / 1000000000u),
             (unsigned long long)(s->ns / 100000000u % 10));
    mk_limit_die(text);
}

/* In the handler of the kick signal, on the script's thread. */
static void on_signal(void *ctx)
{
    struct mk_script *s = ctx;
    uint64_t ran = mk_now() - s->began;
    if (ran < s->ns)
        return;
    s->guard.due = MK_DUE_SCRIPT;
    mk_guard_end_script(s->lua, &s->guard);
    if (mk_limit_overdue(ran, s->ns))
        die(s);
}

static bool start_timer(timer_t *timer)
{
    struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = mk_kick_signal() };
    struct itimerspec every = { .it_value.tv_nsec = MK_TICK_NS, .it_interval.tv_nsec = MK_TICK_NS };
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    return timer_create(CLOCK_MONOTONIC, &event, timer) == 0 &&
           timer_settime(*timer, 0, &every, NULL) == 0;
}

int mk_lua_end_after(lua_State *L)
{
    uint64_t ns = mk_check_seconds(L, 1), handler = mk_check_seconds(L, 2);
    struct mk_lua *lua = mk_lua_get(L);
    struct mk_err err;
    struct mk_script *s = lua->script ? NULL : calloc(1, sizeof(*s));
    if (!s)
        return luaL_error(L, "end_after: once, and with memory");
    *s = (struct mk_script){ .lua = lua, .began = mk_now(), .ns = ns, .guard = { .depth = 1, .co = lua->main } };
    if (mk_kick_setup(&err) < 0 || (mk_kick_watch(on_signal, s), mk_kick_allow(), !start_timer(&s->tick))) {
        mk_kick_watch(NULL, NULL);
        free(s);
        return luaL_error(L, "no timer for the script: %s", strerror(errno));
    }
    lua->script = s;
    lua->guard = &s->guard;
    lua->handler_most = handler;
    lua->last_resort = true;
    return 0;
}

void mk_script_free(struct mk_lua *lua)
{
    if (!lua->script)
        return;
    timer_delete(lua->script->tick);
    mk_kick_watch(NULL, NULL);
    lua->guard = NULL;
    free(lua->script);
    lua->script = NULL;
}
