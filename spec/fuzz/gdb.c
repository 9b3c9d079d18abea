/* gdb.c - what a debugger asks of a VM, packet by packet (gdb.lua). */
#include "lua.h"

static void init(void)
{
    fuzz_lua_open("gdb");
}

static void one(const uint8_t *bytes, size_t length)
{
    fuzz_steps++;
    fuzz_lua_call(bytes, length);
}

FUZZ_TARGET(gdb, init, one)
