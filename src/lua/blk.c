/* blk.c - virtio's block device, for devices.blk (lua/minikvm/devices/blk.lua, which checks what a
 * script gives). Used by the thread that runs Lua. */
#include "dev/blk.h"

#include "lua/virtio.h"

#include <stdio.h>

static struct mk_blk *check_blk(lua_State *L)
{
    return (struct mk_blk *)mk_check_virtio(L, &mk_blk_ops);
}

/* blk_new(function, queues, broken) */
static int blk_new(lua_State *L)
{
    struct mk_err err;
    struct mk_blk *blk =
        (struct mk_blk *)mk_virtio_push(L, sizeof(*blk), &mk_blk_ops, mk_blk_close);
    struct mk_lua_vm *v = ((struct mk_lua_virtio *)blk->virtio.ctx)->v;
    if (mk_blk_init(blk, &v->vm.blks, &err) < 0)
        return mk_lua_error(L, "%s", err.text);
    return 1;
}

/* blk_set_disk(blk, disk, read_only) */
static int blk_set_disk(lua_State *L)
{
    struct mk_blk *blk = check_blk(L);
    mk_blk_set_disk(blk, mk_check_disk(L, 2), lua_toboolean(L, 3));
    return 0;
}

/* blk_counts(blk) -> requests, those that failed, why the last of them did */
static int blk_counts(lua_State *L)
{
    struct mk_blk *blk = check_blk(L);
    char failure[sizeof(blk->failure)];
    pthread_mutex_lock(&blk->virtio.lock);
    uint64_t requests = blk->requests, failed = blk->failed;
    snprintf(failure, sizeof(failure), "%s", blk->failure);
    pthread_mutex_unlock(&blk->virtio.lock);
    lua_pushinteger(L, (lua_Integer)requests);
    lua_pushinteger(L, (lua_Integer)failed);
    lua_pushstring(L, failure[0] ? failure : NULL);
    return 3;
}

/* blk_set_counts(blk, requests, failed, failure | nil) */
static int blk_set_counts(lua_State *L)
{
    struct mk_blk *blk = check_blk(L);
    uint64_t requests = (uint64_t)luaL_checkinteger(L, 2);
    uint64_t failed = (uint64_t)luaL_checkinteger(L, 3);
    const char *failure = luaL_optstring(L, 4, "");
    pthread_mutex_lock(&blk->virtio.lock);
    blk->requests = requests;
    blk->failed = failed;
    snprintf(blk->failure, sizeof(blk->failure), "%s", failure);
    pthread_mutex_unlock(&blk->virtio.lock);
    return 0;
}

static const luaL_Reg core[] = { MK_FN(blk_new), MK_FN(blk_set_disk), MK_FN(blk_counts),
                                 MK_FN(blk_set_counts), MK_END };

MK_EXPORTS = { { .core = core } };
