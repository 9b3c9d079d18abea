/* machine.c - guests of devices in Lua and over PCI (machine.lua). */
#include "lua.h"

static void init(void)
{
    fuzz_lua_open("machine");
}

FUZZ_TARGET(machine, init, fuzz_lua_call)
