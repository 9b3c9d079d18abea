/* alloc.c - see alloc.h. */
#include "lua/alloc.h"

#include "lua/core.h"

#include <stdio.h>
#include <stdlib.h>

struct cap {
    lua_Alloc below; /* the state's own allocator */
    void *ud;
    size_t used, limit;
    size_t soft; /* more in use than this: check_soft_limit() */
    bool raised; /* what the error leaves behind is not collected yet */
    const struct mk_lua *lua;
    size_t refused; /* the request that was refused just now: Lua asks again after a collection */
    char text[220]; /* of the last refusal; empty: none */
};

static size_t first_soft(const struct cap *cap)
{
    return cap->limit - cap->limit / 16;
}

static void *refuse(struct cap *cap, size_t size)
{
    cap->refused = size;
    snprintf(cap->text, sizeof(cap->text),
             "not enough memory: %zu bytes more were wanted, and the "
             "script may have %zu KiB (kvm.limit)",
             size, cap->limit / 1024);
    return NULL;
}

static struct cap *cap_of(lua_State *L);

/* A collection in incremental mode shrinks stacks, too; one in generational mode does not (lgc.c,
 * traversethread). */
static void collect(lua_State *L)
{
    int mode = lua_gc(L, LUA_GCINC, 0, 0, 0);
    lua_gc(L, LUA_GCCOLLECT);
    if (mode == LUA_GCGEN)
        lua_gc(L, LUA_GCGEN, 0, 0);
}

/* The hook of a coroutine that used nearly all, at its next instruction. An error leaves room in
 * which it can be described and caught: half of what is left. */
static void check_soft_limit(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    struct cap *cap = cap_of(L);
    lua_sethook(L, NULL, 0, 0);
    if (!cap)
        return;
    cap->raised = false;
    collect(L);
    if (cap->used <= cap->soft)
        return;
    char where[100];
    mk_lua_where(L, where, sizeof(where));
    snprintf(cap->text, sizeof(cap->text),
             "%s: not enough memory: the script may have %zu KiB "
             "(kvm.limit)",
             where, cap->limit / 1024);
    if (cap->limit > cap->used)
        cap->soft = cap->used + (cap->limit - cap->used) / 2;
    cap->raised = true;
    lua_pushstring(L, cap->text);
    lua_error(L);
}

/* Setting a hook, and while a new block is asked for looking who runs, is all that may be done with
 * a state that is in the midst of something: a block that grows may be a stack. A hook that is
 * there already, such as a debugger's, stays; then the limit alone holds. */
static void grant(struct cap *cap, size_t size, bool is_new)
{
    if (cap->refused == size)
        cap->text[0] = '\0';
    cap->refused = 0;
    if (!is_new || (cap->used <= cap->soft && !cap->raised))
        return;
    lua_State *L = mk_lua_running(cap->lua->base);
    if (!lua_gethook(L))
        lua_sethook(L, check_soft_limit, LUA_MASKCOUNT, 1);
}

/* The last block that is freed is the state itself: then the cap goes, too. */
static void *capped(void *ud, void *block, size_t old_size, size_t new_size)
{
    struct cap *cap = ud;
    size_t had = block ? old_size : 0; /* without a block it is a type */
    size_t left = cap->limit - (cap->used < cap->limit ? cap->used : cap->limit);
    if (new_size > had && new_size - had > left)
        return refuse(cap, new_size);
    void *now = cap->below(cap->ud, block, old_size, new_size);
    if (now || new_size == 0)
        cap->used += new_size - had;
    if (cap->used <= first_soft(cap))
        cap->soft = first_soft(cap);
    if (now && new_size > had)
        grant(cap, new_size, !block && old_size); /* without a block it is an object's type */
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
        mk_lua_error(L,
                     "kvm.limit: %zu bytes are in use already, more than the %zu that 'memory' "
                     "allows",
                     in_use(L), limit);
    if (!cap) {
        cap = calloc(1, sizeof(*cap));
        if (!cap)
            mk_lua_error(L, "kvm.limit: out of memory");
        cap->below = lua_getallocf(L, &cap->ud);
        cap->lua = mk_lua_get(L);
        cap->used = in_use(L);
        lua_setallocf(L, capped, cap);
    }
    cap->limit = limit;
    cap->soft = first_soft(cap);
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
    if (cap && cap->text[0]) {
        lua_pushstring(L, cap->text);
        lua_setfield(L, -2, "refused");
    }
    lua_pushinteger(L, (lua_Integer)in_use(L));
    lua_setfield(L, -2, "used");
    return 1;
}

const char *mk_alloc_refusal(lua_State *L)
{
    struct cap *cap = cap_of(L);
    return cap && cap->text[0] ? cap->text : NULL;
}
