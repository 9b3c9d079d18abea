/* string.c - what the string functions of --safe (lua/minikvm/cli/strings.lua) are made of: looking
 * for a pattern with a limit on the work, and for text in linear time. */
#include "io/pattern.h"
#include "lua/core.h"

#include <string.h>

#define STEPS 20000000u /* of one call; about a tenth of a second */

int mk_push_captures(lua_State *L, const char *s, const struct mk_match *m)
{
    luaL_checkstack(L, (int)m->captures + 1, "too many captures");
    for (unsigned i = 0; i < m->captures; i++) {
        if (m->capture[i].length == MK_CAPTURE_POSITION)
            lua_pushinteger(L, (lua_Integer)m->capture[i].start + 1);
        else
            lua_pushlstring(L, s + m->capture[i].start, m->capture[i].length);
    }
    return (int)m->captures;
}

/* match(s, pattern, from, steps | nil, tied) -> steps that are left, first, last, captures… of the
 * first match at or behind `from`, of one exactly there when `tied`, or steps that are left. */
static int match(lua_State *L)
{
    size_t length, plength;
    struct mk_match m;
    struct mk_err err;
    const char *s = luaL_checklstring(L, 1, &length), *p = luaL_checklstring(L, 2, &plength);
    size_t from = (size_t)luaL_checkinteger(L, 3) - 1;
    uint64_t steps = (uint64_t)luaL_optinteger(L, 4, STEPS);
    enum mk_pattern_result result = MK_PATTERN_NONE;
    if (mk_pattern_check(p, plength, &err) < 0)
        return mk_lua_error(L, "%s", err.text);
    if (from <= length)
        result = (lua_toboolean(L, 5) ? mk_pattern_at : mk_pattern_match)(s, length, from, p,
                                                                          plength, &steps, &m);
    if (result == MK_PATTERN_EXHAUSTED)
        return mk_lua_error(L, "the pattern takes too long: more than %d million steps",
                            STEPS / 1000000);
    lua_pushinteger(L, (lua_Integer)steps);
    if (result != MK_PATTERN_FOUND)
        return 1;
    lua_pushinteger(L, (lua_Integer)m.start + 1);
    lua_pushinteger(L, (lua_Integer)m.end);
    return 3 + mk_push_captures(L, s, &m);
}

/* find(s, text, from) -> first, last | nil */
static int find(lua_State *L)
{
    size_t length, tlength;
    const char *s = luaL_checklstring(L, 1, &length), *text = luaL_checklstring(L, 2, &tlength);
    size_t from = (size_t)luaL_checkinteger(L, 3) - 1;
    const char *at = NULL;
    if (from <= length)
        at = tlength ? memmem(s + from, length - from, text, tlength) : s + from;
    if (!at) {
        luaL_pushfail(L);
        return 1;
    }
    lua_pushinteger(L, at - s + 1);
    lua_pushinteger(L, at - s + (lua_Integer)tlength);
    return 2;
}

/* wrap(fn) -> fn, as a C function: one that is called last by a function of the script's leaves
 * that one's line for errors to name. */
static int call_wrapped(lua_State *L)
{
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

static int wrap(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_pushcclosure(L, call_wrapped, 1);
    return 1;
}

/* bounded_strings() -> { match=, find=, wrap= } */
int mk_lua_bounded_strings(lua_State *L)
{
    static const luaL_Reg functions[] = {
        { "match", match }, { "find", find }, { "wrap", wrap }, { NULL, NULL }
    };
    luaL_newlib(L, functions);
    return 1;
}
