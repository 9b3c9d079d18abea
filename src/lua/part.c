/* part.c - the parts of the module that are written in Lua.
 *
 * They are inside this object (embed.S, made by the Makefile from lua/minikvm; in the program
 * embed_program.S, the same as bytecode), so that one file is the whole module. */
#include "lua/core.h"

#include <string.h>

struct embedded {
    const char *name;
    const char *start, *end;
};

extern const struct embedded mk_embedded[]; /* ends with a NULL name */

/* Pushes the chunk of a part. */
static void push_chunk(lua_State *L, const struct embedded *e)
{
    char chunk[80];
    strcpy(chunk, "@minikvm/");
    strncat(chunk, e->name, 50);
    for (char *dot = strchr(chunk, '.'); dot; dot = strchr(dot, '.'))
        *dot = '/';
    strcat(chunk, ".lua");
    if (luaL_loadbufferx(L, e->start, (size_t)(e->end - e->start), chunk, "bt") != LUA_OK)
        lua_error(L);
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

/* package.preload["minikvm.NAME"]: compiled when first required. */
static int preload(lua_State *L)
{
    push_chunk(L, lua_touserdata(L, lua_upvalueindex(1)));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, 1);
    return 1;
}

/* __index of package.preload: what is not in it may be a part. */
static int preloader(lua_State *L)
{
    const char *name = lua_tostring(L, 2);
    const struct embedded *e = name && strncmp(name, "minikvm.", 8) == 0 ? find(name + 8) : NULL;
    if (!e)
        return 0;
    lua_pushlightuserdata(L, (void *)e);
    lua_pushcclosure(L, preload, 1);
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
