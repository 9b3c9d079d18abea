/* exports.c - the functions and kinds of objects that files give to Lua: each is made when it is
 * first asked for. See core.h. */
#include "lua/core.h"

#include <string.h>

int mk_unknown_field(lua_State *L, const char *type, bool set)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_getfield(L, -1, "minikvm.strict");
    lua_getfield(L, -1, "unknown");
    lua_pushstring(L, type);
    lua_pushvalue(L, 2);
    lua_pushboolean(L, set);
    lua_call(L, 3, 0); /* raises */
    return 0;
}

static int no_field(lua_State *L)
{
    return mk_unknown_field(L, lua_tostring(L, lua_upvalueindex(1)), lua_gettop(L) > 2);
}

/* Pushes the methods and the metatable of a kind of objects. */
static void push_type(lua_State *L, const char *type, const luaL_Reg *meta, const luaL_Reg *methods)
{
    lua_newtable(L);
    if (methods)
        luaL_setfuncs(L, methods, 0);
    lua_newtable(L);
    lua_pushstring(L, type);
    lua_setfield(L, -2, "__name");
    lua_pushliteral(L, "locked");
    lua_setfield(L, -2, "__metatable");
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "__index");
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "methods"); /* for the methods written in Lua */
    lua_createtable(L, 0, 1);       /* what the table of methods does not have */
    lua_pushstring(L, type);
    lua_pushcclosure(L, no_field, 1);
    lua_pushvalue(L, -1);
    lua_setfield(L, -4, "__newindex");
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -3);
    if (meta) {
        lua_pushvalue(L, -2); /* metamethods see the methods as their upvalue */
        luaL_setfuncs(L, meta, 1);
    }
}

/* All files' exports; the linker says where they are. */
extern const struct mk_exports __start_mk_exports[] __attribute__((visibility("hidden")));
extern const struct mk_exports __stop_mk_exports[] __attribute__((visibility("hidden")));
#define FOR_EXPORTS(e)                                                                             \
    for (const struct mk_exports *e = __start_mk_exports; e < __stop_mk_exports; e++)

static bool same(const char *a, const char *b)
{
    return a && a[0] == b[0] && strcmp(a, b) == 0;
}

/* Pushes what the files' exports make of a kind of objects: its methods and its metatable. */
static void push_exported_type(lua_State *L, const char *type)
{
    int top = lua_gettop(L);
    FOR_EXPORTS(e)
    if (same(e->type, type))
        push_type(L, type, e->meta, e->methods);
    if (lua_gettop(L) == top)
        luaL_error(L, "there are no objects of the kind %s", type);
    lua_pushvalue(L, -2);
    FOR_EXPORTS(e)
    if (same(e->extends, type))
        luaL_setfuncs(L, e->methods, 0);
    lua_pop(L, 1);
}

void mk_push_type(lua_State *L, const char *type)
{
    if (luaL_getmetatable(L, type) != LUA_TNIL)
        return;
    lua_pop(L, 1);
    push_exported_type(L, type);
    lua_remove(L, -2);
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, type);
}

void mk_set_type(lua_State *L, const char *type)
{
    mk_push_type(L, type);
    lua_setmetatable(L, -2);
}

void mk_new_type(lua_State *L, const char *type, const luaL_Reg *meta, const luaL_Reg *methods)
{
    push_type(L, type, meta, methods);
    lua_setfield(L, LUA_REGISTRYINDEX, type);
    lua_pop(L, 1);
}

/* Pushes the core's function or table of this name, when a file exports it. */
static bool push_exported(lua_State *L, const char *name)
{
    bool table = false;
    FOR_EXPORTS(e)
    {
        if (same(e->table, name)) {
            if (!table)
                lua_newtable(L);
            table = true;
            luaL_setfuncs(L, e->core, 0);
        }
        for (const luaL_Reg *f = e->table ? NULL : e->core; f && f->name; f++)
            if (same(f->name, name)) {
                lua_pushcfunction(L, f->func);
                return true;
            }
    }
    return table;
}

/* __index of the core: what is not in it yet. */
static int core_index(lua_State *L)
{
    const char *name = lua_tostring(L, 2);
    if (!name || !push_exported(L, name))
        return 0;
    lua_pushvalue(L, 2);
    lua_pushvalue(L, -2);
    lua_rawset(L, 1);
    return 1;
}

void mk_open_exports(lua_State *L)
{
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, core_index);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    FOR_EXPORTS(e)
    if (e->open)
        e->open(L);
}
