/* repl.h - the interactive prompt of the minikvm program. */
#ifndef MK_REPL_H
#define MK_REPL_H

#include <lua.h>

/* Calls the function below `nargs` arguments; on failure leaves a message with traceback and
 * returns a status other than LUA_OK. Ctrl-C interrupts it. */
typedef int mk_call_fn(lua_State *L, int nargs, int nresults);

/* Reads, runs and prints until end of input. */
void mk_repl(lua_State *L, mk_call_fn *call);

#endif
