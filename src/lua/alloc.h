/* alloc.h - a cap on the memory of a Lua state.
 *
 * An allocator around the state's own one counts and refuses. Lua then collects garbage and asks
 * again; when that is refused too, it raises "not enough memory", which nothing describes: so the
 * refusal notes the line of the coroutine that runs. Works for a state made by anybody. It belongs
 * to whoever holds the Lua lock, like the state itself. What VMs take (guest RAM, console) is not
 * counted. */
#ifndef MK_LUA_ALLOC_H
#define MK_LUA_ALLOC_H

#include <lua.h>

/* limit([{ memory= }]) -> { memory=, used=, refused= } */
int mk_lua_limit(lua_State *L);

/* "script.lua:12: not enough memory: …" for a call that failed with LUA_ERRMEM; NULL when no cap
 * refused anything. Lives until the next refusal. */
const char *mk_alloc_refusal(lua_State *L);

#endif
