/* dwarf.c - debugging information of ELF files, by libdw (dwarf.lua, src/lua/dwarf*.c). */
#include "lua.h"

static void init(void)
{
    fuzz_lua_open("dwarf");
}

static void one(const uint8_t *bytes, size_t length)
{
    fuzz_steps++;
    fuzz_lua_call(bytes, length);
}

FUZZ_TARGET(dwarf, init, one)
