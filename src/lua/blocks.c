/* blocks.c - a finder of basic blocks (blocks.h) as an object for lua/minikvm/debug/blocks.lua, and
 * what it found. Every call does a bounded piece of the work. */
#include "lua/blocks.h"
#include "lua/core.h"

#include <stdlib.h>
#include <string.h>

#define TYPE "minikvm.core.blocks"
#define MOST_BYTES (256u << 20) /* of all sections together */

/* --- a finder as an object --- */

static struct mk_blocks *check(lua_State *L)
{
    return luaL_checkudata(L, 1, TYPE);
}

static int finder_gc(lua_State *L)
{
    struct mk_blocks *b = check(L);
    for (unsigned i = 0; i < b->count; i++)
        free(b->section[i].flags); /* and sizes */
    free(b->todo);
    mk_capstone_close(&b->cs);
    b->count = 0;
    b->todo = NULL;
    return 0;
}

/* block_finder(bits) -> finder; its sections, as add() gets them, live as long. */
static int block_finder(lua_State *L)
{
    unsigned bits = mk_check_bits(L, 1);
    struct mk_blocks *b = lua_newuserdatauv(L, sizeof(*b), 1);
    memset(b, 0, sizeof(*b));
    mk_set_type(L, TYPE);
    lua_newtable(L);
    lua_setiuservalue(L, -2, 1);
    b->bits = bits;
    if (!mk_capstone_open(&b->cs, bits, true))
        return mk_capstone_missing(L);
    return 1;
}

/* add(finder, address, bytes, code) */
static int finder_add(lua_State *L)
{
    struct mk_blocks *b = check(L);
    size_t length;
    uint64_t address = (uint64_t)luaL_checkinteger(L, 2);
    const char *bytes = luaL_checklstring(L, 3, &length);
    bool code = lua_toboolean(L, 4);
    if (b->count == MK_CODE_SECTIONS || length > MOST_BYTES - b->total)
        return mk_lua_error(L, "code of more than %d sections or %d MiB", MK_CODE_SECTIONS,
                            MOST_BYTES >> 20);
    uint8_t *flags = code && length ? calloc(length, 2) : NULL;
    if (code && length && !flags)
        return luaL_error(L, "not enough memory");
    b->section[b->count] = (struct mk_code_section){ address, length, (const uint8_t *)bytes, flags,
                                                     flags ? flags + length : NULL };
    b->count++;
    b->total += length;
    lua_getiuservalue(L, 1, 1);
    lua_pushvalue(L, 3);
    lua_rawseti(L, -2, b->count);
    return 0;
}

/* push(finder, address): a block begins there; nothing when that is not in its code. */
static int finder_push(lua_State *L)
{
    mk_blocks_push(check(L), (uint64_t)luaL_checkinteger(L, 2), true);
    return 0;
}

/* run(finder, n) -> whether all was followed; after about n instructions it returns anyway. */
static int finder_run(lua_State *L)
{
    struct mk_blocks *b = check(L);
    bool done = mk_blocks_follow(b, luaL_checkinteger(L, 2));
    if (b->no_memory)
        return luaL_error(L, "not enough memory");
    lua_pushboolean(L, done);
    return 1;
}

/* Where the gap that begins at `at` ends: at a known instruction. */
static size_t gap_end(const struct mk_code_section *s, size_t at, size_t end)
{
    while (at < end && !(s->flags[at] & (START | INSIDE)))
        at++;
    return at;
}

/* The next byte that may be code nobody leads to, from `at` on; `end`: none. */
static size_t next_candidate(struct mk_blocks *b, const struct mk_code_section *s, size_t at,
                             size_t end)
{
    while (at < end) {
        if (s->flags[at] & START)
            at += s->sizes[at];
        else if (s->flags[at] & (INSIDE | DATA))
            at++;
        else if (s->flags[at] & TRIED)
            return at;
        else if (!mk_blocks_decode(b, s, s->address + at))
            at = gap_end(s, at, end);
        else if (mk_blocks_padding(b))
            at += b->cs.insn->size;
        else
            return at;
    }
    return end;
}

/* sweep(finder, address, size) -> the address to go on from, when something new was found before
 * the range's end: run() follows it first. */
static int finder_sweep(lua_State *L)
{
    struct mk_blocks *b = check(L);
    uint64_t address = (uint64_t)luaL_checkinteger(L, 2), size = (uint64_t)luaL_checkinteger(L, 3);
    const struct mk_code_section *s = mk_blocks_section(b, address, true);
    if (!s)
        return 0;
    size_t at = address - s->address;
    size_t end = size < s->length - at ? at + size : s->length;
    at = next_candidate(b, s, at, end);
    if (at >= end)
        return 0;
    if (s->flags[at] & TRIED) /* it is no code */
        at = gap_end(s, at, end);
    else
        mk_blocks_push(b, s->address + at, true);
    if (at < end)
        s->flags[at] |= TRIED;
    lua_pushinteger(L, (lua_Integer)(s->address + at));
    return 1;
}

#define LEADS_MAX 32 /* instructions that are looked at */

/* leads(finder, address) -> where the first direct jump, branch or call leads that a few
 * instructions from there on come to, or nil; whether that is the beginning of a known block. */
static int finder_leads(lua_State *L)
{
    struct mk_blocks *b = check(L);
    uint64_t address = (uint64_t)luaL_checkinteger(L, 2), target;
    const struct mk_code_section *s = mk_blocks_section(b, address, true);
    for (unsigned n = 0; s && n < LEADS_MAX && address - s->address < s->length; n++) {
        if (s->flags[address - s->address] & (START | INSIDE | DATA) ||
            !mk_blocks_decode(b, s, address))
            return 0;
        if (mk_blocks_is_transfer(b->cs.insn) && mk_blocks_target(b, &target)) {
            const struct mk_code_section *to = mk_blocks_section(b, target, true);
            unsigned flags = to ? to->flags[target - to->address] : 0;
            lua_pushinteger(L, (lua_Integer)target);
            lua_pushboolean(L, flags & START && flags & LEADER);
            return 2;
        }
        if (mk_block_kind(b->cs.insn) != MK_BLOCK_NEXT)
            return 0;
        address += b->cs.insn->size;
    }
    return 0;
}

/* --- results --- */

/* The condition of a branch: 0 to 15 as in Jcc's opcode, 16 to 18 LOOPNE, LOOPE, LOOP, 19 JCXZ and
 * its like, with the address size's bits from 32 on. */
static unsigned condition_of(const cs_insn *insn)
{
    unsigned at = 0;
    while (at < 14 && (strchr("\x26\x2e\x36\x3e\x64\x65\x66\x67\xf2\xf3", insn->bytes[at]) ||
                       (insn->detail->x86.rex && insn->bytes[at] == insn->detail->x86.rex)))
        at++;
    unsigned code = insn->bytes[at];
    unsigned size = insn->detail->x86.addr_size;
    if (code == 0x0f)
        return insn->bytes[at + 1] & 15;
    return code >= 0xe0 ? (16 + (code & 3)) | size << 8 : code & 15;
}

/* The block that begins at `at`: its last instruction; where it ends. */
static size_t block_end(const struct mk_code_section *s, size_t at, size_t *last)
{
    for (;;) {
        *last = at;
        bool ends = s->flags[at] & END;
        at += s->sizes[at];
        if (ends || at >= s->length || s->flags[at] & LEADER || !(s->flags[at] & START))
            return at;
    }
}

#define CODE_MAX 7 /* bytes that are told of a block's code */

/* Lists on the stack: six of numbers, then these. */
enum { ADDRESS = 4, SHARED = 10, ENTERED, CODE, LAST_CODE };

static void push_code(lua_State *L, const struct mk_code_section *s, size_t at, size_t end)
{
    size_t length = end - at < CODE_MAX ? end - at : CODE_MAX;
    lua_pushlstring(L, (const char *)s->bytes + at, length);
}

static void push_block(lua_State *L, struct mk_blocks *b, const struct mk_code_section *s,
                       size_t at, lua_Integer i)
{
    size_t last, end = block_end(s, at, &last);
    enum mk_block_kind kind = MK_BLOCK_NEXT;
    uint64_t target = 0;
    unsigned condition = 0;
    if (s->flags[last] & END && mk_blocks_decode(b, s, s->address + last)) {
        kind = mk_block_kind(b->cs.insn);
        bool jumps = kind == MK_BLOCK_JUMP || kind == MK_BLOCK_BRANCH;
        if (jumps ? !mk_blocks_target(b, &target) : kind == MK_BLOCK_NEXT)
            kind = MK_BLOCK_STOP;
        condition = kind == MK_BLOCK_BRANCH ? condition_of(b->cs.insn) : 0;
    }
    const uint64_t numbers[] = { s->address + at, end - at, s->address + last, kind,
                                 target,          condition };
    for (int n = 0; n < (int)MK_COUNT(numbers); n++) {
        lua_pushinteger(L, (lua_Integer)numbers[n]);
        lua_rawseti(L, ADDRESS + n, i);
    }
    lua_pushboolean(L, s->flags[at] & INSIDE);
    lua_rawseti(L, SHARED, i);
    lua_pushboolean(L, s->flags[at] & ENTRY);
    lua_rawseti(L, ENTERED, i);
    push_code(L, s, at, end);
    lua_rawseti(L, CODE, i);
    push_code(L, s, last, end);
    lua_rawseti(L, LAST_CODE, i);
}

static const struct mk_code_section *check_section(lua_State *L, const struct mk_blocks *b)
{
    lua_Integer number = luaL_checkinteger(L, 2);
    luaL_argcheck(L, number >= 1 && number <= (lua_Integer)b->count, 2, "there is no such section");
    luaL_argcheck(L, luaL_checkinteger(L, 3) >= 0, 3, "negative");
    return &b->section[number - 1];
}

/* blocks(finder, section, offset) -> offset to go on from or nil, and lists: addresses, sizes, last
 * instructions, kinds (0: goes on into the next; 1: jump, 2: branch, 3: return or a jump to what
 * only the guest knows), targets, conditions, whether the first byte is inside another
 * instruction, whether something else than jumps and branches leads to it, its first bytes, those
 * of its last instruction. Of the code section of this number, from 1. */
static int finder_blocks(lua_State *L)
{
    struct mk_blocks *b = check(L);
    const struct mk_code_section *s = check_section(L, b);
    lua_Integer found = 0;
    size_t at = (size_t)lua_tointeger(L, 3);
    lua_settop(L, 3);
    luaL_checkstack(L, LAST_CODE + 4, NULL);
    for (int i = ADDRESS; i <= LAST_CODE; i++)
        lua_newtable(L);
    for (; s->flags && at < s->length && found < 4096; at++)
        if ((s->flags[at] & (LEADER | START)) == (LEADER | START))
            push_block(L, b, s, at, ++found);
    if (s->flags && at < s->length)
        lua_pushinteger(L, (lua_Integer)at);
    else
        lua_pushnil(L);
    lua_insert(L, ADDRESS);
    return LAST_CODE - ADDRESS + 2;
}

static const luaL_Reg meta[] = { { "__gc", finder_gc }, MK_END };
static const luaL_Reg methods[] = { { "add", finder_add },
                                    { "push", finder_push },
                                    { "run", finder_run },
                                    { "sweep", finder_sweep },
                                    { "leads", finder_leads },
                                    { "blocks", finder_blocks },
                                    MK_END };

static const luaL_Reg core[] = { MK_FN(block_finder), MK_END };

MK_EXPORTS = { { .type = TYPE, .meta = meta, .methods = methods, .core = core } };
