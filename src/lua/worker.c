/* worker.c - kvm.worker: Lua code on a thread and in a Lua state of its own.
 *
 * What the two sides share is struct worker; the side that lets go of it last frees it. The owner's
 * side belongs to the thread of the script that made the worker; the other to the worker's thread,
 * which opens its state, runs, closes the state (VMs included), and then says that it has ended.
 * What it runs, its results and messages are bytes here: lua/minikvm/worker makes values of them.
 * close() sends the kick signal until the worker has ended: its handler arms the hook of
 * limit.h. A worker that does not get there within MK_CLOSE_NS, because it is in a C function
 * that does not return, is left to itself: its thread frees its memory should it ever end. */
#include "codec/bytes.h"
#include "lua/channel.h"
#include "lua/core.h"

#include <errno.h>
#include <lualib.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MK_WORKER "minikvm.worker"
#define MK_OWNER "minikvm.owner" /* what the worker has of its owner: the first argument */
#define MK_CLOSE_NS 1000000000u
#define KICK_NS 10000000u /* so often one that shall stop is told */

struct worker {
    struct mk_channel channel; /* end 0: the owner's, end 1: the worker's */
    unsigned sides;            /* under the channel's lock */
    pthread_t thread;
    struct mk_bytes start;     /* what it runs */
    lua_CFunction open_module; /* minikvm */
    bool failed;
    struct mk_bytes outcome;    /* results; of one that failed message and traceback, if there was
                                 * memory for them */
    struct mk_lua *_Atomic lua; /* of its state, while that is open */
    struct mk_watchdog watchdog;
};

struct box { /* the owner's userdata */
    struct worker *w;
    bool over; /* joined, or left to itself */
    bool left;
};

/* --- life --- */

static void leave_behind(struct worker *w)
{
    pthread_mutex_lock(&w->channel.lock);
    bool last = --w->sides == 0;
    pthread_mutex_unlock(&w->channel.lock);
    if (!last)
        return;
    mk_channel_free(&w->channel);
    mk_bytes_free(&w->start);
    mk_bytes_free(&w->outcome);
    free(w);
}

/* --- the worker's side --- */

/* In the handler of a kick signal, on the worker's thread. */
static void on_signal(void *ctx)
{
    struct worker *w = ctx;
    struct mk_lua *lua = atomic_load(&w->lua);
    if (!lua || !atomic_load(&w->channel.stop) || w->watchdog.depth == 0)
        return;
    w->watchdog.due = MK_DUE_STOP;
    mk_watchdog_end_script(lua, &w->watchdog);
}

static int owner_send(lua_State *L)
{
    return mk_channel_send(L, *(struct mk_channel **)luaL_checkudata(L, 1, MK_OWNER), 1);
}

static int owner_receive(lua_State *L)
{
    return mk_channel_receive(L, *(struct mk_channel **)luaL_checkudata(L, 1, MK_OWNER), 1);
}

static void push_owner(lua_State *L, struct worker *w)
{
    static const luaL_Reg methods[] = { { "send", owner_send },
                                        { "receive", owner_receive },
                                        { NULL, NULL } };
    mk_new_type(L, MK_OWNER, NULL, methods);
    struct mk_channel **box = lua_newuserdatauv(L, sizeof(*box), 0);
    *box = &w->channel;
    mk_set_type(L, MK_OWNER);
}

static void open_libraries(lua_State *L, const struct worker *w)
{
    luaL_openlibs(L);
    mk_lua_offer(L, w->open_module);
    mk_coroutine_open(L);
}

/* raise_text(text): at the line of the worker's script. */
static int raise_text(lua_State *L)
{
    return mk_lua_error(L, "%s", luaL_checkstring(L, 1));
}

/* Runs worker/main.lua, whose arguments these are. */
static int body(lua_State *L)
{
    struct worker *w = lua_touserdata(L, 1);
    size_t length;
    mk_lua_part(L, "worker.main");
    mk_lua_part(L, "copy");
    lua_call(L, 0, 1);
    push_owner(L, w);
    luaL_getmetafield(L, -1, "methods");
    lua_insert(L, -2);
    lua_pushcfunction(L, raise_text);
    lua_pushlstring(L, (const char *)w->start.data, w->start.length);
    mk_bytes_free(&w->start);
    lua_call(L, 5, 1);
    const char *results = luaL_checklstring(L, -1, &length);
    mk_bytes_add(&w->outcome, results, length);
    return w->outcome.failed ? mk_lua_error(L, "out of memory for the results") : 0;
}

static int describe(lua_State *L)
{
    const char *text = luaL_tolstring(L, 1, NULL);
    luaL_traceback(L, L, text, 1);
    return 1;
}

static void run(lua_State *L, struct worker *w)
{
    struct mk_lua *lua = mk_lua_get(L); /* there since open_protected() */
    lua_pushcfunction(L, describe);
    lua_pushcfunction(L, body);
    lua_pushlightuserdata(L, w);
    atomic_store(&w->lua, lua);
    mk_watchdog_enter(lua, &w->watchdog, L);
    int status = lua_pcall(L, 1, 0, 1);
    mk_watchdog_leave(&w->watchdog, L);
    lua->watchdog = NULL;
    if (status != LUA_OK) {
        mk_bytes_free(&w->outcome);
        const char *text = lua_tostring(L, -1);
        w->failed = true;
        mk_bytes_add(&w->outcome, text, text ? strlen(text) : 0);
    }
}

static int open_protected(lua_State *L)
{
    open_libraries(L, lua_touserdata(L, 1));
    mk_lua_get(L);
    return 0;
}

static void *worker_thread(void *arg)
{
    struct worker *w = arg;
    lua_State *L = luaL_newstate();
    struct mk_kick_handler kicks = { .fn = on_signal, .ctx = w };
    mk_kick_add_handler(&kicks);
    mk_kick_unblock();
    if (L) {
        lua_pushcfunction(L, open_protected);
        lua_pushlightuserdata(L, w);
        w->failed = lua_pcall(L, 1, 0, 0) != LUA_OK;
        if (!w->failed)
            run(L, w);
        lua_settop(L, 0);
        lua_close(L);
    } else {
        w->failed = true;
    }
    atomic_store(&w->lua, NULL);
    mk_kick_remove_handler(&kicks);
    pthread_mutex_lock(&w->channel.lock);
    w->channel.ended = true;
    mk_wake(w->channel.waiters);
    pthread_mutex_unlock(&w->channel.lock);
    leave_behind(w);
    return NULL;
}

/* --- starting one --- */

/* The thread has the signal mask of this one, as have the processes that it starts; the kick is let
 * in when it can be answered. */
static int spawn(struct worker *w, struct mk_err *err)
{
    int code = pthread_create(&w->thread, NULL, worker_thread, w);
    return code ? mk_fail_errno(err, code, "kvm.worker: a thread") : 0;
}

static struct worker *new_worker(lua_State *L)
{
    size_t length;
    const char *start = luaL_checklstring(L, 1, &length);
    struct worker *w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    mk_channel_init(&w->channel);
    w->sides = 1;
    mk_bytes_add(&w->start, start, length);
    w->open_module = lua_tocfunction(L, lua_upvalueindex(1));
    return w;
}

/* worker(bytes, path of a script that they name | nil) -> worker | nil, text, name */
static int start_worker(lua_State *L)
{
    struct mk_err err = { 0 };
    const char *path = lua_isnil(L, 2) ? NULL : mk_check_cstring(L, 2);
    if (path && access(path, R_OK) < 0) {
        mk_fail_errno(&err, errno, "%s", path);
        return mk_push_err(L, &err);
    }
    struct box *box = lua_newuserdatauv(L, sizeof(*box), 0);
    *box = (struct box){ .over = true };
    mk_set_type(L, MK_WORKER);
    box->w = new_worker(L);
    if (!box->w || box->w->start.failed || mk_kick_init(&err) < 0) {
        if (!err.code)
            mk_fail_errno(&err, ENOMEM, "kvm.worker");
        return mk_push_err(L, &err);
    }
    box->w->sides = 2;
    if (spawn(box->w, &err) < 0) {
        box->w->sides = 1;
        return mk_push_err(L, &err);
    }
    box->over = false;
    return 1;
}

/* --- the owner's side --- */

static struct box *check_box(lua_State *L)
{
    struct box *box = luaL_checkudata(L, 1, MK_WORKER);
    if (!box->w)
        mk_lua_error(L, "the worker is gone, with the state that made it");
    return box;
}

static int worker_send(lua_State *L)
{
    return mk_channel_send(L, &check_box(L)->w->channel, 0);
}

static int worker_receive(lua_State *L)
{
    return mk_channel_receive(L, &check_box(L)->w->channel, 0);
}

static bool has_ended(void *worker)
{
    return ((struct worker *)worker)->channel.ended;
}

static struct mk_wait end_of(struct worker *w)
{
    return (struct mk_wait){
        .lock = &w->channel.lock, .waiters = &w->channel.waiters, .done = has_ended, .ctx = w
    };
}

/* Kicks one that shall stop until it has ended, or MK_CLOSE_NS have passed. */
static bool end_worker(struct worker *w)
{
    struct mk_wait end = end_of(w);
    uint64_t until = mk_time_in(MK_CLOSE_NS);
    bool ended = mk_wait(&end, 0);
    while (!ended && mk_now() < until) {
        pthread_kill(w->thread, mk_kick_signal());
        ended = mk_wait(&end, mk_time_in(KICK_NS));
    }
    return ended;
}

static void join(struct box *box)
{
    if (!box->over)
        pthread_join(box->w->thread, NULL);
    box->over = true;
}

static int push_failure(lua_State *L, const char *text, const char *name)
{
    luaL_pushfail(L);
    lua_pushstring(L, text);
    lua_pushstring(L, name);
    return 3;
}

/* true, results of one that has ended; or what went wrong */
static int push_outcome(lua_State *L, const struct worker *w)
{
    bool ended = atomic_load(&w->channel.stop) && w->watchdog.raised;
    if (w->failed && !w->outcome.length)
        return push_failure(L, "the worker ran out of memory", "ERROR");
    w->failed ? luaL_pushfail(L) : lua_pushboolean(L, 1);
    lua_pushlstring(L, (const char *)w->outcome.data, w->outcome.length);
    if (!w->failed)
        return 2;
    lua_pushstring(L, ended ? "ECANCELED" : "ERROR");
    return 3;
}

/* worker:wait([timeout]) -> true, results | nil, text, name */
static int worker_wait(lua_State *L)
{
    struct box *box = check_box(L);
    uint64_t ns = mk_opt_seconds(L, 2);
    if (box->left)
        return push_failure(L, "the worker is stuck in a C function", "ECANCELED");
    struct mk_wait end = end_of(box->w);
    if (!mk_lua_wait(L, ns, &end))
        return push_failure(L, "the worker still runs", "ETIMEDOUT");
    join(box);
    return push_outcome(L, box->w);
}

/* Stops it; false when it had to be left to itself. Others' handlers may run meanwhile, if `yield`.
 */
static bool close_box(struct box *box, struct mk_lua *lua, bool yield)
{
    struct worker *w = box->w;
    struct mk_lua_context context;
    if (box->over)
        return !box->left;
    atomic_store(&w->channel.stop, true);
    pthread_mutex_lock(&w->channel.lock);
    mk_wake(w->channel.waiters);
    pthread_mutex_unlock(&w->channel.lock);
    if (yield)
        mk_lua_begin_blocking(lua, &context);
    bool ended = end_worker(w);
    if (yield)
        mk_lua_end_blocking(lua, &context);
    if (ended) {
        join(box);
    } else {
        pthread_detach(w->thread);
        box->over = box->left = true;
    }
    return ended;
}

/* worker:close() -> true | nil, text, name: always returns, after a second at the latest. */
static int worker_close(lua_State *L)
{
    struct mk_lua *lua = mk_lua_get(L);
    if (!close_box(check_box(L), lua, !lua->handler))
        return push_failure(L,
                            "the worker is in a C function that does not return: its thread and "
                            "memory are left to themselves",
                            "EBUSY");
    lua_pushboolean(L, 1);
    return 1;
}

static int worker_gc(lua_State *L)
{
    struct box *box = luaL_checkudata(L, 1, MK_WORKER);
    if (!box->w)
        return 0;
    close_box(box, mk_lua_get(L), false);
    leave_behind(box->w);
    box->w = NULL;
    return 0;
}

static int worker_tostring(lua_State *L)
{
    struct box *box = check_box(L);
    pthread_mutex_lock(&box->w->channel.lock);
    bool ended = box->w->channel.ended;
    pthread_mutex_unlock(&box->w->channel.lock);
    lua_pushfstring(L, MK_WORKER " (%s)", ended ? "ended" : box->left ? "stuck" : "running");
    return 1;
}

void mk_open_worker(lua_State *L, lua_CFunction open_module)
{
    static const luaL_Reg meta[] = { { "__gc", worker_gc },
                                     { "__close", worker_close },
                                     { "__tostring", worker_tostring },
                                     { NULL, NULL } };
    static const luaL_Reg methods[] = { { "send", worker_send },
                                        { "receive", worker_receive },
                                        { "wait", worker_wait },
                                        { "close", worker_close },
                                        { NULL, NULL } };
    static const luaL_Reg core[] = { { "worker", start_worker }, { NULL, NULL } };
    mk_new_type(L, MK_WORKER, meta, methods);
    lua_pushcfunction(L, open_module);
    luaL_setfuncs(L, core, 1);
}
