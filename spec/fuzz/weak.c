/* weak.c - guests whose paging and interrupts KVM leaves to us, with tables of any contents
 * (weak.lua, src/x86/weak). */
#include "lua.h"

static void init(void)
{
    fuzz_lua_open("weak");
}

FUZZ_TARGET(weak, init, fuzz_lua_call)
