/* debug.c - breakpoints, watched memory and steps as scripts see them (debug/debug.h). The methods
 * are in lua/minikvm/debug/init.lua, which checks what a script gives.
 *
 * What one needs of Lua is kept by the VM and freed under the Lua lock: when the script removes it,
 * and, of breakpoints that are over by themselves, when others are made. */
#include "debug/debug.h"
#include "lua/core.h"

#include <stdlib.h>
#include <string.h>

/* A breakpoint or a watch. */
struct mk_lua_stopper {
    struct mk_lua_stopper *next;
    struct mk_lua_vm *v;
    struct mk_handle *h;
    struct mk_break *b;      /* of a breakpoint; NULL: it is removed */
    struct mk_watchpoint *w; /* the same of a watch */
    int fn_ref, handle_ref;
};

/* --- the vCPU's side --- */

struct hit {
    const struct mk_lua_stopper *s;
    const struct mk_access *access; /* of a watch */
    unsigned cpu;
    bool stop;
};

static void push_cpu(lua_State *co, struct mk_lua_vm *v, unsigned cpu)
{
    lua_pushvalue(v->anchor, MK_AT_HANDLERS);
    lua_getfield(v->anchor, -1, "cpu");
    lua_rawgeti(v->anchor, -1, (lua_Integer)cpu);
    lua_xmove(v->anchor, co, 1);
    lua_pop(v->anchor, 2);
}

static void push_access(lua_State *co, const struct mk_access *a)
{
    lua_createtable(co, 0, 3);
    mk_set_integer(co, "address", a->address);
    mk_set_integer(co, "size", a->length);
    mk_set_string(co, "kind", a->execute ? "x" : a->write ? "w" : "r");
}

static const char *what_of(const struct hit *hit)
{
    return hit->access ? "a watch's function" : "a breakpoint's function";
}

/* Whether what the function has returned, on top, stops the VM. */
static bool stops(lua_State *co, const struct hit *hit)
{
    if (lua_type(co, -1) == LUA_TSTRING && strcmp(lua_tostring(co, -1), "stop") == 0)
        return true;
    if (lua_isnil(co, -1) || lua_isboolean(co, -1))
        return lua_toboolean(co, -1);
    mk_lua_bad_answer(hit->s->v, hit->cpu,
                      "%s answered a %s: it must return true to stop, or nothing", what_of(hit),
                      luaL_typename(co, -1));
    return false;
}

static int call_hit(lua_State *co)
{
    struct hit *hit = lua_touserdata(co, 1);
    const struct mk_lua_stopper *s = hit->s;
    if (s->handle_ref <= 0) /* removed while we waited for the lock */
        return 0;
    mk_lua_push_handler(s->v, co, s->fn_ref);
    push_cpu(co, s->v, hit->cpu);
    mk_lua_push_handler(s->v, co, s->handle_ref);
    if (hit->access)
        push_access(co, hit->access);
    lua_call(co, hit->access ? 3 : 2, 1);
    hit->stop = stops(co, hit);
    return 0;
}

static bool on_access(void *ctx, struct mk_vcpu *c, const struct mk_access *access)
{
    struct mk_lua_stopper *s = ctx;
    struct hit hit = { .s = s, .access = access, .cpu = c->cpu.index };
    mk_lua_call(s->v, c->cpu.index, what_of(&hit), call_hit, &hit);
    return hit.stop;
}

static bool on_break(void *ctx, struct mk_vcpu *c)
{
    return on_access(ctx, c, NULL);
}

/* --- the script's side --- */

static uint64_t count_hits(struct mk_lua_vm *v, struct mk_handle *h)
{
    (void)v;
    const struct mk_lua_stopper *s = h->target;
    return s->b ? mk_break_hits(s->b) : mk_watchpoint_hits(s->w);
}

/* What it had of Lua; the rest stays for who still looks at it. */
static void forget(lua_State *L, struct mk_lua_stopper *s, int vm_index)
{
    if (s->fn_ref > 0)
        mk_lua_unref(L, vm_index, s->fn_ref);
    if (s->handle_ref > 0)
        mk_lua_unref(L, vm_index, s->handle_ref);
    s->fn_ref = s->handle_ref = 0;
}

static void remove_stopper(lua_State *L, struct mk_lua_vm *v, struct mk_handle *h, int vm_index)
{
    struct mk_lua_stopper *s = h->target;
    if (s->b)
        mk_debug_remove(&v->vm, s->b);
    else
        mk_debug_unwatch(&v->vm, s->w);
    s->b = NULL;
    s->w = NULL;
    forget(L, s, vm_index);
}

/* Frees those that are removed; breakpoints that are over become so. Not while a hit may be told.
 */
static void purge(lua_State *L, struct mk_lua_vm *v, int vm_index)
{
    if (!mk_vm_wait(&v->vm, 0))
        return;
    v->stopper_count = 0;
    for (struct mk_lua_stopper *s, **at = &v->stoppers; (s = *at);) {
        if (s->b && mk_break_is_over(s->b)) {
            s->h->hits = mk_break_hits(s->b);
            s->h->removed = true;
            remove_stopper(L, v, s->h, vm_index);
        }
        if (s->b || s->w || mk_debug_last_stop(&v->vm).ctx == s) {
            at = &s->next;
            v->stopper_count++;
        } else {
            *at = s->next;
            free(s);
        }
    }
    v->stoppers_kept = v->stopper_count;
}

void mk_lua_free_stoppers(struct mk_lua_vm *v)
{
    while (v->stoppers) {
        struct mk_lua_stopper *s = v->stoppers;
        v->stoppers = s->next;
        free(s);
    }
}

/* One whose handle is on top; its function is at index 3, nil: it has none. */
static struct mk_lua_stopper *new_stopper(lua_State *L, struct mk_lua_vm *v)
{
    lua_settop(L, 3);
    if (v->stopper_count >= 2 * v->stoppers_kept + 64)
        purge(L, v, 1);
    struct mk_handle *h = mk_new_handle(L, 1);
    struct mk_lua_stopper *s = calloc(1, sizeof(*s));
    if (!s)
        mk_lua_error(L, "out of memory for a breakpoint");
    *s = (struct mk_lua_stopper){ .next = v->stoppers, .v = v, .h = h };
    v->stoppers = s;
    v->stopper_count++;
    s->handle_ref = mk_lua_ref(L, 1, 4);
    s->fn_ref = lua_isnil(L, 3) ? 0 : mk_lua_ref(L, 1, 3);
    h->target = s;
    return s;
}

/* It has been placed, or *err says why not. */
static int push_placed(lua_State *L, struct mk_lua_stopper *s, const struct mk_err *err)
{
    if (!s->b && !s->w) {
        forget(L, s, 1);
        return mk_push_err(L, err);
    }
    *s->h = (struct mk_handle){ .remove = remove_stopper, .count = count_hits, .target = s };
    return 1;
}

static const enum mk_stop_kind stop_kinds[] = { MK_STOP_BREAK, MK_STOP_UNTIL };

/* break_at(vm, { address=, physical=, cpu=, once=, after=, hidden=, until_pc= }, fn | nil) ->
 * handle, or nil, text, name */
static int break_at(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    struct mk_lua_stopper *s = new_stopper(L, v);
    struct mk_err err;
    struct mk_break_options o = { .address = (uint64_t)mk_integer_field(L, 2, "address", 0),
                                  .physical = mk_true_field(L, 2, "physical"),
                                  .cpu = (int)mk_integer_field(L, 2, "cpu", -1),
                                  .once = mk_true_field(L, 2, "once"),
                                  .hidden = mk_true_field(L, 2, "hidden"),
                                  .after = (uint64_t)mk_integer_field(L, 2, "after", 0),
                                  .kind = stop_kinds[mk_true_field(L, 2, "until_pc")],
                                  .hit = s->fn_ref ? on_break : NULL,
                                  .ctx = s };
    s->b = mk_debug_add(&v->vm, &o, &err);
    return push_placed(L, s, &err);
}

/* watch_memory(vm, { address=, size=, physical=, read=, write=, execute=, cpu= }, fn | nil) ->
 * handle, or nil, text, name */
static int watch_memory(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    struct mk_lua_stopper *s = new_stopper(L, v);
    struct mk_err err;
    struct mk_watch_options o = { .address = (uint64_t)mk_integer_field(L, 2, "address", 0),
                                  .size = (uint64_t)mk_integer_field(L, 2, "size", 0),
                                  .physical = mk_true_field(L, 2, "physical"),
                                  .read = mk_true_field(L, 2, "read"),
                                  .write = mk_true_field(L, 2, "write"),
                                  .execute = mk_true_field(L, 2, "execute"),
                                  .cpu = (int)mk_integer_field(L, 2, "cpu", -1),
                                  .hit = s->fn_ref ? on_access : NULL,
                                  .ctx = s };
    s->w = mk_debug_watch(&v->vm, &o, &err);
    return push_placed(L, s, &err);
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
    push_cpu(L, v, stop.cpu);
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
    return mk_push_self(L,
                        mk_debug_begin_step(&v->vm, (unsigned)luaL_checkinteger(L, 2),
                                            (uint64_t)luaL_checkinteger(L, 3), &err),
                        &err);
}

static int end_step(lua_State *L)
{
    mk_debug_end_step(&mk_check_vm(L, 1)->vm);
    return 0;
}

static int wait_for(lua_State *L, bool (*done)(void *vm), uint64_t ns)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    lua_pushboolean(L, mk_lua_wait_vm(L, v, ns, done, &v->vm));
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

static const luaL_Reg core[] = { MK_FN(break_at),    MK_FN(watch_memory), MK_FN(last_stop),
                                 MK_FN(begin_step),  MK_FN(end_step),     MK_FN(wait_step),
                                 MK_FN(has_stepped), MK_FN(wait_paused),  MK_END };

MK_EXPORTS = { { .core = core } };
