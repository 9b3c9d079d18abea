/* coroutine.c - coroutine.wrap and xpcall that know of guards (limit.h), for Lua states of our own:
 * those of the program and of workers. What `require` is called in keeps its own.
 *
 * They do what Lua's do (lcorolib.c, lbaselib.c), but for an error of the watchdog's hook: hooks
 * are off in what handles it, which could then go on for ever. So xpcall() does not hand it to the
 * script's message handler, and a coroutine that it ended is not closed. Belongs to the holder of
 * the Lua lock. */
#include "lua/core.h"

static struct mk_lua *lua_of(lua_State *L)
{
    return lua_touserdata(L, lua_upvalueindex(1));
}

static bool is_due(const struct mk_lua *lua)
{
    return lua->watchdog && lua->watchdog->due;
}

/* As in lcorolib.c: the number of results moved to L, or -1 with a message. */
static int resume(lua_State *L, lua_State *co)
{
    int arguments = lua_gettop(L), count;
    if (!lua_checkstack(co, arguments)) {
        lua_pushliteral(L, "too many arguments to resume");
        return -1;
    }
    lua_xmove(L, co, arguments);
    int status = lua_resume(co, L, arguments, &count);
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_xmove(co, L, 1);
        return -1;
    }
    if (!lua_checkstack(L, count + 1)) {
        lua_pop(co, count);
        lua_pushliteral(L, "too many results to resume");
        return -1;
    }
    lua_xmove(co, L, count);
    return count;
}

static int wrapped(lua_State *L)
{
    lua_State *co = lua_tothread(L, lua_upvalueindex(2));
    int count = resume(L, co);
    if (count >= 0)
        return count;
    int status = lua_status(co);
    if (status != LUA_OK && status != LUA_YIELD && !is_due(lua_of(L)) &&
        lua_resetthread(co) != LUA_OK)
        lua_xmove(co, L, 1);
    if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
    }
    return lua_error(L);
}

static int co_wrap(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_State *co = lua_newthread(L);
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    lua_pushcclosure(L, wrapped, 2);
    return 1;
}

/* upvalue 2: the script's message handler */
static int handle_message(lua_State *L)
{
    if (is_due(lua_of(L)))
        return 1;
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, 1);
    return 1;
}

static int finish_xpcall(lua_State *L, int status, lua_KContext extra)
{
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_pushboolean(L, 0);
        lua_pushvalue(L, -2);
        return 2;
    }
    return lua_gettop(L) - (int)extra;
}

/* As in lbaselib.c. */
static int limited_xpcall(lua_State *L)
{
    int count = lua_gettop(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushvalue(L, 2);
    lua_pushcclosure(L, handle_message, 2);
    lua_replace(L, 2);
    lua_pushboolean(L, 1);
    lua_pushvalue(L, 1);
    lua_rotate(L, 3, 2);
    int status = lua_pcallk(L, count - 2, LUA_MULTRET, 2, 2, finish_xpcall);
    return finish_xpcall(L, status, 2);
}

static void replace(lua_State *L, const char *library, const luaL_Reg *functions)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    if (lua_getfield(L, -1, library) == LUA_TTABLE) {
        lua_pushlightuserdata(L, mk_lua_get(L));
        luaL_setfuncs(L, functions, 1);
    }
    lua_pop(L, 2);
}

void mk_coroutine_open(lua_State *L)
{
    static const luaL_Reg coroutines[] = { { "wrap", co_wrap }, { NULL, NULL } };
    static const luaL_Reg base[] = { { "xpcall", limited_xpcall }, { NULL, NULL } };
    replace(L, "coroutine", coroutines);
    replace(L, LUA_GNAME, base);
}
