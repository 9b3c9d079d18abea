/* lua_ports.c - vm.ports: port handlers written in Lua.
 *
 *   ports:on(first [, last], { read = fn(port, size), write = fn(port, value, size) })
 *   ports:override(first [, last], { read = fn(port, size, next), write = fn(port, value, size, next) })
 *
 * `on` takes ports that nobody serves yet; `override` goes on top of whatever is there, and `next`
 * is the handler beneath. A direction without a function passes to what lies beneath. */
#include "lua_core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct lua_hook {
    struct mk_lua_vm *v;
    struct mk_hook *hook;
    int read_ref, write_ref; /* LUA_NOREF: none */
    bool with_next;
    bool removed; /* under the Lua lock */
};

/* Pushes what both directions have in common; false when the handler is not to run. */
static bool enter(struct lua_hook *h, struct mk_io *io, int ref, struct mk_frame *frame)
{
    if (io->cpu->index >= h->v->vm.cpus || h->v->vm.cpu[io->cpu->index].end.reason == MK_ERROR)
        return false;
    lua_State *co = mk_lua_enter(h->v, io->cpu->index);
    if (!co)
        return false;
    if (h->removed) { /* while we waited for the lock */
        mk_lua_exit(h->v, io->cpu->index);
        return false;
    }
    frame->above = h->v->cpu[io->cpu->index].frame;
    h->v->cpu[io->cpu->index].frame = frame;
    mk_lua_push_handler(h->v, io->cpu->index, ref);
    lua_pushinteger(co, io->port);
    if (!frame->in)
        lua_pushinteger(co, frame->value);
    lua_pushinteger(co, io->size);
    if (h->with_next) {
        lua_pushvalue(h->v->anchor, MK_AT_NEXT + (int)io->cpu->index);
        lua_xmove(h->v->anchor, co, 1);
    }
    return true;
}

static void leave(struct lua_hook *h, struct mk_io *io, const struct mk_frame *frame)
{
    h->v->cpu[io->cpu->index].frame = frame->above;
    mk_lua_exit(h->v, io->cpu->index);
}

/* The answer of a read handler: an integer that fits. */
static uint32_t take_value(struct lua_hook *h, struct mk_io *io, lua_State *co)
{
    uint64_t limit = mk_mask(io->size);
    uint64_t value = (uint64_t)lua_tointeger(co, -1);
    if (!lua_isinteger(co, -1)) {
        const char *type = luaL_typename(co, -1);
        const char *text = lua_tostring(co, -1); /* no metamethod may run here: it could raise */
        mk_lua_blame(h->v, io->cpu->index, "read handler of port 0x%x answered %s%s%s: it must "
                     "return an integer of 0 to 0x%llx", io->port, type, text ? " " : "",
                     text ? text : "", (unsigned long long)limit);
    } else if (value > limit) {
        mk_lua_blame(h->v, io->cpu->index, "read handler of port 0x%x answered %lld: it does not "
                     "fit in %u byte%s", io->port, (long long)value, io->size,
                     io->size > 1 ? "s" : "");
    }
    return (uint32_t)value;
}

static uint32_t hook_in(void *self, struct mk_io *io)
{
    struct lua_hook *h = self;
    struct mk_frame frame = { .io = io, .in = true };
    if (!enter(h, io, h->read_ref, &frame))
        return mk_bus_next_in(io);
    uint32_t value = (uint32_t)mk_mask(io->size);
    unsigned cpu = io->cpu->index;
    if (mk_lua_call(h->v, cpu, 2 + h->with_next, 1)) {
        lua_State *co = h->v->cpu[cpu].co;
        int top = lua_gettop(co);
        value = take_value(h, io, co);
        lua_settop(co, top - 1);
    }
    leave(h, io, &frame);
    return value;
}

static void hook_out(void *self, struct mk_io *io, uint32_t value)
{
    struct lua_hook *h = self;
    struct mk_frame frame = { .io = io, .value = value };
    if (!enter(h, io, h->write_ref, &frame)) {
        mk_bus_next_out(io, value);
        return;
    }
    mk_lua_call(h->v, io->cpu->index, 3 + h->with_next, 0);
    leave(h, io, &frame);
}

static void hook_retire(void *self)
{
    free(self);
}

#define LUA_OPS .name = "a Lua handler", .width = 4, .script = true, .retire = hook_retire

static const struct mk_port_ops read_ops = { LUA_OPS, .in = hook_in };
static const struct mk_port_ops write_ops = { LUA_OPS, .out = hook_out };
static const struct mk_port_ops both_ops = { LUA_OPS, .in = hook_in, .out = hook_out };

static const struct mk_port_ops *ops_for(int read_ref, int write_ref)
{
    return read_ref == LUA_NOREF ? &write_ops : write_ref == LUA_NOREF ? &read_ops : &both_ops;
}

/* next([value]): the handler beneath. One closure per vCPU; which access it stands for is in the
 * vCPU's frame, so that calling it allocates nothing. */
static int call_next(lua_State *L)
{
    struct mk_lua_vm *v = lua_touserdata(L, lua_upvalueindex(1)); /* kept by the closure */
    unsigned cpu = (unsigned)lua_tointeger(L, lua_upvalueindex(2));
    struct mk_frame *frame = v->cpu[cpu].frame;
    if (!frame || !v->cpu[cpu].depth)
        return luaL_error(L, "next() belongs to an access that is over: call it inside the handler");
    if (frame->in) {
        lua_pushinteger(L, mk_bus_next_in(frame->io));
    } else {
        lua_Integer value = luaL_optinteger(L, 1, frame->value);
        luaL_argcheck(L, value >= 0 && (uint64_t)value <= mk_mask(frame->io->size), 1,
                      "value does not fit the access");
        mk_bus_next_out(frame->io, (uint32_t)value);
        lua_pushnil(L);
    }
    if (v->vm.cpu[cpu].end.reason == MK_ERROR)
        return luaL_error(L, "the handler beneath failed");
    return 1;
}

void mk_push_next(lua_State *L, int vm_index, unsigned cpu)
{
    lua_pushvalue(L, vm_index);
    lua_pushinteger(L, cpu);
    lua_pushcclosure(L, call_next, 2);
}

/* --- the Lua side --- */

static uint64_t port_hits(struct mk_lua_vm *v, struct mk_handle *handle)
{
    (void)v;
    const struct lua_hook *h = handle->target;
    return atomic_load(&h->hook->hits);
}

static void port_remove(lua_State *L, struct mk_lua_vm *v, struct mk_handle *handle, int vm_index)
{
    struct lua_hook *h = handle->target;
    h->removed = true;
    mk_lua_unref(L, vm_index, h->read_ref);
    mk_lua_unref(L, vm_index, h->write_ref);
    mk_bus_unhook(&v->vm.m.bus, h->hook); /* h may be gone after this */
}

static uint16_t check_port(lua_State *L, int index)
{
    lua_Integer port = luaL_checkinteger(L, index);
    luaL_argcheck(L, port >= 0 && port <= 0xffff, index, "a port is 0 to 0xffff");
    return (uint16_t)port;
}

/* A function or nothing under `name` of the table at `index`. */
static int check_function(lua_State *L, int vm_index, int index, const char *name)
{
    int ref = LUA_NOREF;
    int type = lua_getfield(L, index, name);
    if (type == LUA_TFUNCTION)
        ref = mk_lua_ref(L, vm_index, -1);
    lua_pop(L, 1);
    return ref;
}

/* The table has read and write, one at least, and nothing else. */
static void check_handlers(lua_State *L, int index)
{
    bool any = false;
    luaL_checktype(L, index, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
        if (strcmp(key, "read") != 0 && strcmp(key, "write") != 0)
            luaL_error(L, "unknown handler '%s': a port has 'read' and 'write'", key);
        if (!lua_isfunction(L, -1))
            luaL_error(L, "handler '%s' is a %s, not a function", key, luaL_typename(L, -1));
        any = true;
    }
    luaL_argcheck(L, any, index, "neither read nor write");
}

static int add_hook(lua_State *L, bool override)
{
    struct mk_lua_vm *v = mk_check_child(L, 1, MK_PORTS);
    uint16_t first = check_port(L, 2);
    bool ranged = !lua_istable(L, 3);
    uint16_t last = ranged ? check_port(L, 3) : first;
    int table = ranged ? 4 : 3;
    const char *owner;
    luaL_argcheck(L, last >= first, 3, "the last port comes before the first");
    check_handlers(L, table);
    int owned = override ? -1 : mk_bus_owned(&v->vm.m.bus, first, last, &owner);
    if (owned >= 0) {
        char number[16]; /* luaL_error() knows no %x */
        snprintf(number, sizeof(number), "0x%x", (unsigned)owned);
        return luaL_error(L, "port %s belongs to %s: use override() to go on top of it", number,
                          owner);
    }
    lua_getiuservalue(L, 1, 1);
    int vm_index = lua_gettop(L);
    struct mk_handle *handle = mk_new_handle(L, vm_index);
    handle->removed = true; /* until it is in place */
    int read_ref = check_function(L, vm_index, table, "read");
    int write_ref = check_function(L, vm_index, table, "write");
    struct lua_hook *h = malloc(sizeof(*h));
    if (h) {
        *h = (struct lua_hook){ .v = v, .read_ref = read_ref, .write_ref = write_ref,
                                .with_next = override };
        h->hook = mk_bus_hook(&v->vm.m.bus, first, last, ops_for(read_ref, write_ref), h);
    }
    if (!h || !h->hook) {
        free(h);
        return luaL_error(L, "out of memory for a port handler");
    }
    *handle = (struct mk_handle){ .remove = port_remove, .count = port_hits, .target = h };
    return 1;
}

static int ports_on(lua_State *L)
{
    return add_hook(L, false);
}

static int ports_override(lua_State *L)
{
    return add_hook(L, true);
}

void mk_open_ports(lua_State *L)
{
    static const luaL_Reg methods[] = { { "on", ports_on }, { "override", ports_override },
                                        { NULL, NULL } };
    mk_new_type(L, MK_PORTS, NULL, methods);
}
