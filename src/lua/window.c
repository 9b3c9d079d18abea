/* window.c - windows of BARs and of configuration space as objects: those that the methods of
 * vm.ports and vm.mmio take, too. See hooks.h.
 *
 * A window keeps what it is a part of, and the handles of what is hooked there, which go when the
 * PCI function is detached. */
#include "lua/hooks.h"

#include <string.h>

#define MANY_HANDLES 64

/* Those that are removed are not worth keeping. */
static void drop_removed(lua_State *L, lua_Integer count)
{
    lua_Integer kept = 0;
    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(L, -1, i);
        const struct mk_handle *h = lua_touserdata(L, -1);
        if (h->removed)
            lua_pop(L, 1);
        else
            lua_rawseti(L, -2, ++kept);
    }
    for (lua_Integer i = kept + 1; i <= count; i++) {
        lua_pushnil(L);
        lua_rawseti(L, -2, i);
    }
}

void mk_window_keep(lua_State *L)
{
    if (!luaL_testudata(L, 1, MK_WINDOW))
        return;
    lua_getiuservalue(L, 1, 2);
    if (lua_rawlen(L, -1) % MANY_HANDLES == MANY_HANDLES - 1)
        drop_removed(L, (lua_Integer)lua_rawlen(L, -1));
    lua_Integer count = (lua_Integer)lua_rawlen(L, -1);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, count + 1);
    lua_pop(L, 1);
}

void mk_window_push(lua_State *L, int owner, struct mk_bus *bus, uint64_t size)
{
    owner = lua_absindex(L, owner);
    struct mk_window *w = lua_newuserdatauv(L, sizeof(*w), 2);
    *w = (struct mk_window){ .bus = bus, .size = size };
    lua_getiuservalue(L, owner, 1);
    lua_setiuservalue(L, -2, 1);
    lua_createtable(L, 0, 1);
    lua_pushvalue(L, owner);
    lua_setfield(L, -2, "owner");
    lua_setiuservalue(L, -2, 2);
    mk_set_type(L, MK_WINDOW);
}

/* window_close(window): what is hooked there is taken off, and nothing more can be. */
static int window_close(lua_State *L)
{
    mk_check_child(L, 1, MK_WINDOW);
    struct mk_window *w = lua_touserdata(L, 1);
    w->closed = true;
    lua_getiuservalue(L, 1, 2);
    for (lua_Integer i = 1; lua_rawgeti(L, -1, i) == LUA_TUSERDATA; i++) {
        lua_getfield(L, -1, "remove");
        lua_insert(L, -2);
        lua_call(L, 1, 0);
    }
    return 0;
}

/* window.size: bytes; window.io: whether it is of ports */
static int window_index(lua_State *L)
{
    const struct mk_window *w = luaL_checkudata(L, 1, MK_WINDOW);
    if (strcmp(luaL_checkstring(L, 2), "size") == 0) {
        lua_pushinteger(L, (lua_Integer)w->size);
    } else if (strcmp(lua_tostring(L, 2), "io") == 0) {
        lua_pushboolean(L, w->bus->space == MK_SPACE_PORTS);
    } else {
        lua_pushvalue(L, 2);
        lua_gettable(L, lua_upvalueindex(1));
    }
    return 1;
}

static const luaL_Reg meta[] = { { "__index", window_index }, MK_END };
static const luaL_Reg core[] = { MK_FN(window_close), MK_END };

MK_EXPORTS = { { .type = MK_WINDOW, .meta = meta, .core = core } };
