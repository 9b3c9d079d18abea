/* http.c - what a browser, or whoever, sends to a port that shows a screen (http.lua). */
#include "lua.h"

static void init(void)
{
    fuzz_lua_open("http");
}

static void one(const uint8_t *bytes, size_t length)
{
    fuzz_steps++;
    fuzz_lua_call(bytes, length);
}

FUZZ_TARGET(http, init, one)
