/* lua.h - targets that are written in Lua: a file spec/fuzz/NAME.lua that returns a function of the
 * bytes. An error that leaves it is a fault. */
#ifndef FUZZ_LUA_H
#define FUZZ_LUA_H

#include "fuzz.h"

/* Runs the file, in a state with the module; and calls what it returned. */
void fuzz_lua_open(const char *name);
void fuzz_lua_call(const uint8_t *bytes, size_t length);

#endif
