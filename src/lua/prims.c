/* prims.c - what C answers for a script: const, latch, sink, fifo, match, doorbell. Methods of
 * vm.ports, vm.mmio and (but for doorbell) vm.msrs; they go on top of whatever is there. */
#include "lua/hooks.h"

#include <stdlib.h>
#include <string.h>

/* Called when the bus frees the primitive. */
static void retire(void *ctx)
{
    free(ctx);
}

/* Puts a primitive into place; both are freed when that fails. */
static int place(lua_State *L, const struct mk_range *r, struct mk_prim *prim,
                 const struct mk_io_ops *ops, const char *owner)
{
    if (!prim)
        return mk_lua_error(L, "out of memory for a %s", ops->name);
    int ref = LUA_NOREF;
    if (lua_isfunction(L, -1)) {
        lua_getiuservalue(L, 1, 1);
        ref = mk_lua_ref(L, -1, -2);
        lua_pop(L, 1);
    }
    struct mk_lua_hook *h = mk_hook_new(L, r);
    h->prim = prim;
    h->write_ref = ref;
    prim->ctx = h;
    prim->on_retire = retire;
    return mk_hook_place(L, r, h, ops, prim, owner);
}

/* const(range, value) -> handle */
static int prim_const(lua_State *L)
{
    struct mk_range r = mk_check_range(L, true);
    lua_Integer value = luaL_checkinteger(L, r.next);
    lua_settop(L, r.next);
    struct mk_prim *prim = mk_prim_new();
    if (prim)
        prim->value = (uint64_t)value;
    return place(L, &r, prim, &mk_const_ops, NULL);
}

static unsigned stride_of(const struct mk_bus *bus)
{
    return bus->space == MK_SPACE_MSRS ? 8 : 1;
}

/* Bytes that the latches of a bus hold: a script's cap on memory does not count them. */
static uint64_t latched(const struct mk_bus *bus)
{
    uint64_t sum = 0;
    for (const struct mk_hook *h = bus->hooks; h; h = h->link)
        if (h->ops == &mk_latch_ops)
            sum += (h->last - h->first + 1) * stride_of(bus);
    return sum;
}

/* latch(range [, initial]) -> handle */
static int prim_latch(lua_State *L)
{
    struct mk_range r = mk_check_range(L, true);
    lua_Integer value = luaL_optinteger(L, r.next, 0);
    luaL_argcheck(L, r.last - r.first < MK_LATCH_MAX, 2, "a latch has 16 MiB at most");
    const struct mk_machine *m = &r.v->vm.m;
    if (latched(&m->bus) + latched(&m->mmio) + latched(&m->msrs) >= MK_LATCHES_MAX)
        mk_lua_error(L,
                     "the latches of vm \"%s\" hold %u MiB, the most there may be: remove() some",
                     r.v->vm.name, MK_LATCHES_MAX >> 20);
    lua_settop(L, r.next);
    return place(L, &r, mk_prim_new_latch(r.first, r.last, stride_of(r.bus), (uint64_t)value),
                 &mk_latch_ops, NULL);
}

/* sink(range) -> handle */
static int prim_sink(lua_State *L)
{
    struct mk_range r = mk_check_range(L, false);
    lua_settop(L, r.next);
    return place(L, &r, mk_prim_new(), &mk_sink_ops, NULL);
}

/* --- fifo --- */

struct record {
    struct mk_hook_call call; /* first */
    const char *bytes;
    size_t length;
};

static int call_record(lua_State *co, struct mk_hook_call *c)
{
    const struct record *r = (const struct record *)c;
    lua_pushlstring(co, r->bytes, r->length);
    lua_call(co, 1, 0);
    return 0;
}

static void on_record(void *ctx, struct mk_cpu *cpu, const char *bytes, size_t length)
{
    struct mk_lua_hook *h = ctx;
    struct record r = { .call = { h, h->write_ref, call_record, false }, bytes, length };
    mk_hook_call(&r.call, cpu);
}

static void check_fifo(lua_State *L, int index, struct mk_prim *prim)
{
    size_t length = 0;
    prim->on = -1;
    prim->record_size = MK_FIFO_RECORD;
    const char *on = mk_string_field(L, index, "on", &length);
    if (on)
        prim->on = (uint8_t)on[0];
    lua_Integer size = mk_integer_field(L, index, "size", MK_FIFO_RECORD);
    prim->record_size = (size_t)size;
}

/* fifo(range, { on = byte | size = bytes }, fn(record)) -> handle */
static int prim_fifo(lua_State *L)
{
    struct mk_range r = mk_check_range(L, false);
    char owner[64];
    size_t length;
    int options = r.next;
    luaL_checktype(L, options, LUA_TTABLE);
    luaL_checktype(L, options + 1, LUA_TFUNCTION);
    for (lua_pushnil(L); lua_next(L, options); lua_pop(L, 1)) {
        const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
        bool on = strcmp(key, "on") == 0;
        if (!on && strcmp(key, "size") != 0)
            return mk_lua_error(L, "fifo: unknown option '%s': there are 'on' and 'size'", key);
        if (on && (lua_type(L, -1) != LUA_TSTRING || (lua_tolstring(L, -1, &length), length != 1)))
            return mk_lua_error(L, "fifo: 'on' is one byte, such as \"\\n\"");
        if (!on && (!lua_isinteger(L, -1) || lua_tointeger(L, -1) < 1 ||
                    lua_tointeger(L, -1) > MK_FIFO_RECORD))
            return mk_lua_error(L, "fifo: 'size' is 1 to %d bytes", MK_FIFO_RECORD);
    }
    lua_settop(L, options + 1);
    mk_describe_function(L, options + 1, owner, sizeof(owner));
    struct mk_prim *prim = mk_prim_new();
    if (prim) {
        check_fifo(L, options, prim);
        prim->on_record = on_record;
    }
    return place(L, &r, prim, &mk_fifo_ops, owner);
}

/* --- match --- */

struct matched {
    struct mk_hook_call call; /* first */
    const struct mk_io *io;
};

static int call_match(lua_State *co, struct mk_hook_call *c)
{
    const struct mk_io *io = ((const struct matched *)c)->io;
    lua_pushinteger(co, (lua_Integer)io->address);
    lua_pushinteger(co, (lua_Integer)c->h->prim->value);
    lua_pushinteger(co, io->size);
    lua_call(co, 3, 0);
    return 0;
}

static void on_match(void *ctx, struct mk_io *io)
{
    struct mk_lua_hook *h = ctx;
    struct matched m = { .call = { h, h->write_ref, call_match, false }, io };
    mk_hook_call(&m.call, io->cpu);
}

/* match(range, value, fn(address, value, size)) -> handle */
static int prim_match(lua_State *L)
{
    struct mk_range r = mk_check_range(L, true);
    char owner[64];
    lua_Integer value = luaL_checkinteger(L, r.next);
    luaL_checktype(L, r.next + 1, LUA_TFUNCTION);
    lua_settop(L, r.next + 1);
    mk_describe_function(L, r.next + 1, owner, sizeof(owner));
    struct mk_prim *prim = mk_prim_new();
    if (prim) {
        prim->value = (uint64_t)value;
        prim->on_match = on_match;
    }
    return place(L, &r, prim, &mk_match_ops, owner);
}

/* --- doorbell --- */

struct lua_bell {
    struct mk_doorbell bell; /* first: freed with it */
    struct mk_lua_hook h;
};

struct ring {
    struct mk_hook_call call; /* first */
    uint64_t count;
};

static int call_ring(lua_State *co, struct mk_hook_call *c)
{
    lua_pushinteger(co, (lua_Integer)((const struct ring *)c)->count);
    lua_call(co, 1, 0);
    return 0;
}

static void on_ring(void *ctx, struct mk_cpu *cpu, uint64_t count)
{
    struct mk_lua_hook *h = ctx;
    struct ring r = { .call = { h, h->write_ref, call_ring, false }, count };
    mk_hook_call(&r.call, cpu);
}

static uint64_t bell_hits(struct mk_lua_vm *v, struct mk_handle *handle)
{
    (void)v;
    const struct lua_bell *b = handle->target;
    return atomic_load(&b->bell.hook->hits);
}

static void bell_remove(lua_State *L, struct mk_lua_vm *v, struct mk_handle *handle, int vm_index)
{
    struct lua_bell *b = handle->target;
    (void)v;
    b->h.removed = true;
    mk_lua_unref(L, vm_index, b->h.write_ref);
    mk_doorbell_remove(&b->bell);
}

/* doorbell(port or base, size [, value], fn(count)) -> handle: `size` is that of the write. */
static int prim_doorbell(lua_State *L)
{
    bool mmio = luaL_testudata(L, 1, MK_MMIO) != NULL;
    struct mk_range r = mk_check_range(L, true);
    lua_Integer size = luaL_checkinteger(L, 3);
    bool any = !lua_isinteger(L, 4);
    char owner[64];
    struct mk_err err;
    luaL_argcheck(L, size == 1 || size == 2 || size == 4 || (mmio && size == 8), 3,
                  "a write has 1, 2 or 4 bytes, or 8 in memory");
    luaL_checktype(L, any ? 4 : 5, LUA_TFUNCTION);
    lua_settop(L, any ? 4 : 5);
    mk_describe_function(L, -1, owner, sizeof(owner));
    int fn = lua_gettop(L);
    lua_getiuservalue(L, 1, 1);
    int vm_index = lua_gettop(L);
    struct mk_handle *handle = mk_new_handle(L, vm_index);
    *handle = (struct mk_handle){ .removed = true };
    int ref = mk_lua_ref(L, vm_index, fn);
    struct lua_bell *b = calloc(1, sizeof(*b));
    if (!b)
        return mk_lua_error(L, "out of memory for a doorbell");
    b->h = (struct mk_lua_hook){ .v = r.v, .bus = r.bus, .read_ref = LUA_NOREF, .write_ref = ref };
    b->bell = (struct mk_doorbell){ .mmio = mmio,
                                    .any = any,
                                    .size = (uint8_t)size,
                                    .address = r.first,
                                    .value = any ? 0 : (uint64_t)lua_tointeger(L, 4),
                                    .ring = on_ring,
                                    .ctx = &b->h };
    if (mk_doorbell_add(&r.v->vm.doorbells, &b->bell, owner, &err) < 0) {
        free(b);
        mk_lua_unref(L, vm_index, ref);
        return mk_lua_error(L, "%s", err.text);
    }
    *handle = (struct mk_handle){ .remove = bell_remove, .count = bell_hits, .target = b };
    return 1;
}

static const luaL_Reg prim_methods[] = { { "const", prim_const }, { "latch", prim_latch },
                                         { "sink", prim_sink },   { "fifo", prim_fifo },
                                         { "match", prim_match }, { "doorbell", prim_doorbell },
                                         { NULL, NULL } };

/* --- what a handle can do --- */

static struct mk_prim *check_prim(lua_State *L, const struct mk_io_ops *ops)
{
    const struct mk_handle *handle = luaL_checkudata(L, 1, MK_HANDLE);
    lua_getiuservalue(L, 1, 1);
    const struct mk_lua_vm *v = lua_touserdata(L, -1);
    lua_pop(L, 1);
    if (handle->removed || !v->open)
        mk_lua_error(L, "the handle is removed, or its vm closed");
    const struct mk_lua_hook *h = handle->prim ? handle->target : NULL;
    if (!h || (h->hook->ops != ops && !(ops == &mk_latch_ops && h->hook->ops == &mk_const_ops)))
        mk_lua_error(L, "only the handle of a %s can do that", ops->name);
    return handle->prim;
}

static size_t check_place(lua_State *L, const struct mk_prim *p, int index, lua_Integer *size)
{
    uint64_t at = (uint64_t)luaL_optinteger(L, index, (lua_Integer)p->first) - p->first;
    *size = luaL_optinteger(L, index + 1, p->stride);
    luaL_argcheck(L, *size == 1 || *size == 2 || *size == 4 || *size == 8, index + 1,
                  "a size is 1, 2, 4 or 8");
    luaL_argcheck(L, at < p->length && mk_inside(at * p->stride, (uint64_t)*size, p->length), index,
                  "outside the latch");
    return (size_t)at * p->stride;
}

/* handle:get([address [, size]]) of a const or latch */
static int handle_get(lua_State *L)
{
    struct mk_prim *p = check_prim(L, &mk_latch_ops);
    lua_Integer size;
    if (!p->bytes) {
        lua_pushinteger(L, (lua_Integer)p->value);
        return 1;
    }
    size_t at = check_place(L, p, 2, &size);
    lua_pushinteger(L, (lua_Integer)mk_latch_load(p, at, (unsigned)size));
    return 1;
}

/* handle:set(value [, address [, size]]) of a const or latch */
static int handle_set(lua_State *L)
{
    struct mk_prim *p = check_prim(L, &mk_latch_ops);
    uint64_t value = (uint64_t)luaL_checkinteger(L, 2);
    lua_Integer size;
    if (!p->bytes) {
        __atomic_store_n(&p->value, value, __ATOMIC_RELAXED);
        return 0;
    }
    size_t at = check_place(L, p, 3, &size);
    luaL_argcheck(L, value <= mk_mask((unsigned)size), 2, "does not fit in its size");
    mk_latch_store(p, at, (unsigned)size, value);
    return 0;
}

/* handle:take() of a fifo: what is collected of an unfinished record. */
static int handle_take(lua_State *L)
{
    struct mk_prim *p = check_prim(L, &mk_fifo_ops);
    luaL_Buffer b;
    char *to = luaL_buffinitsize(L, &b, MK_FIFO_RECORD);
    luaL_pushresultsize(&b, mk_prim_take(p, to, MK_FIFO_RECORD));
    return 1;
}

static const luaL_Reg handle_methods[] = {
    { "get", handle_get }, { "set", handle_set }, { "take", handle_take }, { NULL, NULL }
};

static void add_methods(lua_State *L, const char *type, const luaL_Reg *methods)
{
    luaL_getmetatable(L, type);
    lua_getfield(L, -1, "methods");
    luaL_setfuncs(L, methods, 0);
    lua_pop(L, 2);
}

void mk_open_prims(lua_State *L)
{
    add_methods(L, MK_PORTS, prim_methods);
    add_methods(L, MK_MMIO, prim_methods);
    add_methods(L, MK_MSRS, prim_methods);
    add_methods(L, MK_HANDLE, handle_methods);
}
