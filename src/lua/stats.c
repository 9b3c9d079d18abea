/* stats.c - the numbers behind vm:stats() (lua/minikvm/vm/stats.lua): what each hook served. */
#include "lua/hooks.h"

#include <string.h>

/* What is known of a hook, copied: Lua may raise, and must not while the bus is locked. */
struct row {
    uint64_t first, last, hits, coalesced, ns;
    bool script;
    char owner[64];
};

struct rows {
    struct row *row; /* the first `room` of them */
    size_t room, count;
};

static void add_row(struct rows *rows, struct row row, const char *owner)
{
    memcpy(row.owner, owner, strlen(owner));
    if (rows->count < rows->room)
        rows->row[rows->count] = row;
    rows->count++;
}

/* Those in windows with the addresses at which guests see them. */
static void add_hooks(struct rows *rows, struct mk_bus *bus, uint64_t base)
{
    for (struct mk_hook *h = bus->hooks; h; h = h->link)
        if (mk_bus_window_of(h))
            add_hooks(rows, mk_bus_window_of(h), h->first);
        else
            add_row(rows,
                    (struct row){ .first = base + h->first,
                                  .last = base + h->last,
                                  .hits = atomic_load(&h->hits),
                                  .coalesced = atomic_load(&h->coalesced),
                                  .ns = atomic_load(&h->ns),
                                  .script = h->ops->script },
                    h->owner);
}

static void add_all(struct rows *rows, struct mk_bus *bus)
{
    pthread_mutex_lock(&bus->lock);
    add_hooks(rows, bus, 0);
    for (unsigned i = 0; i < bus->unhandled_count; i++)
        add_row(rows,
                (struct row){ .first = bus->unhandled[i].address,
                              .last = bus->unhandled[i].address,
                              .hits = bus->unhandled[i].count },
                "");
    pthread_mutex_unlock(&bus->lock);
}

/* stats(vm, space) -> { { first, last, hits, coalesced, seconds, script, owner | nil }, ... } */
static int stats(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    static const char *const spaces[] = { "port", "mmio", "msr", NULL };
    struct mk_bus *buses[] = { &v->vm.bus, &v->vm.mmio, &v->vm.msrs };
    struct mk_bus *bus = buses[luaL_checkoption(L, 2, NULL, spaces)];
    struct rows rows = { 0 };
    add_all(&rows, bus); /* counts them */
    rows = (struct rows){ .room = rows.count };
    rows.row = lua_newuserdatauv(L, rows.room * sizeof(*rows.row), 0);
    add_all(&rows, bus);
    lua_createtable(L, (int)rows.room, 0);
    for (size_t i = 0; i < rows.count && i < rows.room; i++) {
        const struct row *r = &rows.row[i];
        lua_createtable(L, 0, 8);
        mk_set_integer(L, "first", r->first);
        mk_set_integer(L, "last", r->last);
        mk_set_integer(L, "hits", r->hits);
        mk_set_integer(L, "coalesced", r->coalesced);
        mk_set_seconds(L, "seconds", r->ns);
        mk_set_boolean(L, "script", r->script);
        if (r->owner[0])
            mk_set_string(L, "owner", r->owner);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* timing(vm, on): whether the time spent in hooks is measured. */
static int timing(lua_State *L)
{
    struct mk_vm *vm = &mk_check_vm(L, 1)->vm;
    vm->bus.timing = vm->mmio.timing = vm->msrs.timing = lua_toboolean(L, 2);
    return 0;
}

static const luaL_Reg core[] = { MK_FN(stats), MK_FN(timing), MK_END };

MK_EXPORTS = { { .core = core } };
