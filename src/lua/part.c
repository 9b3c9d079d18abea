/* part.c - the parts of the module that are written in Lua.
 *
 * They are inside this object (embed.S, made by the Makefile from lua/minikvm; in the program
 * embed_program.S, the same as bytecode), so that one file is the whole module. */
#include "lua/core.h"

#include <string.h>

#define PREFIX "minikvm."

struct embedded {
    const char *name;
    const char *start, *end;
};

extern const struct embedded mk_embedded[]; /* ends with a NULL name */

/* Pushes the chunk of a part. */
static void push_chunk(lua_State *L, const struct embedded *e)
{
    const char *path = luaL_gsub(L, e->name, ".", "/");
    const char *chunk = lua_pushfstring(L, "@minikvm/%s.lua", path);
    if (luaL_loadbufferx(L, e->start, (size_t)(e->end - e->start), chunk, "bt") != LUA_OK)
        lua_error(L);
    lua_replace(L, -3);
    lua_pop(L, 1);
}

static const struct embedded *find(const char *name)
{
    const struct embedded *e = mk_embedded;
    while (e->name && strcmp(e->name, name) != 0)
        e++;
    return e->name ? e : NULL;
}

void mk_lua_part(lua_State *L, const char *name)
{
    const struct embedded *e = find(name);
    if (!e)
        luaL_error(L, "minikvm has no part \"%s\"", name);
    push_chunk(L, e);
}

/* load("minikvm.NAME", …) -> what the part returns. The module comes before any part of it, and may
 * bring this one. */
int mk_lua_load_part(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    luaL_argcheck(L, strncmp(name, PREFIX, strlen(PREFIX)) == 0, 1, "minikvm.NAME expected");
    lua_settop(L, 1);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    if (lua_getfield(L, 2, "minikvm.core") == LUA_TNIL) {
        lua_getglobal(L, "require");
        lua_pushliteral(L, "minikvm");
        lua_call(L, 1, 0);
        if (lua_getfield(L, 2, name) != LUA_TNIL)
            return 1;
    }
    mk_lua_part(L, name + strlen(PREFIX));
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

/* __index of package.preload: what is not in it may be a part. init.lua is the module. */
static int preloader(lua_State *L)
{
    const char *name = lua_tostring(L, 2);
    if (!name || strncmp(name, PREFIX, strlen(PREFIX)) != 0)
        return 0;
    name += strlen(PREFIX);
    if (!find(name) || strcmp(name, "init") == 0)
        return 0;
    lua_pushcfunction(L, mk_lua_load_part);
    return 1;
}

void mk_lua_preload(lua_State *L)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, preloader);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    lua_pop(L, 1);
}

void mk_lua_offer(lua_State *L, lua_CFunction open_module)
{
    mk_lua_preload(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushcfunction(L, open_module);
    lua_setfield(L, -2, "minikvm");
    lua_pop(L, 1);
}
