/* lua.c - see lua.h. libFuzzer counts edges of code in C; a hook counts those of Lua for it, by the
 * place of a line and the line before it, in its extra counters. */
#include "lua.h"

#include "kvm.h"
#include "minikvm.h"

#include <lauxlib.h>
#include <lualib.h>

#include <stdio.h>
#include <stdlib.h>

#define EDGES 65536u

#ifdef __clang__
__attribute__((section("__libfuzzer_extra_counters")))
#endif
static uint8_t edges[EDGES];

static lua_State *state;
static unsigned collected;

/* Sources are strings that live as long as the state. */
static void count_line(lua_State *L, lua_Debug *ar)
{
    static uint32_t before;
    lua_getinfo(L, "Sl", ar);
    uint32_t here =
        ((uint32_t)(uintptr_t)ar->source * 2654435761u) ^ (uint32_t)ar->currentline * 40503u;
    here ^= here >> 15;
    edges[(here ^ before >> 1) % EDGES]++;
    before = here;
}

static void fail(void)
{
    fprintf(stderr, "%s\n", lua_tostring(state, -1));
    fuzz_failed("no Lua error", __FILE__, __LINE__);
}

static int with_traceback(lua_State *L)
{
    luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
    return 1;
}

static int load_program(lua_State *L)
{
    size_t length;
    const char *bytes = luaL_checklstring(L, 1, &length);
    fuzz_kvm_load((const uint8_t *)bytes, length);
    return 0;
}

static int set_traps(lua_State *L)
{
    uint16_t ips[64];
    unsigned count = 0;
    for (; count < (unsigned)lua_gettop(L) && count < MK_COUNT(ips); count++)
        ips[count] = (uint16_t)luaL_checkinteger(L, (int)count + 1);
    fuzz_kvm_set_traps(ips, count, 0xb4);
    return 0;
}

void fuzz_lua_open(const char *name)
{
    char path[200];
    const char *folder = getenv("MINIKVM_FUZZ");
    folder = folder ? folder : "spec/fuzz";
    snprintf(path, sizeof(path), "%s/%s.lua", folder, name);
    if (state) /* of another target of this process */
        lua_close(state);
    state = luaL_newstate();
    fuzz_check(state);
    luaL_openlibs(state);
    luaL_requiref(state, "minikvm", luaopen_minikvm, 0);
    lua_pushfstring(state, "package.path = '%s/../?.lua;' .. package.path", folder);
    fuzz_check(luaL_dostring(state, lua_tostring(state, -1)) == LUA_OK);
    lua_register(state, "load_program", load_program);
    lua_register(state, "set_traps", set_traps);
    lua_settop(state, 0);
    lua_pushcfunction(state, with_traceback);
    if (luaL_loadfile(state, path) != LUA_OK || lua_pcall(state, 0, 1, 1) != LUA_OK)
        fail();
    lua_sethook(state, count_line, LUA_MASKLINE, 0);
}

void fuzz_lua_call(const uint8_t *bytes, size_t length)
{
    lua_pushvalue(state, 2);
    lua_pushlstring(state, (const char *)bytes, length);
    if (lua_pcall(state, 1, 0, 1) != LUA_OK)
        fail();
    lua_settop(state, 2);
    if (++collected % 64 == 0)
        lua_gc(state, LUA_GCCOLLECT);
}
