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

void mk_lua_part(lua_State *L, const char *name)
{
    const struct embedded *e = mk_embedded;
    while (e->name && strcmp(e->name, name) != 0)
        e++;
    if (!e->name)
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

void mk_lua_preload(lua_State *L)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    for (const struct embedded *e = mk_embedded; e->name; e++) {
        lua_pushfstring(L, "minikvm.%s", e->name);
        lua_pushlightuserdata(L, (void *)e);
        lua_pushcclosure(L, preload, 1);
        lua_settable(L, -3);
    }
    lua_pop(L, 1);
}
