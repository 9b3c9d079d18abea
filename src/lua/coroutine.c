/* coroutine.c - coroutine.resume, wrap, close and xpcall that know of guards (limit.h).
 *
 * They do what Lua's do (lcorolib.c, lbaselib.c), and note which coroutine runs, so that a signal's
 * handler knows whom to give the hook. xpcall() does not hand an error of the hook to the script's
 * message handler: hooks are off in there. Belongs to the holder of the Lua lock. */
#include "lua/core.h"

static struct mk_lua *lua_of(lua_State *L)
{
    return lua_touserdata(L, lua_upvalueindex(1));
}

static bool is_due(const struct mk_lua *lua)
{
    return lua->guard && lua->guard->due;
}

static lua_State *check_coroutine(lua_State *L)
{
    lua_State *co = lua_tothread(L, 1);
    luaL_argexpected(L, co, 1, "coroutine");
    return co;
}

/* As in lcorolib.c: the number of results moved to L, or -1 with a message. */
static int resume(lua_State *L, lua_State *co, int arguments)
{
    struct mk_lua *lua = lua_of(L);
    int count;
    if (!lua_checkstack(co, arguments)) {
        lua_pushliteral(L, "too many arguments to resume");
        return -1;
    }
    lua_xmove(L, co, arguments);
    lua_State *before = lua->running;
    lua->running = co;
    if (is_due(lua))
        mk_guard_arm(co);
    int status = lua_resume(co, L, arguments, &count);
    lua->running = before;
    if (is_due(lua))
        mk_guard_arm(L);
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

static int co_resume(lua_State *L)
{
    lua_State *co = check_coroutine(L);
    int count = resume(L, co, lua_gettop(L) - 1);
    lua_pushboolean(L, count >= 0);
    lua_insert(L, count >= 0 ? -(count + 1) : -2);
    return count >= 0 ? count + 1 : 2;
}

/* Runs the pending __close methods of a coroutine; false with a message on it when one failed. */
static bool reset(lua_State *L, lua_State *co)
{
    struct mk_lua *lua = lua_of(L);
    lua_State *before = lua->running;
    lua->running = co;
    if (is_due(lua))
        mk_guard_arm(co);
    bool fine = lua_resetthread(co) == LUA_OK;
    lua->running = before;
    if (is_due(lua))
        mk_guard_arm(L);
    return fine;
}

/* One that was ended by us is not closed: in there hooks are off. */
static int wrapped(lua_State *L)
{
    lua_State *co = lua_tothread(L, lua_upvalueindex(2));
    int count = resume(L, co, lua_gettop(L));
    if (count >= 0)
        return count;
    int status = lua_status(co);
    if (status != LUA_OK && status != LUA_YIELD && !is_due(lua_of(L)) && !reset(L, co))
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

/* The state of a coroutine other than that which calls: can it be closed? */
static const char *busy_state(lua_State *L, lua_State *co)
{
    lua_Debug ar;
    if (L == co)
        return "running";
    return lua_status(co) == LUA_OK && lua_getstack(co, 0, &ar) ? "normal" : NULL;
}

static int co_close(lua_State *L)
{
    lua_State *co = check_coroutine(L);
    const char *busy = busy_state(L, co);
    if (busy)
        return luaL_error(L, "cannot close a %s coroutine", busy);
    bool fine = reset(L, co);
    lua_pushboolean(L, fine);
    if (fine)
        return 1;
    lua_xmove(co, L, 1);
    return 2;
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
    static const luaL_Reg coroutines[] = { { "resume", co_resume }, { "wrap", co_wrap },
                                           { "close", co_close }, { NULL, NULL } };
    static const luaL_Reg base[] = { { "xpcall", limited_xpcall }, { NULL, NULL } };
    replace(L, "coroutine", coroutines);
    replace(L, LUA_GNAME, base);
}
