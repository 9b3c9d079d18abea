/* hooks.c - vm.ports, vm.mmio and vm.msrs: accesses of the guest served in Lua. The methods are in
 * lua/minikvm/device/hooks.lua, which checks what a script gives:
 *
 *   ports:on(range, { read = fn(port, size), write = fn(port, value, size) })
 *   ports:override(range, { read = fn(port, size, next), write = fn(port, value, size, next) })
 *   ports:tap(range, fn(what, port, value, size))
 *   mmio:on(range, ...)   the same, with guest-physical addresses outside RAM
 *   msrs:on(range, ...)   the same, with numbers of MSRs; a handler that returns false raises #GP
 * in the guest
 *
 * `on` takes what nobody serves yet; `override` goes on top of whatever is there, and `next` is the
 * handler beneath; a tap sees and changes nothing. A direction without a function passes to what
 * lies beneath. */
#include "lua/hooks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- the vCPU's side --- */

/* An access of the guest for a handler. */
struct access {
    struct mk_lua_hook *h;
    struct mk_io *io;
    struct mk_frame frame; /* for next(): which access it stands for */
    struct mk_gate gate;
};

static MK_HOT void leave(struct access *a)
{
    a->h->v->cpu[a->io->cpu->index]->frame = a->frame.above;
    mk_gate_leave(&a->gate);
}

/* Into the gate, with handler `ref` on the coroutine's stack; NULL when it is not to run. */
static MK_HOT lua_State *enter(struct access *a, int ref)
{
    struct mk_lua_vm *v = a->h->v;
    unsigned cpu = a->io->cpu->index;
    if (cpu >= v->vm.cpus || mk_lua_failed(v, cpu))
        return NULL;
    lua_State *co = mk_gate_enter(&a->gate, v, cpu, NULL);
    if (!co)
        return NULL;
    struct mk_lua_cpu *lc = v->cpu[cpu];
    a->frame.above = lc->frame;
    lc->frame = &a->frame;
    if (a->h->removed) { /* while we waited for the lock */
        leave(a);
        return NULL;
    }
    mk_lua_push_handler(v, co, ref);
    return co;
}

static MK_HOT void push_anchored(lua_State *co, const struct mk_lua_vm *v, int at)
{
    lua_pushvalue(v->anchor, at);
    lua_xmove(v->anchor, co, 1);
}

static MK_HOT int push_next(lua_State *co, const struct access *a)
{
    const struct mk_lua_hook *h = a->h;
    if (h->with_next)
        push_anchored(co, h->v, MK_AT_NEXT + (int)a->io->cpu->index);
    return h->with_next;
}

static const char *kind_of(const struct mk_io *io)
{
    static const char *const kinds[] = { "port", "address", "MSR" };
    return kinds[io->bus->space];
}

/* #GP or not: the topmost handler has the last word. */
static void refuse_msr(const struct access *a, bool refused)
{
    if (a->io->bus->space == MK_SPACE_MSRS)
        a->h->v->vm.cpu[a->io->cpu->index]->c.msr_refused = refused;
}

static int to_text(lua_State *co)
{
    lua_tostring(co, 1);
    return 1;
}

/* The read handler answered with something else than an integer. */
static MK_COLD void refuse_answer(const struct access *a, lua_State *co)
{
    const char *type = luaL_typename(co, -1);
    lua_pushcfunction(co, to_text); /* which may run out of memory */
    lua_insert(co, -2);
    const char *text = lua_pcall(co, 1, 1, 0) == LUA_OK ? lua_tostring(co, -1) : NULL;
    mk_lua_bad_answer(a->h->v, a->io->cpu->index,
                      "read handler of %s 0x%llx answered %s%s%s: it "
                      "must return an integer of 0 to 0x%llx",
                      kind_of(a->io), (unsigned long long)a->io->address, type, text ? " " : "",
                      text ? text : "", (unsigned long long)mk_mask(a->io->size));
}

/* The answer of a read handler: an integer that fits. */
static MK_HOT uint64_t read_value(const struct access *a, lua_State *co)
{
    const struct mk_io *io = a->io;
    uint64_t limit = mk_mask(io->size), value = (uint64_t)lua_tointeger(co, -1);
    bool is_false = lua_isboolean(co, -1) && !lua_toboolean(co, -1);
    refuse_msr(a, is_false);
    if (is_false && io->bus->space == MK_SPACE_MSRS)
        return limit;
    if (!lua_isinteger(co, -1))
        refuse_answer(a, co);
    else if (value > limit)
        mk_lua_bad_answer(a->h->v, io->cpu->index,
                          "read handler of %s 0x%llx answered %lld: it "
                          "does not fit in %u byte%s",
                          kind_of(io), (unsigned long long)io->address, (long long)value, io->size,
                          io->size > 1 ? "s" : "");
    return value;
}

static MK_HOT uint64_t hook_in(void *self, struct mk_io *io)
{
    struct mk_lua_hook *h = self;
    struct access a = { .h = h, .io = io, .frame = { .io = io, .in = true } };
    lua_State *co = enter(&a, h->read_ref);
    uint64_t value = mk_mask(io->size);
    io->passed = !co;
    if (!co)
        return value;
    lua_pushinteger(co, (lua_Integer)io->address);
    lua_pushinteger(co, io->size);
    if (mk_gate_run(&a.gate, 2 + push_next(co, &a), 1))
        value = read_value(&a, co);
    leave(&a);
    return value;
}

static MK_HOT void hook_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_lua_hook *h = self;
    struct access a = { .h = h, .io = io, .frame = { .io = io, .value = value } };
    bool msr = io->bus->space == MK_SPACE_MSRS;
    lua_State *co = enter(&a, h->write_ref);
    io->passed = !co;
    if (!co)
        return;
    lua_pushinteger(co, (lua_Integer)io->address);
    lua_pushinteger(co, (lua_Integer)value);
    lua_pushinteger(co, io->size);
    if (mk_gate_run(&a.gate, 3 + push_next(co, &a), msr) && msr && lua_isboolean(co, -1))
        refuse_msr(&a, !lua_toboolean(co, -1));
    leave(&a);
}

static void notify_tap(struct mk_lua_hook *h, struct mk_io *io, bool in, uint64_t value)
{
    struct access a = { .h = h, .io = io, .frame = { .io = io, .in = in, .value = value } };
    lua_State *co = enter(&a, h->read_ref);
    if (!co)
        return;
    push_anchored(co, h->v, in ? MK_AT_READ : MK_AT_WRITE);
    lua_pushinteger(co, (lua_Integer)io->address);
    lua_pushinteger(co, (lua_Integer)value);
    lua_pushinteger(co, io->size);
    mk_gate_run(&a.gate, 4, 0);
    leave(&a);
}

static uint64_t tap_in(void *self, struct mk_io *io)
{
    (void)self;
    io->passed = true;
    return 0;
}

static void tap_read(void *self, struct mk_io *io, uint64_t value)
{
    notify_tap(self, io, true, value);
}

static void tap_out(void *self, struct mk_io *io, uint64_t value)
{
    notify_tap(self, io, false, value);
    io->passed = true;
}

static void hook_retire(void *self)
{
    free(self);
}

#define LUA_OPS .name = "a Lua handler", .width = 8, .script = true, .retire = hook_retire

static const struct mk_io_ops read_ops = { LUA_OPS, .in = hook_in };
static const struct mk_io_ops write_ops = { LUA_OPS, .out = hook_out };
static const struct mk_io_ops both_ops = { LUA_OPS, .in = hook_in, .out = hook_out };
static const struct mk_io_ops tap_ops = { LUA_OPS, .in = tap_in, .out = tap_out, .tap = tap_read };

static const struct mk_io_ops *ops_for(const struct mk_lua_hook *h)
{
    return h->read_ref == LUA_NOREF    ? &write_ops
           : h->write_ref == LUA_NOREF ? &read_ops
                                       : &both_ops;
}

static int next_write(lua_State *L, struct mk_frame *frame)
{
    uint64_t value = frame->value;
    if (!lua_isnoneornil(L, 1)) {
        value = (uint64_t)luaL_checkinteger(L, 1);
        luaL_argcheck(L, value <= mk_mask(frame->io->size), 1, "value does not fit the access");
    }
    mk_bus_next_out(frame->io, value);
    return 0;
}

/* next([value]): the handler beneath. One closure per vCPU; which access it stands for is in the
 * vCPU's frame, so that calling it allocates nothing. The VM is its other upvalue, to stay alive.
 */
static int call_next(lua_State *L)
{
    const struct mk_lua_vm *v = lua_touserdata(L, lua_upvalueindex(2));
    struct mk_lua_cpu *lc = v->open ? lua_touserdata(L, lua_upvalueindex(1)) : NULL;
    struct mk_frame *frame = lc ? lc->frame : NULL;
    if (!frame || !lc->depth)
        return mk_lua_error(L,
                            "next() belongs to an access that is over: call it inside the handler");
    int results = 1;
    if (frame->in)
        lua_pushinteger(L, (lua_Integer)mk_bus_next_in(frame->io));
    else
        results = next_write(L, frame);
    if (lc->v->vm.cpu[frame->io->cpu->index]->c.end.reason == MK_ERROR)
        return mk_lua_error(L, "the handler beneath failed");
    return results;
}

void mk_push_next(lua_State *L, int vm_index, unsigned cpu)
{
    struct mk_lua_vm *v = lua_touserdata(L, vm_index);
    lua_pushlightuserdata(L, v->cpu[cpu]);
    lua_pushvalue(L, vm_index);
    lua_pushcclosure(L, call_next, 2);
}

/* --- ranges: lua/minikvm/device/hooks.lua has checked them --- */

struct mk_range mk_check_bus(lua_State *L)
{
    const struct mk_window *w = luaL_testudata(L, 1, MK_WINDOW);
    if (w) {
        struct mk_range r = { .v = mk_check_child(L, 1, MK_WINDOW), .bus = w->bus };
        if (w->closed)
            mk_lua_error(L, "the window is closed: its device is detached");
        return r;
    }
    bool mmio = luaL_testudata(L, 1, MK_MMIO), msrs = luaL_testudata(L, 1, MK_MSRS);
    struct mk_lua_vm *v = mk_check_child(L, 1, mmio ? MK_MMIO : msrs ? MK_MSRS : MK_PORTS);
    struct mk_vm *vm = &v->vm;
    return (struct mk_range){ .v = v, .bus = mmio ? &vm->mmio : msrs ? &vm->msrs : &vm->bus };
}

struct mk_range mk_check_range(lua_State *L)
{
    struct mk_range r = mk_check_bus(L);
    r.first = (uint64_t)luaL_checkinteger(L, 2);
    r.last = (uint64_t)luaL_checkinteger(L, 3);
    bool fits = r.bus->space != MK_SPACE_PORTS || r.last <= 0xffff;
    luaL_argcheck(L, fits && r.first <= r.last, 3, "not a range");
    return r;
}

/* check_hooks(object): raises when there are as many as there may be. */
static int check_hooks(lua_State *L)
{
    struct mk_err err;
    if (mk_bus_check_room(mk_check_bus(L).bus, &err) < 0)
        return mk_lua_error(L, "%s", err.text);
    return 0;
}

/* hook_owner(object, first, last) -> address, owner of the first that somebody serves */
static int hook_owner(lua_State *L)
{
    struct mk_range r = mk_check_range(L);
    char owner[sizeof(((struct mk_hook *)0)->owner)];
    uint64_t where;
    if (!mk_bus_owned(r.bus, r.first, r.last, &where, owner))
        return 0;
    lua_pushinteger(L, (lua_Integer)where);
    lua_pushstring(L, owner);
    return 2;
}

/* --- handles --- */

static uint64_t hook_hits(struct mk_lua_vm *v, struct mk_handle *handle)
{
    (void)v;
    const struct mk_lua_hook *h = handle->target;
    return atomic_load(&h->hook->hits);
}

static void hook_remove(lua_State *L, struct mk_lua_vm *v, struct mk_handle *handle, int vm_index)
{
    struct mk_lua_hook *h = handle->target;
    struct mk_bus *bus = h->bus;
    struct mk_err err;
    h->removed = true;
    mk_lua_unref(L, vm_index, h->read_ref);
    if (h->write_ref != h->read_ref)
        mk_lua_unref(L, vm_index, h->write_ref);
    if (h->prim) {
        v->latched -= h->prim->length;
        h->write_ref = LUA_NOREF; /* looked up under the lock; accesses read theirs without */
    }
    mk_bus_unhook(bus, h->hook); /* h may be gone after this */
    if (bus->space == MK_SPACE_MSRS)
        mk_vm_filter_msrs(&v->vm, &err);
}

struct mk_lua_hook *mk_hook_new(lua_State *L, const struct mk_range *r)
{
    lua_getiuservalue(L, 1, 1);
    mk_new_handle(L, lua_gettop(L));
    mk_window_keep(L);
    struct mk_lua_hook *h = calloc(1, sizeof(*h));
    if (!h)
        mk_lua_error(L, "out of memory for a handler");
    *h = (struct mk_lua_hook){
        .v = r->v, .bus = r->bus, .read_ref = LUA_NOREF, .write_ref = LUA_NOREF
    };
    return h;
}

/* The object is at index 1. */
static void unref_functions(lua_State *L, const struct mk_lua_hook *h)
{
    lua_getiuservalue(L, 1, 1);
    mk_lua_unref(L, lua_gettop(L), h->read_ref);
    if (h->write_ref != h->read_ref)
        mk_lua_unref(L, lua_gettop(L), h->write_ref);
}

int mk_hook_place(lua_State *L, const struct mk_range *r, struct mk_lua_hook *h,
                  const struct mk_io_ops *ops, void *self, const char *owner)
{
    struct mk_err err;
    struct mk_handle *handle = lua_touserdata(L, -1);
    h->hook = mk_bus_hook(r->bus, r->first, r->last, ops, self, owner);
    if (!h->hook) {
        unref_functions(L, h);
        ops->retire(self);
        return mk_lua_error(L, "out of memory for a handler");
    }
    if (r->bus->space == MK_SPACE_MSRS && mk_vm_filter_msrs(&r->v->vm, &err) < 0) {
        unref_functions(L, h);
        mk_bus_unhook(r->bus, h->hook);
        return mk_lua_error(L, "%s", err.text);
    }
    *handle = (struct mk_handle){
        .remove = hook_remove, .count = hook_hits, .target = h, .prim = h->prim
    };
    return 1;
}

/* hook(object, first, last, "on" | "override" | "tap", owner, read | nil, write | nil) -> handle;
 * of a tap one function */
static int hook(lua_State *L)
{
    static const char *const kinds[] = { "on", "override", "tap", NULL };
    struct mk_range r = mk_check_range(L);
    int kind = luaL_checkoption(L, 4, NULL, kinds);
    const char *owner = luaL_checkstring(L, 5);
    lua_settop(L, 7);
    lua_getiuservalue(L, 1, 1);
    int read_ref = lua_isnil(L, 6) ? LUA_NOREF : mk_lua_ref(L, 8, 6);
    int write_ref = lua_isnil(L, 7) ? LUA_NOREF : mk_lua_ref(L, 8, 7);
    struct mk_lua_hook *h = mk_hook_new(L, &r);
    h->read_ref = read_ref;
    h->with_next = kind == 1;
    h->tap = kind == 2;
    h->write_ref = h->tap ? read_ref : write_ref;
    return mk_hook_place(L, &r, h, h->tap ? &tap_ops : ops_for(h), h, owner);
}

static const luaL_Reg core[] = { MK_FN(check_hooks), MK_FN(hook_owner), MK_FN(hook), MK_END };

MK_EXPORTS = { { .type = MK_PORTS }, { .type = MK_MMIO }, { .type = MK_MSRS, .core = core } };
