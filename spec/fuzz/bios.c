/* bios.c - services of a BIOS in Lua, called with any registers (bios.lua). */
#include "lua.h"

static void init(void)
{
    fuzz_lua_open("bios");
}

static void one(const uint8_t *bytes, size_t length)
{
    fuzz_steps++;
    fuzz_lua_call(bytes, length);
}

FUZZ_TARGET(bios, init, one)
