/* debug.c - guests that are debugged, and do not keep to it: breakpoints, watched memory, steps
 * (debug.lua, src/debug). */
#include "lua.h"

static void init(void)
{
    fuzz_lua_open("debug");
}

FUZZ_TARGET(debug, init, fuzz_lua_call)
