/* parse.c - files and texts that Lua reads (parse.lua). */
#include "lua.h"

static void init(void)
{
    fuzz_lua_open("parse");
}

static void one(const uint8_t *bytes, size_t length)
{
    fuzz_steps++;
    fuzz_lua_call(bytes, length);
}

FUZZ_TARGET(parse, init, one)
