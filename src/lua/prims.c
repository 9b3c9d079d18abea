/* prims.c - what C answers for a script: const, latch, sink, fifo, source, match, doorbell. What a
 * script gives is checked in lua/minikvm/device/hooks.lua. They go on top of whatever is there. */
#include "lua/hooks.h"

#include <stdlib.h>
#include <string.h>

/* Called when the bus frees the primitive. */
static void retire(void *ctx)
{
    free(ctx);
}

/* --- the functions of a script --- */

static void on_record(void *ctx, struct mk_cpu *cpu, const char *bytes, size_t length)
{
    const struct mk_lua_hook *h = ctx;
    mk_lua_notify(h->v, cpu->index, NULL, &h->write_ref, "s", bytes, length);
}

static void on_empty(void *ctx, struct mk_cpu *cpu)
{
    const struct mk_lua_hook *h = ctx;
    mk_lua_notify(h->v, cpu->index, NULL, &h->write_ref, "");
}

static void on_match(void *ctx, struct mk_io *io)
{
    const struct mk_lua_hook *h = ctx;
    mk_lua_notify(h->v, io->cpu->index, NULL, &h->write_ref, "iii", io->address, h->prim->value,
                  (uint64_t)io->size);
}

static void on_ring(void *ctx, struct mk_cpu *cpu, uint64_t count)
{
    const struct mk_lua_hook *h = ctx;
    mk_lua_notify(h->v, cpu->index, NULL, &h->write_ref, "i", count);
}

/* --- putting one into place --- */

static unsigned stride_of(const struct mk_bus *bus)
{
    return bus->space == MK_SPACE_MSRS ? 8 : 1;
}

static void check_latch(lua_State *L, const struct mk_range *r)
{
    if (r->last - r->first >= MK_LATCH_MAX)
        mk_lua_error(L, "a latch has 16 MiB at most");
    if (r->v->latched >= MK_LATCHES_MAX)
        mk_lua_error(L,
                     "the latches of vm \"%s\" hold %u MiB, the most there may be: remove() some",
                     r->v->vm.name, MK_LATCHES_MAX >> 20);
}

/* prim(object, first, last, "const" | …, owner | nil, fn | nil, value | nil, size | nil) -> handle.
 * `value` of a fifo: the byte that ends a record, or -1; `size`: of a record. */
static int prim(lua_State *L)
{
    static const char *const kinds[] = {
        "const", "latch", "sink", "fifo", "match", "source", NULL
    };
    static const struct mk_io_ops *const ops[] = { &mk_const_ops, &mk_latch_ops, &mk_sink_ops,
                                                   &mk_fifo_ops,  &mk_match_ops, &mk_source_ops };
    struct mk_range r = mk_check_range(L);
    const struct mk_io_ops *kind = ops[luaL_checkoption(L, 4, NULL, kinds)];
    uint64_t value = (uint64_t)luaL_optinteger(L, 7, 0);
    size_t size = (size_t)luaL_optinteger(L, 8, MK_FIFO_RECORD);
    bool latch = kind == &mk_latch_ops;
    if (latch)
        check_latch(L, &r);
    lua_settop(L, 8);
    lua_getiuservalue(L, 1, 1);
    int ref = lua_isnil(L, 6) ? LUA_NOREF : mk_lua_ref(L, 9, 6);
    const char *owner = lua_tostring(L, 5);
    struct mk_lua_hook *h = mk_hook_new(L, &r);
    struct mk_prim *p =
        latch ? mk_prim_new_latch(r.first, r.last, stride_of(r.bus), value) : mk_prim_new();
    if (!p) {
        free(h);
        mk_lua_unref(L, 9, ref);
        return mk_lua_error(L, "out of memory for a %s", kind->name);
    }
    h->prim = p;
    h->write_ref = ref;
    p->value = value;
    p->on = (int)value;
    p->record_size = size < MK_FIFO_RECORD ? size : MK_FIFO_RECORD;
    p->on_record = on_record;
    p->on_match = on_match;
    p->on_empty = ref == LUA_NOREF ? NULL : on_empty;
    p->ctx = h;
    p->on_retire = retire;
    mk_hook_place(L, &r, h, kind, p, owner);
    r.v->latched += p->length;
    return 1;
}

/* --- doorbell --- */

struct lua_bell {
    struct mk_doorbell bell; /* first: freed with it */
    struct mk_lua_hook h;
};

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
    mk_lua_unref(L, vm_index, b->h.write_ref);
    b->h.write_ref = LUA_NOREF;
    mk_doorbell_remove(&b->bell);
}

/* doorbell(object, address, size, value | nil, fn, owner) -> handle: `size` is that of the write.
 */
static int doorbell(lua_State *L)
{
    struct mk_range r = mk_check_bus(L);
    bool mmio = mk_bus_root(r.bus)->space == MK_SPACE_MMIO;
    bool any = lua_isnoneornil(L, 4);
    uint64_t address = (uint64_t)luaL_checkinteger(L, 2);
    uint8_t size = (uint8_t)luaL_checkinteger(L, 3);
    const char *owner = lua_tostring(L, 6);
    struct mk_err err;
    lua_settop(L, 6);
    lua_getiuservalue(L, 1, 1);
    struct mk_handle *handle = mk_new_handle(L, 7);
    mk_window_keep(L);
    int ref = mk_lua_ref(L, 7, 5);
    struct lua_bell *b = calloc(1, sizeof(*b));
    if (!b)
        return mk_lua_error(L, "out of memory for a doorbell");
    b->h = (struct mk_lua_hook){ .v = r.v, .bus = r.bus, .read_ref = LUA_NOREF, .write_ref = ref };
    b->bell = (struct mk_doorbell){ .mmio = mmio,
                                    .any = any,
                                    .size = size,
                                    .bus = r.bus,
                                    .address = address,
                                    .value = any ? 0 : (uint64_t)lua_tointeger(L, 4),
                                    .ring = on_ring,
                                    .ctx = &b->h };
    if (mk_doorbell_add(&r.v->vm.doorbells, &b->bell, owner, &err) < 0) {
        free(b);
        mk_lua_unref(L, 7, ref);
        return mk_lua_error(L, "%s", err.text);
    }
    *handle = (struct mk_handle){ .remove = bell_remove, .count = bell_hits, .target = b };
    return 1;
}

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
    const struct mk_io_ops *has = h ? h->hook->ops : NULL;
    if (!h || (has != ops && !(ops == &mk_latch_ops && has == &mk_const_ops) &&
               !(ops == &mk_fifo_ops && has == &mk_source_ops)))
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

/* handle:take() of a fifo: what is collected of an unfinished record; of a source: what waits. */
static int handle_take(lua_State *L)
{
    struct mk_prim *p = check_prim(L, &mk_fifo_ops);
    luaL_Buffer b;
    char *to = luaL_buffinitsize(L, &b, MK_FIFO_RECORD);
    luaL_pushresultsize(&b, mk_prim_take(p, to, MK_FIFO_RECORD));
    return 1;
}

/* handle:put(bytes) of a source: what is read next, behind what waits */
static int handle_put(lua_State *L)
{
    struct mk_prim *p = check_prim(L, &mk_source_ops);
    size_t length;
    const char *bytes = luaL_checklstring(L, 2, &length);
    if (!mk_prim_put(p, bytes, length))
        return mk_lua_error(L, "a source holds %d bytes at most", MK_FIFO_RECORD);
    return 0;
}

static const luaL_Reg handle_methods[] = { { "get", handle_get },
                                           { "set", handle_set },
                                           { "take", handle_take },
                                           { "put", handle_put },
                                           { NULL, NULL } };

static const luaL_Reg core[] = { MK_FN(prim), MK_FN(doorbell), MK_END };

MK_EXPORTS = { { .extends = MK_HANDLE, .methods = handle_methods, .core = core } };
