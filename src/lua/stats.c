/* stats.c - the numbers behind vm:stats() (lua/minikvm/vm/stats.lua): what each hook served. */
#include "lua/hooks.h"

#include <stdlib.h>
#include <string.h>

/* What is known of a hook, copied: Lua may raise, and must not while the bus is locked. */
struct row {
    uint64_t first, last, hits, coalesced, ns;
    bool script;
    char owner[64];
};

static size_t count_hooks(struct mk_bus *bus)
{
    size_t n = 0;
    for (const struct mk_hook *h = bus->hooks; h; h = h->link)
        n += mk_bus_window_of(h) ? count_hooks(mk_bus_window_of(h)) : 1;
    return n;
}

/* Those in windows with the addresses at which guests see them. Returns how many. */
static size_t copy_list(struct mk_bus *bus, uint64_t base, struct row *rows)
{
    size_t n = 0;
    for (struct mk_hook *h = bus->hooks; h; h = h->link) {
        if (mk_bus_window_of(h)) {
            n += copy_list(mk_bus_window_of(h), h->first, rows + n);
            continue;
        }
        rows[n] = (struct row){ .first = base + h->first,
                                .last = base + h->last,
                                .hits = atomic_load(&h->hits),
                                .coalesced = atomic_load(&h->coalesced),
                                .ns = atomic_load(&h->ns),
                                .script = h->ops->script };
        memcpy(rows[n++].owner, h->owner, sizeof(h->owner));
    }
    return n;
}

static struct row *copy_hooks(struct mk_bus *bus, size_t *count)
{
    pthread_mutex_lock(&bus->lock);
    struct row *rows = calloc(count_hooks(bus) + bus->unhandled_count + 1, sizeof(*rows));
    size_t n = rows ? copy_list(bus, 0, rows) : 0;
    for (unsigned i = 0; rows && i < bus->unhandled_count; i++)
        rows[n++] = (struct row){ .first = bus->unhandled[i].address,
                                  .last = bus->unhandled[i].address,
                                  .hits = bus->unhandled[i].count };
    pthread_mutex_unlock(&bus->lock);
    *count = n;
    return rows;
}

/* stats(vm, space) -> { { first, last, hits, coalesced, seconds, script, owner | nil }, ... } */
static int stats(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    static const char *const spaces[] = { "port", "mmio", "msr", NULL };
    struct mk_bus *buses[] = { &v->vm.bus, &v->vm.mmio, &v->vm.msrs };
    size_t count;
    struct mk_bus *bus = buses[luaL_checkoption(L, 2, NULL, spaces)];
    struct row **box = lua_newuserdatauv(L, sizeof(*box), 0); /* freed whatever happens */
    *box = NULL;
    luaL_setmetatable(L, "minikvm.rows");
    *box = copy_hooks(bus, &count);
    lua_createtable(L, (int)count, 0);
    for (size_t i = 0; i < count; i++) {
        const struct row *r = &(*box)[i];
        lua_createtable(L, 0, 8);
        mk_set_integer(L, "first", r->first);
        mk_set_integer(L, "last", r->last);
        mk_set_integer(L, "hits", r->hits);
        mk_set_integer(L, "coalesced", r->coalesced);
        lua_pushnumber(L, (lua_Number)r->ns / 1e9);
        lua_setfield(L, -2, "seconds");
        lua_pushboolean(L, r->script);
        lua_setfield(L, -2, "script");
        if (r->owner[0])
            mk_set_string(L, "owner", r->owner);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int rows_gc(lua_State *L)
{
    struct row **box = lua_touserdata(L, 1);
    free(*box);
    *box = NULL;
    return 0;
}

/* timing(vm, on): whether the time spent in hooks is measured. */
static int timing(lua_State *L)
{
    struct mk_vm *vm = &mk_check_vm(L, 1)->vm;
    vm->bus.timing = vm->mmio.timing = vm->msrs.timing = lua_toboolean(L, 2);
    return 0;
}

static const luaL_Reg core[] = { MK_FN(stats), MK_FN(timing), MK_END };
static const luaL_Reg rows_meta[] = { { "__gc", rows_gc }, MK_END };

const struct mk_exports mk_stats_exports[] = {
    { .type = "minikvm.rows", .meta = rows_meta, .core = core }, MK_END
};
