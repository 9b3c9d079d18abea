/* script.c - the time of a whole script, for --safe (limit.h).
 *
 * When the time is up, the I/O thread signals the script's thread, whose handler raises in the
 * script, until that has ended; after twice the time the handler ends the process: then the script
 * is where no hook gets in. */
#include "lua/core.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define AGAIN_NS 10000000u

struct mk_script {
    struct mk_watchdog watchdog;
    struct mk_lua *lua;
    uint64_t began, ns;
    pthread_t thread;
    struct mk_io_timer timer;
    struct mk_kick_handler kicks;
};

static void abort_process(const struct mk_script *s)
{
    char where[100], text[300];
    mk_lua_where(mk_lua_running(s->lua->away ? s->lua->main : s->lua->base), where, sizeof(where));
    snprintf(text, sizeof(text),
             "%s: the script's time of %llu.%llu s is long up, and it goes on "
             "where nothing can end it",
             where, (unsigned long long)(s->ns / 1000000000u),
             (unsigned long long)(s->ns / 100000000u % 10));
    mk_limit_abort(text);
}

/* In the handler of the kick signal, on the script's thread. */
static void on_signal(void *ctx)
{
    struct mk_script *s = ctx;
    uint64_t ran = mk_now() - s->began;
    if (ran < s->ns)
        return;
    s->watchdog.due = MK_DUE_SCRIPT;
    mk_watchdog_end_script(s->lua, &s->watchdog);
    if (mk_limit_overdue(ran, s->ns))
        abort_process(s);
}

/* On the I/O thread. */
static void time_up(void *ctx)
{
    struct mk_script *s = ctx;
    pthread_kill(s->thread, mk_kick_signal());
    mk_io_arm(&s->timer, mk_now() + AGAIN_NS);
}

void mk_script_free(struct mk_lua *lua)
{
    if (!lua->script)
        return;
    mk_io_disarm(&lua->script->timer);
    mk_io_unref();
    mk_kick_remove_handler(&lua->script->kicks);
    lua->watchdog = NULL;
    free(lua->script);
    lua->script = NULL;
}

int mk_lua_end_after(lua_State *L)
{
    if (lua_isnoneornil(L, 1)) {
        mk_script_free(mk_lua_get(L));
        lua_sethook(mk_lua_get(L)->main, NULL, 0, 0);
        return 0;
    }
    uint64_t ns = mk_check_seconds(L, 1), handler = mk_check_seconds(L, 2);
    struct mk_lua *lua = mk_lua_get(L);
    struct mk_err err;
    struct mk_script *s = lua->script ? NULL : calloc(1, sizeof(*s));
    if (!s)
        return mk_lua_error(L, "end_after: once, and with memory");
    *s = (struct mk_script){ .lua = lua,
                             .began = mk_now(),
                             .ns = ns,
                             .thread = pthread_self(),
                             .watchdog = { .depth = 1, .co = lua->main },
                             .timer = { .fire = time_up, .ctx = s },
                             .kicks = { .fn = on_signal, .ctx = s } };
    if (mk_kick_init(&err) < 0 || mk_io_ref(&err) < 0) {
        free(s);
        return mk_lua_error(L, "no timer for the script: %s", err.text);
    }
    mk_kick_add_handler(&s->kicks);
    mk_kick_unblock();
    mk_io_arm(&s->timer, mk_time_in(ns));
    lua->script = s;
    lua->on_close = mk_script_free;
    lua->watchdog = &s->watchdog;
    lua->handler_most = handler;
    lua->last_resort = true;
    return 0;
}
