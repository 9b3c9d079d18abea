/* image.c - files that claim to be kernels: all formats and modes (image.lua). */
#include "lua.h"

static void init(void)
{
    fuzz_lua_open("image");
}

static void one(const uint8_t *bytes, size_t length)
{
    fuzz_steps++;
    fuzz_lua_call(bytes, length);
}

FUZZ_TARGET(image, init, one)
