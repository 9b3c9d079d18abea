/* test_embed.c - a program that embeds Lua and the module: no error of Lua leaves the thread that
 * it was raised on, whichever allocation fails. spec/c/embed.lua is its script: a guest that calls
 * handlers of every kind, run again and again, each time with a later allocation failing, until the
 * run is untouched (the way of sqlite's "malloc" tests). After each run the script asks for the
 * thread it is on; an error outside of a protected call lands there on a vCPU's thread, because Lua
 * unwinds to the main thread's frame then (ldo.c, luaD_throw). */
#include "minikvm.h"
#include "tap.h"

#include <lauxlib.h>
#include <lualib.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static pthread_t host;

/* Lua asks a second time after a collection: an allocation fails when both do. */
static struct {
    bool armed;
    long left;
    size_t refused;
    bool failed;
} fault;

static bool refuses(size_t size)
{
    if (!fault.armed)
        return false;
    if (fault.refused) {
        fault.armed = false;
        fault.failed = true;
        return size == fault.refused;
    }
    if (fault.left-- > 0)
        return false;
    fault.refused = size;
    return true;
}

static void *allocate(void *ud, void *block, size_t old_size, size_t size)
{
    (void)ud;
    size_t had = block ? old_size : 0;
    if (size == 0) {
        free(block);
        return NULL;
    }
    return size > had && refuses(size) ? NULL : realloc(block, size);
}

/* arm(n): the nth allocation from now on fails, from 0. */
static int arm(lua_State *L)
{
    fault.left = (long)luaL_checkinteger(L, 1);
    fault.refused = 0;
    fault.failed = false;
    fault.armed = true;
    return 0;
}

/* disarm() -> whether it has failed, whether this is the thread of main() */
static int disarm(lua_State *L)
{
    bool failed = fault.failed || fault.refused;
    fault.armed = false;
    lua_pushboolean(L, failed);
    lua_pushboolean(L, pthread_equal(pthread_self(), host));
    return 2;
}

static int report(lua_State *L)
{
    lua_pushboolean(L, tap_ok(lua_toboolean(L, 1), luaL_checkstring(L, 2)));
    return 1;
}

static lua_State *open_state(void)
{
    lua_State *L = lua_newstate(allocate, NULL);
    luaL_openlibs(L);
    luaL_requiref(L, "minikvm", luaopen_minikvm, 0);
    lua_settop(L, 0);
    lua_register(L, "arm", arm);
    lua_register(L, "disarm", disarm);
    lua_register(L, "ok", report);
    return L;
}

/* A program of its own signals, such as SIGRTMIN + 6, lets minikvm have another one. */
static void choose_signal(void)
{
    signal(SIGRTMIN + 6, SIG_IGN);
    tap_is(minikvm_signal(SIGKILL), EINVAL, "SIGKILL cannot interrupt guests");
    tap_is(minikvm_signal(SIGRTMIN + 6), EBUSY, "nor one that the program uses");
    tap_is(minikvm_signal(SIGRTMIN + 9), 0, "another one is chosen");
}

int main(void)
{
    host = pthread_self();
    alarm(300);
    choose_signal();
    lua_State *L = open_state();
    if (!tap_ok(luaL_dofile(L, "spec/c/embed.lua") == LUA_OK, "the script comes to its end"))
        printf("# %s\n", lua_tostring(L, -1));
    tap_ok(pthread_equal(pthread_self(), host), "main() goes on where it was");
    lua_close(L);
    if (access("/dev/kvm", R_OK | W_OK) == 0)
        tap_is(minikvm_signal(SIGRTMIN + 7), EBUSY, "it stays once there was a VM");
    return tap_done();
}
