/* watchpoint.c - watched memory as scripts see it (debug/debug.h). vm:watch is in
 * lua/minikvm/debug/init.lua, which checks what a script gives. */
#include "debug/debug.h"
#include "lua/core.h"

#include <stdlib.h>

/* It stays until the VM is closed, for a stop may refer to it. */
struct mk_lua_watchpoint {
    struct mk_lua_stopper s; /* first */
    struct mk_lua_watchpoint *next;
    struct mk_lua_vm *v;
    struct mk_watchpoint *w;
    int fn_ref;
};

/* --- the vCPU's side --- */

struct hit {
    const struct mk_lua_watchpoint *lw;
    const struct mk_access *access;
    unsigned cpu;
    bool stop;
};

static int call_hit(lua_State *co)
{
    struct hit *hit = lua_touserdata(co, 1);
    const struct mk_lua_watchpoint *lw = hit->lw;
    const struct mk_access *a = hit->access;
    if (lw->s.handle_ref <= 0) /* removed while we waited for the lock */
        return 0;
    mk_lua_push_handler(lw->v, co, lw->fn_ref);
    mk_lua_push_cpu(co, lw->v, hit->cpu);
    mk_lua_push_handler(lw->v, co, lw->s.handle_ref);
    lua_createtable(co, 0, 3);
    mk_set_integer(co, "address", a->address);
    mk_set_integer(co, "size", a->length);
    mk_set_string(co, "kind", a->execute ? "x" : a->write ? "w" : "r");
    lua_call(co, 3, 1);
    hit->stop = mk_lua_stops(co, lw->v, hit->cpu, "a watch's function");
    return 0;
}

static bool on_hit(void *ctx, struct mk_vcpu *c, const struct mk_access *access)
{
    struct mk_lua_watchpoint *lw = ctx;
    struct hit hit = { .lw = lw, .access = access, .cpu = c->cpu.index };
    mk_lua_call(lw->v, c->cpu.index, "a watch's function", call_hit, &hit);
    return hit.stop;
}

/* --- the script's side --- */

static uint64_t hits(struct mk_lua_vm *v, struct mk_handle *h)
{
    (void)v;
    return mk_watchpoint_hits(((const struct mk_lua_watchpoint *)h->target)->w);
}

static void forget(lua_State *L, struct mk_lua_watchpoint *lw, int vm_index)
{
    if (lw->fn_ref > 0)
        mk_lua_unref(L, vm_index, lw->fn_ref);
    mk_lua_unref(L, vm_index, lw->s.handle_ref);
    lw->fn_ref = lw->s.handle_ref = 0;
}

static void remove_it(lua_State *L, struct mk_lua_vm *v, struct mk_handle *h, int vm_index)
{
    struct mk_lua_watchpoint *lw = h->target;
    mk_debug_unwatch(&v->vm, lw->w);
    forget(L, lw, vm_index);
}

/* watch(vm, { address=, size=, physical=, read=, write=, execute=, cpu= }, fn | nil) -> handle, or
 * nil, text, name */
static int watch(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    struct mk_err err;
    lua_settop(L, 3);
    struct mk_watch_options o = { .address = (uint64_t)mk_integer_field(L, 2, "address", 0),
                                  .size = (uint64_t)mk_integer_field(L, 2, "size", 0),
                                  .physical = mk_true_field(L, 2, "physical"),
                                  .read = mk_true_field(L, 2, "read"),
                                  .write = mk_true_field(L, 2, "write"),
                                  .execute = mk_true_field(L, 2, "execute"),
                                  .cpu = (int)mk_integer_field(L, 2, "cpu", -1) };
    struct mk_handle *h = mk_new_handle(L, 1);
    *h = (struct mk_handle){ .removed = true };
    struct mk_lua_watchpoint *lw = calloc(1, sizeof(*lw));
    if (!lw)
        return mk_lua_error(L, "out of memory for a watch");
    *lw = (struct mk_lua_watchpoint){ .next = v->watchpoints, .v = v };
    v->watchpoints = lw;
    lw->s.handle_ref = mk_lua_ref(L, 1, 4);
    lw->fn_ref = lua_isnil(L, 3) ? 0 : mk_lua_ref(L, 1, 3);
    o.ctx = lw;
    o.hit = lw->fn_ref ? on_hit : NULL;
    lw->w = mk_debug_watch(&v->vm, &o, &err);
    if (!lw->w) {
        forget(L, lw, 1);
        return mk_push_err(L, &err);
    }
    *h = (struct mk_handle){ .remove = remove_it, .count = hits, .target = lw };
    return 1;
}

void mk_lua_free_watchpoints(struct mk_lua_vm *v)
{
    while (v->watchpoints) {
        struct mk_lua_watchpoint *lw = v->watchpoints;
        v->watchpoints = lw->next;
        free(lw);
    }
}

static const luaL_Reg core[] = { { "watch_memory", watch }, MK_END };

const struct mk_exports mk_watchpoint_exports[] = { { .core = core }, MK_END };
