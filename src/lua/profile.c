/* profile.c - what lua/minikvm/debug/profile.lua makes of the samples that debug/profile.c takes.
 */
#include "debug/profile.h"
#include "lua/core.h"

#include <string.h>

/* profile_start(vm, nanoseconds, stacks) -> vm | nil, text, name */
static int profile_start(lua_State *L)
{
    struct mk_lua_vm *v = mk_check_vm(L, 1);
    struct mk_err err;
    uint64_t period = (uint64_t)luaL_checkinteger(L, 2);
    return mk_push_self(L, mk_profile_start(&v->vm, period, lua_toboolean(L, 3), &err), &err);
}

/* profile_stop(vm) */
static int profile_stop(lua_State *L)
{
    mk_profile_stop(&mk_check_vm(L, 1)->vm);
    return 0;
}

static struct mk_profile *check_profile(lua_State *L)
{
    struct mk_profile *p = mk_profile_of(&mk_check_vm(L, 1)->vm);
    luaL_argcheck(L, p, 1, "it has no profile");
    return p;
}

/* profile_counts(vm) -> samples, idle, lost, in ticks */
static int profile_counts(lua_State *L)
{
    struct mk_profile *p = check_profile(L);
    pthread_mutex_lock(&p->lock);
    uint64_t counts[3] = { p->samples, p->idle, p->lost };
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < 3; i++)
        lua_pushinteger(L, (lua_Integer)counts[i]);
    return 3;
}

/* profile_words(vm) -> a string: of each stack ticks, depth, addresses (innermost first), 8 bytes
 * each */
static int profile_words(lua_State *L)
{
    struct mk_profile *p = check_profile(L);
    pthread_mutex_lock(&p->lock);
    size_t bytes = p->used * sizeof(*p->words);
    pthread_mutex_unlock(&p->lock);
    luaL_Buffer b;
    char *to = luaL_buffinitsize(L, &b, bytes);
    pthread_mutex_lock(&p->lock); /* more stacks may be there by now */
    if (bytes)
        memcpy(to, p->words, bytes);
    pthread_mutex_unlock(&p->lock);
    luaL_pushresultsize(&b, bytes);
    return 1;
}

static const luaL_Reg core[] = { MK_FN(profile_start), MK_FN(profile_stop), MK_FN(profile_counts),
                                 MK_FN(profile_words), MK_END };

MK_EXPORTS = { { .core = core } };
