/* string.c - string.find, match and gsub with a limit on the work, for --safe (cli/strings.lua).
 *
 * They follow the Lua 5.4 manual, section 6.4, on the matcher of pattern.h: a pattern made to take
 * exponential time is an error after STEPS steps. Looking for plain text takes linear time. */
#include "io/pattern.h"
#include "lua/core.h"

#include <string.h>

#define STEPS 20000000u /* of one call; about a tenth of a second */

struct subject {
    const char *s, *p;
    size_t ls, lp;
    uint64_t steps;
    struct mk_match m;
};

static void check_subject(lua_State *L, struct subject *t)
{
    t->s = luaL_checklstring(L, 1, &t->ls);
    t->p = luaL_checklstring(L, 2, &t->lp);
    t->steps = STEPS;
}

static void check_pattern(lua_State *L, const struct subject *t)
{
    struct mk_err err;
    if (mk_pattern_check(t->p, t->lp, &err) < 0)
        mk_lua_error(L, "%s", err.text);
}

static bool found(lua_State *L, enum mk_pattern_result result)
{
    if (result == MK_PATTERN_EXHAUSTED)
        mk_lua_error(L, "the pattern takes too long: more than %d million steps", STEPS / 1000000);
    return result == MK_PATTERN_FOUND;
}

/* --- captures --- */

/* Capture `i`, from 0; the whole match when there is none. */
static void push_capture(lua_State *L, const struct subject *t, unsigned i)
{
    if (i >= t->m.captures && i != 0)
        luaL_error(L, "invalid capture index %%%d", (int)i + 1);
    if (i >= t->m.captures)
        lua_pushlstring(L, t->s + t->m.start, t->m.end - t->m.start);
    else if (t->m.capture[i].length == MK_CAPTURE_POSITION)
        lua_pushinteger(L, (lua_Integer)t->m.capture[i].start + 1);
    else
        lua_pushlstring(L, t->s + t->m.capture[i].start, t->m.capture[i].length);
}

static int push_captures(lua_State *L, const struct subject *t, bool whole)
{
    unsigned count = t->m.captures == 0 && whole ? 1 : t->m.captures;
    luaL_checkstack(L, (int)count, "too many captures");
    for (unsigned i = 0; i < count; i++)
        push_capture(L, t, i);
    return (int)count;
}

/* --- find and match --- */

/* Offset that the optional argument `index` says, from 0; beyond `length` when it lies outside. */
static size_t initial(lua_State *L, int index, size_t length)
{
    lua_Integer init = luaL_optinteger(L, index, 1);
    if (init > 0)
        return (size_t)init - 1;
    if (init == 0 || init < -(lua_Integer)length)
        return 0;
    return length - (size_t)-init;
}

static bool is_plain(const struct subject *t)
{
    static const char special[] = "^$*+?.([%-";
    for (size_t i = 0; i < t->lp; i++)
        if (t->p[i] && strchr(special, t->p[i]))
            return false;
    return true;
}

static int find_plain(lua_State *L, const struct subject *t, size_t init)
{
    const char *at = t->lp ? memmem(t->s + init, t->ls - init, t->p, t->lp) : t->s + init;
    if (!at) {
        luaL_pushfail(L);
        return 1;
    }
    lua_pushinteger(L, at - t->s + 1);
    lua_pushinteger(L, at - t->s + (lua_Integer)t->lp);
    return 2;
}

/* Returns where the match is, and its captures; of a match() the captures alone, or all of it. */
static int matches(lua_State *L, bool find)
{
    struct subject t;
    check_subject(L, &t);
    size_t init = initial(L, 3, t.ls);
    if (init <= t.ls && find && lua_toboolean(L, 4))
        return find_plain(L, &t, init);
    if (init <= t.ls)
        check_pattern(L, &t);
    if (init > t.ls || !found(L, mk_pattern_match(t.s, t.ls, init, t.p, t.lp, &t.steps, &t.m))) {
        luaL_pushfail(L);
        return 1;
    }
    if (!find)
        return push_captures(L, &t, true);
    lua_pushinteger(L, (lua_Integer)t.m.start + 1);
    lua_pushinteger(L, (lua_Integer)t.m.end);
    return push_captures(L, &t, false) + 2;
}

static int string_find(lua_State *L)
{
    struct subject t;
    check_subject(L, &t);
    if (is_plain(&t)) {
        lua_settop(L, 3);
        lua_pushboolean(L, 1);
    }
    return matches(L, true);
}

/* next(s, pattern, init): as find(), but that a pattern without magic is one, too */
static int string_next(lua_State *L)
{
    return matches(L, true);
}

static int string_match(lua_State *L)
{
    return matches(L, false);
}

/* --- gsub --- */

static void add_text(lua_State *L, luaL_Buffer *b, const struct subject *t)
{
    size_t length;
    const char *r = lua_tolstring(L, 3, &length), *end = r + length;
    for (; r < end; r++) {
        if (*r != '%') {
            luaL_addchar(b, *r);
        } else if (++r < end && *r == '%') {
            luaL_addchar(b, '%');
        } else if (r < end && *r == '0') {
            luaL_addlstring(b, t->s + t->m.start, t->m.end - t->m.start);
        } else if (r < end && *r >= '1' && *r <= '9') {
            push_capture(L, t, (unsigned)(*r - '1'));
            luaL_tolstring(L, -1, NULL);
            lua_remove(L, -2);
            luaL_addvalue(b);
        } else {
            luaL_error(L, "invalid use of '%%' in replacement string");
        }
    }
}

/* Adds what stands for the match; the match itself for false and nil. */
static void add_replacement(lua_State *L, luaL_Buffer *b, const struct subject *t)
{
    int type = lua_type(L, 3);
    if (type == LUA_TFUNCTION) {
        lua_pushvalue(L, 3);
        lua_call(L, push_captures(L, t, true), 1);
    } else if (type == LUA_TTABLE) {
        push_capture(L, t, 0);
        lua_gettable(L, 3);
    } else {
        add_text(L, b, t);
        return;
    }
    if (!lua_toboolean(L, -1)) {
        lua_pop(L, 1);
        lua_pushlstring(L, t->s + t->m.start, t->m.end - t->m.start);
    } else if (!lua_isstring(L, -1)) {
        luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
    }
    luaL_addvalue(b);
}

static int string_gsub(lua_State *L)
{
    struct subject t;
    luaL_Buffer b;
    check_subject(L, &t);
    int type = lua_type(L, 3);
    luaL_argexpected(L,
                     type == LUA_TNUMBER || type == LUA_TSTRING || type == LUA_TFUNCTION ||
                         type == LUA_TTABLE,
                     3, "string/function/table");
    lua_Integer most = luaL_optinteger(L, 4, (lua_Integer)t.ls + 1), count = 0;
    check_pattern(L, &t);
    size_t anchor = t.lp > 0 && t.p[0] == '^', at = 0, last = 0; /* last: end of a match + 1 */
    luaL_buffinit(L, &b);
    while (count < most) {
        if (found(L, mk_pattern_at(t.s, t.ls, at, t.p + anchor, t.lp - anchor, &t.steps, &t.m)) &&
            t.m.end + 1 != last) {
            count++;
            add_replacement(L, &b, &t);
            at = t.m.end;
            last = at + 1;
        } else if (at < t.ls) {
            luaL_addchar(&b, t.s[at++]);
        } else {
            break;
        }
        if (anchor)
            break;
    }
    if (at < t.ls)
        luaL_addlstring(&b, t.s + at, t.ls - at);
    luaL_pushresult(&b);
    lua_pushinteger(L, count);
    return 2;
}

/* bounded_strings() -> a table of find, match, next and gsub */
int mk_lua_bounded_strings(lua_State *L)
{
    static const luaL_Reg functions[] = { { "find", string_find },
                                          { "match", string_match },
                                          { "next", string_next },
                                          { "gsub", string_gsub },
                                          { NULL, NULL } };
    luaL_newlib(L, functions);
    return 1;
}
