/* alloc.c - see alloc.h. */
#include "lua/alloc.h"

#include "lua/core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cap {
    lua_Alloc below; /* the state's own allocator */
    void *ud;
    size_t used, limit;
    const struct mk_lua *lua;
    size_t asked;   /* what was refused last; 0: nothing since something was granted */
    char now[100];  /* the line of that */
    char where[100]; /* the line of the last refusal that was one in the end; empty: none */
    char text[220];
};

static void settle(struct cap *cap)
{
    if (cap->now[0] && cap->now[0] != '?')
        memcpy(cap->where, cap->now, sizeof(cap->where));
    cap->asked = 0;
}

/* Lua asks a second time after a collection; buffers of C functions ask once. */
static void *refuse(struct cap *cap, size_t size)
{
    bool again = cap->asked == size;
    if (cap->asked && !again)
        settle(cap);
    if (!again)
        mk_lua_where(cap->lua->running, cap->now, sizeof(cap->now));
    cap->asked = size;
    if (again)
        settle(cap);
    return NULL;
}

static void grant(struct cap *cap, size_t size)
{
    if (cap->asked && cap->asked != size)
        settle(cap);
    cap->asked = 0;
}

/* The last block that is freed is the state itself: then the cap goes, too. */
static void *capped(void *ud, void *block, size_t old_size, size_t new_size)
{
    struct cap *cap = ud;
    size_t had = block ? old_size : 0; /* without a block it is a type */
    size_t left = cap->limit - (cap->used < cap->limit ? cap->used : cap->limit);
    if (new_size > had && new_size - had > left && !cap->lua->in_glue)
        return refuse(cap, new_size);
    void *now = cap->below(cap->ud, block, old_size, new_size);
    if (now || new_size == 0)
        cap->used += new_size - had;
    if (now && new_size > had)
        grant(cap, new_size);
    if (cap->used == 0)
        free(cap);
    return now;
}

static struct cap *cap_of(lua_State *L)
{
    void *ud;
    return lua_getallocf(L, &ud) == capped ? ud : NULL;
}

static size_t in_use(lua_State *L)
{
    return (size_t)lua_gc(L, LUA_GCCOUNT) * 1024 + (size_t)lua_gc(L, LUA_GCCOUNTB);
}

static void set_cap(lua_State *L, size_t limit)
{
    struct cap *cap = cap_of(L);
    lua_gc(L, LUA_GCCOLLECT);
    if (in_use(L) > limit)
        mk_misuse(L, "kvm.limit: %zu bytes are in use already, more than the %zu that 'memory' "
                     "allows", in_use(L), limit);
    if (!cap) {
        cap = calloc(1, sizeof(*cap));
        if (!cap)
            mk_misuse(L, "kvm.limit: out of memory");
        cap->below = lua_getallocf(L, &cap->ud);
        cap->lua = mk_lua_get(L);
        cap->used = in_use(L);
        lua_setallocf(L, capped, cap);
    }
    cap->limit = limit;
}

int mk_lua_limit(lua_State *L)
{
    lua_Integer limit = lua_istable(L, 1) ? mk_integer_field(L, 1, "memory", 0) : 0;
    if (limit > 0)
        set_cap(L, (size_t)limit);
    struct cap *cap = cap_of(L);
    lua_createtable(L, 0, 3);
    if (cap) {
        lua_pushinteger(L, (lua_Integer)cap->limit);
        lua_setfield(L, -2, "memory");
    }
    if (cap && cap->asked)
        settle(cap);
    if (cap && cap->where[0]) {
        lua_pushstring(L, cap->where);
        lua_setfield(L, -2, "refused");
    }
    lua_pushinteger(L, (lua_Integer)in_use(L));
    lua_setfield(L, -2, "used");
    return 1;
}

const char *mk_alloc_refusal(lua_State *L)
{
    struct cap *cap = cap_of(L);
    if (cap && cap->asked)
        settle(cap);
    if (!cap || !cap->where[0])
        return NULL;
    snprintf(cap->text, sizeof(cap->text), "%s: not enough memory: the script may have %zu KiB "
             "(kvm.limit)", cap->where, cap->limit / 1024);
    return cap->text;
}
