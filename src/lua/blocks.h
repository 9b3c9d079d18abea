/* blocks.h - the basic blocks of machine code, by the capstone library: what lua/minikvm/debug
 * arms breakpoints on.
 *
 * What is code is found by following it: from addresses that are pushed, through direct jumps,
 * calls and jump tables. A run that comes to bytes that are no instruction is no code. Each byte
 * has a few flags, so instructions that overlap are seen as such. Calls end no block. Intel SDM
 * volume 2, chapter 2 (prefixes) and "Jcc", "LOOP", "JCXZ". */
#ifndef MK_LUA_BLOCKS_H
#define MK_LUA_BLOCKS_H

#include "lua/capstone.h"

#include <stddef.h>
#include <stdint.h>

#define MK_CODE_SECTIONS 256

/* Of a byte of code: an instruction begins there; it lies inside one; a block begins there; the
 * instruction ends its block; code reads it as data; it was tried as code that nothing leads to; a
 * block begins there that may come from anywhere: a call, a table, a symbol. */
enum { START = 1, INSIDE = 2, LEADER = 4, END = 8, DATA = 16, TRIED = 32, ENTRY = 64 };

/* How a block ends: into the next one, by a jump, by a branch, by a return or a jump to what only
 * the guest knows. */
enum mk_block_kind { MK_BLOCK_NEXT, MK_BLOCK_JUMP, MK_BLOCK_BRANCH, MK_BLOCK_STOP };

struct mk_code_section {
    uint64_t address;
    size_t length;
    const uint8_t *bytes;
    uint8_t *flags, *sizes; /* of code, for each byte; NULL: data */
};

struct mk_blocks {
    struct mk_capstone cs;
    unsigned bits;
    size_t total;
    unsigned count;
    struct mk_code_section section[MK_CODE_SECTIONS];
    uint64_t *todo;
    size_t todo_count, todo_room;
    unsigned entries; /* of tables that were looked at */
    bool no_memory;
};

/* The section that an address lies in; NULL: none. */
struct mk_code_section *mk_blocks_section(struct mk_blocks *b, uint64_t address, bool code);
/* Decodes the instruction at an address of a section into b->cs.insn. */
bool mk_blocks_decode(struct mk_blocks *b, const struct mk_code_section *s, uint64_t address);
enum mk_block_kind mk_block_kind(const cs_insn *insn);
/* A jump, a branch or a call. */
bool mk_blocks_is_transfer(const cs_insn *insn);
/* Where b->cs.insn, a direct jump or call, leads. */
bool mk_blocks_target(const struct mk_blocks *b, uint64_t *target);
/* Whether b->cs.insn does nothing: such lie between functions and before loops. */
bool mk_blocks_padding(const struct mk_blocks *b);

/* A block begins there, an entry if something else than jumps and branches leads to it; nothing
 * when that is not in the code. */
void mk_blocks_push(struct mk_blocks *b, uint64_t address, bool entry);
/* Follows what was pushed, for about `budget` instructions; true when nothing is left. */
bool mk_blocks_follow(struct mk_blocks *b, int64_t budget);

#endif
