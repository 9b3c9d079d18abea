/* capstone.h - the capstone library, loaded when it is first needed: it is large, and few scripts
 * disassemble. */
#ifndef MK_LUA_CAPSTONE_H
#define MK_LUA_CAPSTONE_H

#include <capstone/capstone.h>
#include <stdbool.h>

struct lua_State;

struct mk_capstone {
    __typeof__(cs_open) *open;
    __typeof__(cs_close) *close;
    __typeof__(cs_option) *option;
    __typeof__(cs_malloc) *malloc;
    __typeof__(cs_free) *free;
    __typeof__(cs_disasm_iter) *disasm_iter;
};

/* False without the library. Loading it again costs a look-up; it stays in the process. */
bool mk_capstone_load(struct mk_capstone *cs);
/* Raises that it cannot be loaded. */
int mk_capstone_missing(struct lua_State *L);
/* 16, 32 or 64 at `index` of the stack; anything else raises. */
cs_mode mk_capstone_mode(struct lua_State *L, int index);

#endif
