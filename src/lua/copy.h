/* copy.h - Lua values as flat bytes, for a snapshot's file and for another Lua state.
 *
 * nil, booleans, numbers, strings, and tables of these without a metatable. A table that is
 * reached twice is copied twice; one that contains itself is an error. mk_copy_write() and _read()
 * change nothing on the stack but what they say, raise nothing, and hold nothing afterwards; they
 * belong to the thread that runs Lua. */
#ifndef MK_LUA_COPY_H
#define MK_LUA_COPY_H

#include "base/err.h"
#include "codec/bytes.h"

#include <lua.h>

#define MK_COPY_DEPTH 100               /* tables inside tables */
#define MK_COPY_MAX (64u * 1024 * 1024) /* bytes of one value */

/* Appends the value at `index`. False with *err, which names where in the value it went wrong
 * ("<what>.name[3]: a function cannot be copied"), and *out as it was. */
bool mk_copy_write(lua_State *L, int index, const char *what, struct mk_bytes *out,
                   struct mk_err *err);
/* Pushes the value that mk_copy_write() made these bytes of. False with *err, and nothing pushed,
 * when they are malformed, when something follows them, or when memory ran out. */
bool mk_copy_read(lua_State *L, const void *bytes, size_t length, struct mk_err *err);

/* Pushes an empty buffer that is freed with its userdata, so that a Lua error does not leak it. */
struct mk_bytes *mk_push_bytes(lua_State *L);

/* core.pack(value, what) -> string | nil, text, name; core.unpack(string) -> value | the same. */
int mk_lua_pack(lua_State *L);
int mk_lua_unpack(lua_State *L);

#endif
