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
    csh handle;
    cs_insn *insn; /* the last one that was decoded; NULL: it is not open */
};

/* For code of 16, 32 or 64 bits; `detail`: with operands. False without the library, or memory.
 * Loading it again costs a look-up; it stays in the process. */
bool mk_capstone_open(struct mk_capstone *cs, unsigned bits, bool detail);
void mk_capstone_close(struct mk_capstone *cs);
/* Decodes an instruction into cs->insn; *bytes, *length and *address are then behind it. */
bool mk_capstone_decode(struct mk_capstone *cs, const uint8_t **bytes, size_t *length,
                        uint64_t *address);
/* Raises that it cannot be loaded. */
int mk_capstone_missing(struct lua_State *L);
/* 16, 32 or 64 at `index` of the stack; anything else raises. */
unsigned mk_check_bits(struct lua_State *L, int index);

#endif
