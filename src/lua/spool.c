/* spool.c - files that traces are written to, as objects (io/spool.h), for
 * lua/minikvm/debug/trace.lua. Used by the thread that runs Lua, handlers of a vCPU included. */
#include "lua/core.h"

#include "io/spool.h"

#include <string.h>
#include <unistd.h>

#define SPOOL "minikvm.spool"

static struct mk_spool *check(lua_State *L)
{
    return luaL_checkudata(L, 1, SPOOL);
}

/* open_spool(path, head, tail) -> spool | nil, why, code */
static int open_spool(lua_State *L)
{
    const char *path = mk_check_cstring(L, 1), *head = luaL_checkstring(L, 2);
    const char *tail = luaL_checkstring(L, 3);
    struct mk_spool *s = lua_newuserdatauv(L, sizeof(*s), 0);
    struct mk_err err;
    *s = (struct mk_spool){ .fd = -1 };
    mk_set_type(L, SPOOL);
    if (mk_spool_open(s, path, head, tail, &err) < 0)
        return mk_push_err(L, &err);
    return 1;
}

/* spool_stdout() -> spool | nil, why, code */
static int spool_stdout(lua_State *L)
{
    struct mk_spool *s = lua_newuserdatauv(L, sizeof(*s), 0);
    struct mk_err err;
    *s = (struct mk_spool){ .fd = -1 };
    mk_set_type(L, SPOOL);
    return mk_spool_use(s, STDOUT_FILENO, &err) < 0 ? mk_push_err(L, &err) : 1;
}

/* spool:put(bytes) -> was it taken */
static int put(lua_State *L)
{
    size_t length;
    struct mk_spool *s = check(L);
    const char *bytes = luaL_checklstring(L, 2, &length);
    lua_pushboolean(L, mk_spool_put(s, bytes, length));
    return 1;
}

/* spool:flush() -> nothing is pending any more */
static int flush(lua_State *L)
{
    struct mk_spool *s = check(L);
    mk_spool_flush(s);
    lua_pushboolean(L, s->pending.length == 0);
    return 1;
}

static int discard(lua_State *L)
{
    mk_spool_discard(check(L));
    return 0;
}

static int close_spool(lua_State *L)
{
    mk_spool_close(check(L));
    return 0;
}

/* spool:counts() -> records written or on their way, lost, nil or why nothing is written any more
 */
static int counts(lua_State *L)
{
    struct mk_spool *s = check(L);
    lua_pushinteger(L, (lua_Integer)(s->written + s->waiting));
    lua_pushinteger(L, (lua_Integer)s->lost);
    if (s->error)
        lua_pushstring(L, strerror(s->error));
    return s->error ? 3 : 2;
}

static const luaL_Reg meta[] = { { "__gc", close_spool }, MK_END };
static const luaL_Reg methods[] = { MK_FN(put),     MK_FN(flush),  { "close", close_spool },
                                    MK_FN(discard), MK_FN(counts), MK_END };
static const luaL_Reg core[] = { MK_FN(open_spool), MK_FN(spool_stdout), MK_END };

const struct mk_exports mk_spool_exports[] = {
    { .type = SPOOL, .meta = meta, .methods = methods, .core = core }, MK_END
};
