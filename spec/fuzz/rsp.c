/* rsp.c - bytes from a debugger (rsp.lua). What the packets say is in the gdb target. */
#include "lua.h"

static void init(void)
{
    fuzz_lua_open("rsp");
}

static void one(const uint8_t *bytes, size_t length)
{
    fuzz_steps++;
    fuzz_lua_call(bytes, length);
}

FUZZ_TARGET(rsp, init, one)
