/* gate.c - the one way into Lua from a vCPU's thread, and the one wait. See core.h. */
#include "lua/core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int mk_lua_handler_cpu(const struct mk_lua_vm *v)
{
    const struct mk_lua_cpu *handler = v->lua->handler;
    return handler && handler->v == v ? (int)handler->index : -1;
}

void mk_check_outside_handler(lua_State *L, const char *what)
{
    if (mk_lua_get(L)->handler)
        mk_lua_error(L,
                     "%s would block inside a handler: a guest is waiting for its answer; set a "
                     "variable here and do it after the run, or in another thread's turn",
                     what);
}

static bool wait_for_turn(struct mk_lua_vm *v)
{
    struct mk_lua *lua = v->lua;
    bool mine = false;
    pthread_mutex_lock(&lua->mutex);
    lua->handler_waits++;
    while (!v->closing && !(mine = !lua->script_waits && mk_lua_trylock(lua)))
        pthread_cond_wait(&lua->handler_turn, &lua->mutex);
    lua->handler_waits--;
    if (!mine && !lua->held && lua->handler_waits) /* pass on the turn that woke us */
        pthread_cond_signal(&lua->handler_turn);
    pthread_mutex_unlock(&lua->mutex);
    return mine;
}

static bool acquire_for_handler(struct mk_lua_vm *v)
{
    struct mk_lua *lua = v->lua;
    if (atomic_load_explicit(&v->closing, memory_order_relaxed))
        return false;
    return (!lua->script_waits && mk_lua_trylock(lua)) || wait_for_turn(v);
}

/* --- waiting --- */

struct waiting {
    struct mk_lua *lua;
    lua_Hook before;
};

static bool interrupted(void *ctx)
{
    const struct waiting *w = ctx;
    return mk_lua_interrupted(w->lua, w->before);
}

static bool wait_as_script(struct mk_lua *lua, uint64_t ns, const struct mk_wait *wait)
{
    struct waiting w = { lua, lua_gethook(lua->main) };
    struct mk_wait own = *wait;
    own.interrupted = interrupted;
    own.interrupted_ctx = &w;
    return mk_wait(&own, mk_time_in(ns));
}

static bool wait_as_handler(struct mk_lua_cpu *lc, uint64_t ns, const struct mk_wait *wait)
{
    struct mk_vcpu *c = &lc->v->vm.cpu[lc->index]->c;
    struct mk_watchdog before;
    uint64_t began = mk_now();
    enum mk_reason reason = MK_RUNNING;
    mk_watchdog_suspend(&lc->watchdog, &before);
    bool over = mk_vcpu_wait(c, mk_time_in(ns), wait, &reason);
    mk_watchdog_resume(&lc->watchdog, &before, mk_now() - began, reason);
    return over;
}

bool mk_lua_wait(lua_State *L, uint64_t ns, const struct mk_wait *wait)
{
    struct mk_lua *lua = mk_lua_get(L);
    struct mk_lua_context context;
    struct mk_lua_vm *v = lua->handler ? lua->handler->v : NULL;
    if (ns == 0)
        return mk_wait(wait, 0);
    if (v)
        v->waiting++;
    mk_lua_begin_blocking(lua, &context);
    bool over = v ? wait_as_handler(context.handler, ns, wait) : wait_as_script(lua, ns, wait);
    mk_lua_end_blocking(lua, &context);
    if (v)
        v->waiting--;
    if (v && context.watchdog->due)
        mk_watchdog_arm(L);
    return over;
}

bool mk_lua_wait_vm(lua_State *L, struct mk_lua_vm *v, uint64_t ns, bool (*done)(void *ctx),
                    void *ctx)
{
    struct mk_wait wait = mk_vm_wait_for(&v->vm, done, ctx);
    v->busy++;
    bool is = mk_lua_wait(L, ns, &wait);
    v->busy--;
    return is;
}

/* --- the gate --- */

/* Keeps message and traceback of the first failure; runs as the message handler, on the failing
 * stack. */
static int describe_error(lua_State *L)
{
    const char *text = luaL_tolstring(L, 1, NULL);
    luaL_traceback(L, L, text, 1);
    return 1;
}

MK_HOT void mk_lua_push_handler(struct mk_lua_vm *v, lua_State *co, int ref)
{
    lua_rawgeti(v->anchor, MK_AT_HANDLERS, ref);
    lua_xmove(v->anchor, co, 1);
}

void mk_lua_bad_answer(struct mk_lua_vm *v, unsigned cpu, const char *fmt, ...)
{
    char text[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    v->vm.cpu[cpu]->c.end.reason =
        MK_RUNNING; /* also when it has ended: with the guest's last line */
    mk_vcpu_end(&v->vm.cpu[cpu]->c, MK_ERROR, 0, true, "%s", text);
}

static void handler_failed(struct mk_lua_vm *v, unsigned cpu)
{
    lua_State *co = v->cpu[cpu]->co;
    const char *trace = lua_tostring(co, -1);
    if (!trace)
        trace = "a handler failed without a message";
    if (!v->cpu[cpu]->traceback)
        v->cpu[cpu]->traceback = strdup(trace);
    const char *end = strstr(trace, "\nstack traceback:");
    mk_limit_describe(v, cpu);
    if (!mk_limit_end_vm(v, cpu))
        mk_lua_bad_answer(v, cpu, "%.*s", end ? (int)(end - trace) : (int)strlen(trace), trace);
    lua_pop(co, 1);
}

/* The lock. A handler inside another one has it, unless that one waits. */
static bool acquire(struct mk_gate *g)
{
    struct mk_lua_vm *v = g->v;
    struct mk_lua_cpu *lc = v->cpu[g->cpu];
    g->outer = (struct mk_lua_context){ .handler = lc->depth && !lc->waits ? lc : NULL };
    if (!g->outer.handler && v->vm.cpu[g->cpu]->c.cpu.printed)
        mk_vcpu_finish_output(&v->vm.cpu[g->cpu]->c); /* before what the script prints */
    if (!g->outer.handler && !acquire_for_handler(v))
        return false;
    g->outer.base = v->lua->base;
    g->outer.watchdog = v->lua->watchdog;
    v->lua->handler = lc;
    lc->depth++;
    return true;
}

/* Room on the coroutine's stack, which has plenty while nothing runs on it. */
static bool check_room(const struct mk_gate *g, const struct mk_lua_cpu *lc)
{
    if (lc->depth <= 1 || lua_checkstack(lc->co, MK_GATE_STACK))
        return true;
    mk_lua_bad_answer(g->v, g->cpu, "out of Lua stack");
    return false;
}

MK_HOT lua_State *mk_gate_enter(struct mk_gate *g, struct mk_lua_vm *v, unsigned cpu,
                                const char *what)
{
    struct mk_lua_cpu *lc = v->cpu[cpu];
    g->v = v;
    g->cpu = cpu;
    if (!acquire(g))
        return NULL;
    g->waits = lc->waits;
    g->what = lc->what;
    lc->waits = false;
    lc->what = what;
    g->base = lua_gettop(lc->co);
    if (!check_room(g, lc)) {
        mk_gate_leave(g);
        return NULL;
    }
    lua_pushcfunction(lc->co, describe_error);
    return lc->co;
}

/* Nothing here but lua_pcall() can raise. */
MK_HOT bool mk_gate_run(struct mk_gate *g, int arguments, int results)
{
    struct mk_lua_cpu *lc = g->v->cpu[g->cpu];
    lua_State *co = lc->co;
    mk_watchdog_enter(g->v->lua, &lc->watchdog, co);
    int rc = lua_pcall(co, arguments, results, g->base + 1);
    mk_lua_flush_output(); /* under the watchdog: nobody may read it */
    mk_watchdog_leave(&lc->watchdog, co);
    if (rc != LUA_OK)
        handler_failed(g->v, g->cpu);
    return rc == LUA_OK;
}

MK_HOT void mk_gate_leave(struct mk_gate *g)
{
    struct mk_lua *lua = g->v->lua;
    struct mk_lua_cpu *lc = g->v->cpu[g->cpu];
    lua_settop(lc->co, g->base); /* a script that got hold of it finds it dead */
    lc->what = g->what;
    lc->waits = g->waits;
    lc->depth--;
    lua->base = g->outer.base;
    lua->watchdog = g->outer.watchdog;
    lua->handler = g->outer.handler;
    if (!g->outer.handler)
        mk_lua_unlock(lua);
}

enum mk_call_result mk_lua_call(struct mk_lua_vm *v, unsigned cpu, const char *what,
                                lua_CFunction body, void *ctx)
{
    struct mk_gate g;
    lua_State *co = mk_gate_enter(&g, v, cpu, what);
    if (!co)
        return mk_lua_failed(v, cpu) ? MK_CALL_FAILED : MK_CALL_REFUSED;
    lua_pushcfunction(co, body);
    lua_pushlightuserdata(co, ctx);
    bool done = mk_gate_run(&g, 1, 0);
    mk_gate_leave(&g);
    return done ? MK_CALL_DONE : MK_CALL_FAILED;
}

/* --- handlers that answer nothing --- */

struct notice {
    struct mk_lua_vm *v;
    const int *ref;
    const char *fmt;
    va_list args;
};

static void push_value(lua_State *co, char kind, struct notice *n)
{
    const char *bytes;
    switch (kind) {
    case 'i': lua_pushinteger(co, (lua_Integer)va_arg(n->args, uint64_t)); break;
    case 'b': lua_pushboolean(co, va_arg(n->args, int)); break;
    default:
        bytes = va_arg(n->args, const char *);
        lua_pushlstring(co, bytes, va_arg(n->args, size_t));
    }
}

static int call_notice(lua_State *co)
{
    struct notice *n = lua_touserdata(co, 1);
    if (*n->ref <= 0) /* removed while we waited for the lock */
        return 0;
    mk_lua_push_handler(n->v, co, *n->ref);
    for (const char *kind = n->fmt; *kind; kind++)
        push_value(co, *kind, n);
    lua_call(co, (int)strlen(n->fmt), 0);
    return 0;
}

void mk_lua_notify(struct mk_lua_vm *v, unsigned cpu, const char *what, const int *ref,
                   const char *fmt, ...)
{
    struct notice n = { .v = v, .ref = ref, .fmt = fmt };
    if (cpu >= v->vm.cpus || mk_lua_failed(v, cpu))
        return;
    va_start(n.args, fmt);
    mk_lua_call(v, cpu, what, call_notice, &n);
    va_end(n.args);
}
