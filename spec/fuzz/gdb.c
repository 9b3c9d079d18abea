/* gdb.c - what a debugger asks of a VM, packet by packet (gdb.lua). */
#include "lua.h"

static void init(void)
{
    fuzz_lua_open("gdb");
}

FUZZ_TARGET(gdb, init, fuzz_lua_call)
