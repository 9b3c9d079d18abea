/* alloc.h - a cap on the memory of a Lua state.
 *
 * An allocator around the state's own one counts. What goes into the last sixteenth of the cap is
 * granted, and the coroutine that runs gets a hook, which collects garbage and, when that does not
 * help, raises an error that names the line: while memory is being asked for nothing can be known
 * of a state, because its stack may be on the move. What goes over the cap is refused: Lua then
 * collects garbage, asks again, and raises a "not enough memory" without a line. Works for a state
 * made by anybody. It belongs to whoever holds the Lua lock, like the state itself. What VMs take
 * (guest RAM, console) is not counted. */
#ifndef MK_LUA_ALLOC_H
#define MK_LUA_ALLOC_H

#include <lua.h>

/* limit([{ memory= }]) -> { memory=, used=, refused= } */
int mk_lua_limit(lua_State *L);

/* What the cap refused last: "script.lua:12: not enough memory: the script may have …", or how much
 * was asked for at once; NULL when it refused nothing. Lives until the next refusal. */
const char *mk_alloc_refusal(lua_State *L);

#endif
