/* debug.c - breakpoints and steps as scripts see them (debug/debug.h). The methods are in
 * lua/minikvm/debug/init.lua, which checks what a script gives.
 *
 * What a breakpoint needs of Lua is kept by the VM and freed under the Lua lock: when the script
 * removes it, and, of those that are over by themselves, when others are made. */
#include "debug/debug.h"
#include "lua/core.h"

#include <stdlib.h>
#include <string.h>

struct mk_lua_break {
    struct mk_lua_stopper s; /* first */
    struct mk_lua_break *next;
    struct mk_lua_vm *v;
    struct mk_break *b;
    struct mk_handle *h;
    int fn_ref;
};

/* --- the vCPU's side --- */

struct hit {
    const struct mk_lua_break *lb;
    unsigned cpu;
    bool stop;
};

void mk_lua_push_cpu(lua_State *co, struct mk_lua_vm *v, unsigned cpu)
{
    lua_pushvalue(v->anchor, MK_AT_HANDLERS);
    lua_getfield(v->anchor, -1, "cpu");
    lua_rawgeti(v->anchor, -1, (lua_Integer)cpu);
    lua_xmove(v->anchor, co, 1);
    lua_pop(v->anchor, 2);
}

bool mk_lua_stops(lua_State *co, struct mk_lua_vm *v, unsigned cpu, const char *what)
{
    if (lua_type(co, -1) == LUA_TSTRING && strcmp(lua_tostring(co, -1), "stop") == 0)
        return true;
    if (lua_isnil(co, -1) || lua_isboolean(co, -1))
        return lua_toboolean(co, -1);
    mk_lua_bad_answer(v, cpu, "%s answered a %s: it must return true to stop, or nothing", what,
                      luaL_typename(co, -1));
    return false;
}

static int call_hit(lua_State *co)
{
    struct hit *hit = lua_touserdata(co, 1);
    const struct mk_lua_break *lb = hit->lb;
    if (lb->s.handle_ref <= 0) /* removed while we waited for the lock */
        return 0;
    mk_lua_push_handler(lb->v, co, lb->fn_ref);
    mk_lua_push_cpu(co, lb->v, hit->cpu);
    mk_lua_push_handler(lb->v, co, lb->s.handle_ref);
    lua_call(co, 2, 1);
    hit->stop = mk_lua_stops(co, lb->v, hit->cpu, "a breakpoint's function");
    return 0;
}

static bool on_hit(void *ctx, struct mk_vcpu *c)
{
    struct mk_lua_break *lb = ctx;
    struct hit hit = { .lb = lb, .cpu = c->cpu.index };
    mk_lua_call(lb->v, c->cpu.index, "a breakpoint's function", call_hit, &hit);
    return hit.stop;
}

/* --- the script's side --- */

static uint64_t break_hits(struct mk_lua_vm *v, struct mk_handle *h)
{
    (void)v;
    return mk_break_hits(((const struct mk_lua_break *)h->target)->b);
}

/* What it had of Lua; the rest stays for who still looks at it. */
static void forget(lua_State *L, struct mk_lua_break *lb, int vm_index)
{
    if (lb->fn_ref > 0)
        mk_lua_unref(L, vm_index, lb->fn_ref);
    if (lb->s.handle_ref > 0)
        mk_lua_unref(L, vm_index, lb->s.handle_ref);
    lb->fn_ref = lb->s.handle_ref = 0;
}

static void break_remove(lua_State *L, struct mk_lua_vm *v, struct mk_handle *h, int vm_index)
{
    struct mk_lua_break *lb = h->target;
    mk_debug_remove(&v->vm, lb->b);
    lb->b = NULL;
    forget(L, lb, vm_index);
}

/* Frees those that are removed; those that are over become so. Not while a hit may be told. */
static void purge(lua_State *L, struct mk_lua_vm *v, int vm_index)
{
    if (!mk_vm_wait(&v->vm, 0))
        return;
    struct mk_lua_break **at = &v->breaks;
    while (*at) {
        struct mk_lua_break *lb = *at;
        if (lb->b && mk_break_is_over(lb->b)) {
            lb->h->hits = mk_break_hits(lb->b);
            lb->h->removed = true;
            break_remove(L, v, lb->h, vm_index);
        }
        if (lb->b || mk_debug_last_stop(&v->vm).ctx == lb) {
            at = &lb->next;
        } else {
            *at = lb->next;
            free(lb);
        }
    }
}

void mk_lua_free_breaks(struct mk_lua_vm *v)
{
    while (v->breaks) {
        struct mk_lua_break *lb = v->breaks;
        v->breaks = lb->next;
        free(lb);
    }
}

static const enum mk_stop_kind stop_kinds[] = { MK_STOP_BREAK, MK_STOP_UNTIL };

/* break_at(vm, { address=, physical=, cpu=, once=, after=, hidden=, until_pc= }, fn | nil) ->
 * handle, or nil, text, name */
static int break_at(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    struct mk_err err;
    lua_settop(L, 3);
    struct mk_break_options o = { .address = (uint64_t)mk_integer_field(L, 2, "address", 0),
                                  .physical = mk_true_field(L, 2, "physical"),
                                  .cpu = (int)mk_integer_field(L, 2, "cpu", -1),
                                  .once = mk_true_field(L, 2, "once"),
                                  .hidden = mk_true_field(L, 2, "hidden"),
                                  .after = (uint64_t)mk_integer_field(L, 2, "after", 0),
                                  .kind = stop_kinds[mk_true_field(L, 2, "until_pc")] };
    if (v->break_count >= 2 * v->break_purged + 64) {
        purge(L, v, 1);
        v->break_purged = v->break_count = 0;
        for (const struct mk_lua_break *lb = v->breaks; lb; lb = lb->next)
            v->break_count++;
        v->break_purged = v->break_count;
    }
    struct mk_handle *h = mk_new_handle(L, 1);
    *h = (struct mk_handle){ .removed = true };
    struct mk_lua_break *lb = calloc(1, sizeof(*lb));
    if (!lb)
        return mk_lua_error(L, "out of memory for a breakpoint");
    *lb = (struct mk_lua_break){ .next = v->breaks, .v = v, .h = h };
    v->breaks = lb;
    v->break_count++;
    lb->s.handle_ref = mk_lua_ref(L, 1, 4);
    lb->fn_ref = lua_isnil(L, 3) ? 0 : mk_lua_ref(L, 1, 3);
    o.ctx = lb;
    o.hit = lb->fn_ref ? on_hit : NULL;
    h->target = lb;
    lb->b = mk_debug_add(&v->vm, &o, &err);
    if (!lb->b) {
        forget(L, lb, 1);
        return mk_push_err(L, &err);
    }
    *h = (struct mk_handle){ .remove = break_remove, .count = break_hits, .target = lb };
    return 1;
}

static const char *const kind_names[] = { [MK_STOP_NONE] = "none",
                                          [MK_STOP_BREAK] = "break",
                                          [MK_STOP_WATCH] = "watch",
                                          [MK_STOP_STEP] = "step",
                                          [MK_STOP_UNTIL] = "until" };

void mk_push_stop(lua_State *L, struct mk_lua_vm *v)
{
    struct mk_stop stop = mk_debug_last_stop(&v->vm);
    const struct mk_lua_stopper *of = stop.ctx;
    if (stop.kind == MK_STOP_NONE) {
        lua_pushnil(L);
        return;
    }
    lua_createtable(L, 0, 4);
    mk_set_string(L, "kind", kind_names[stop.kind]);
    mk_set_integer(L, "address", stop.address);
    mk_lua_push_cpu(L, v, stop.cpu);
    lua_setfield(L, -2, "cpu");
    if (of && of->handle_ref > 0) {
        mk_lua_push_handler(v, L, of->handle_ref);
        lua_setfield(L, -2, "handle");
    }
}

/* last_stop(vm) -> { kind=, address=, cpu=, handle= } or nil */
static int last_stop(lua_State *L)
{
    mk_push_stop(L, mk_check_vm(L, 1));
    return 1;
}

/* begin_step(vm, cpu, count) -> vm; then run() or, of a VM that is paused, wait_step() */
static int begin_step(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    struct mk_err err;
    if (mk_debug_begin_step(&v->vm, (unsigned)luaL_checkinteger(L, 2),
                            (uint64_t)luaL_checkinteger(L, 3), &err) < 0)
        return mk_push_err(L, &err);
    lua_settop(L, 1);
    return 1;
}

static int end_step(lua_State *L)
{
    mk_debug_end_step(&mk_check_vm(L, 1)->vm);
    return 0;
}

static int wait_for(lua_State *L, bool (*done)(void *vm), uint64_t ns)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    struct mk_wait wait = mk_vm_wait_for(&v->vm, done, &v->vm);
    v->busy++;
    lua_pushboolean(L, mk_lua_wait(L, ns, &wait));
    v->busy--;
    return 1;
}

/* wait_step(vm) -> whether it is done */
static int wait_step(lua_State *L)
{
    return wait_for(L, mk_debug_is_done, MK_FOREVER);
}

/* has_stepped(vm), of a step that was begun */
static int has_stepped(lua_State *L)
{
    lua_pushboolean(L, mk_debug_has_stepped(&mk_check_vm(L, 1)->vm));
    return 1;
}

/* wait_paused(vm [, seconds]) -> whether it is paused, or does not run */
static int wait_paused(lua_State *L)
{
    return wait_for(L, mk_vm_is_paused_or_stopped, mk_opt_seconds(L, 2));
}

static const luaL_Reg core[] = { MK_FN(break_at),    MK_FN(last_stop),
                                 MK_FN(begin_step),  MK_FN(end_step),
                                 MK_FN(wait_step),   MK_FN(has_stepped),
                                 MK_FN(wait_paused), MK_END };

const struct mk_exports mk_debug_exports[] = { { .core = core }, MK_END };
