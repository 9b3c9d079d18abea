/* blocks_find.c - what is code, by following it. See blocks.h. */
#include "lua/blocks.h"

#include "codec/bytes.h"

#include <stdlib.h>
#include <string.h>

#define TABLE_MAX 4096 /* entries of a jump table */

/* --- bytes --- */

struct mk_code_section *mk_blocks_section(struct mk_blocks *b, uint64_t address, bool code)
{
    for (unsigned i = 0; i < b->count; i++) {
        struct mk_code_section *s = &b->section[i];
        if (address - s->address < s->length && (!code || s->flags))
            return s;
    }
    return NULL;
}

bool mk_blocks_decode(struct mk_blocks *b, const struct mk_code_section *s, uint64_t address)
{
    size_t at = address - s->address, left = s->length - at;
    const uint8_t *bytes = s->bytes + at;
    return mk_capstone_decode(&b->cs, &bytes, &left, &address);
}

static bool in_group(const cs_insn *insn, unsigned group)
{
    for (unsigned i = 0; i < insn->detail->groups_count; i++)
        if (insn->detail->groups[i] == group)
            return true;
    return false;
}

bool mk_blocks_target(const struct mk_blocks *b, uint64_t *target)
{
    const cs_x86 *x86 = &b->cs.insn->detail->x86;
    if (x86->op_count != 1 || x86->operands[0].type != X86_OP_IMM)
        return false;
    *target = (uint64_t)x86->operands[0].imm;
    if (b->bits == 32)
        *target &= 0xffffffff;
    return true;
}

enum mk_block_kind mk_block_kind(const cs_insn *insn)
{
    switch (insn->id) {
    case X86_INS_JMP:
    case X86_INS_LJMP: return MK_BLOCK_JUMP;
    case X86_INS_UD2:
    case X86_INS_SYSRET:
    case X86_INS_SYSEXIT:
    case X86_INS_IRET:
    case X86_INS_IRETD:
    case X86_INS_IRETQ: return MK_BLOCK_STOP;
    case X86_INS_LOOP:
    case X86_INS_LOOPE:
    case X86_INS_LOOPNE:
    case X86_INS_JCXZ:
    case X86_INS_JECXZ:
    case X86_INS_JRCXZ: return MK_BLOCK_BRANCH;
    default: break;
    }
    if (in_group(insn, CS_GRP_RET) || in_group(insn, CS_GRP_IRET))
        return MK_BLOCK_STOP;
    return in_group(insn, CS_GRP_JUMP) ? MK_BLOCK_BRANCH : MK_BLOCK_NEXT;
}

static bool is_call(const cs_insn *insn)
{
    return insn->id == X86_INS_CALL || insn->id == X86_INS_LCALL;
}

bool mk_blocks_is_transfer(const cs_insn *insn)
{
    enum mk_block_kind kind = mk_block_kind(insn);
    return kind == MK_BLOCK_JUMP || kind == MK_BLOCK_BRANCH || is_call(insn);
}

bool mk_blocks_padding(const struct mk_blocks *b)
{
    const cs_insn *insn = b->cs.insn;
    const cs_x86 *x86 = &insn->detail->x86;
    if (insn->id == X86_INS_NOP || insn->id == X86_INS_INT3)
        return true;
    if (insn->id == X86_INS_LEA && x86->op_count == 2 && x86->operands[1].type == X86_OP_MEM) {
        const x86_op_mem *m = &x86->operands[1].mem;
        return m->base == x86->operands[0].reg && !m->disp &&
               (m->index == X86_REG_INVALID || m->index == X86_REG_EIZ || m->index == X86_REG_RIZ);
    }
    return insn->id == X86_INS_ADD && !insn->bytes[0] && !insn->bytes[1]; /* zeros */
}

/* --- following --- */

void mk_blocks_push(struct mk_blocks *b, uint64_t address, bool entry)
{
    struct mk_code_section *s = mk_blocks_section(b, address, true);
    if (!s)
        return;
    uint8_t *flags = &s->flags[address - s->address];
    bool known = *flags & LEADER;
    *flags |= LEADER | (entry ? ENTRY : 0);
    if (known || *flags & START)
        return;
    uint64_t *todo = mk_grow(b->todo, &b->todo_room, (b->todo_count + 1) * sizeof(*todo));
    b->no_memory |= !todo;
    if (todo) {
        b->todo = todo;
        b->todo[b->todo_count++] = address;
    }
}

static uint64_t pointer_at(const struct mk_blocks *b, const uint8_t *bytes)
{
    uint64_t value = 0;
    memcpy(&value, bytes, b->bits / 8);
    return value;
}

/* The entries of a jump table that begins there, as long as they are addresses of code. */
static void follow_table(struct mk_blocks *b, uint64_t address)
{
    size_t step = b->bits / 8;
    for (unsigned i = 0; i < TABLE_MAX; i++, address += step, b->entries++) {
        struct mk_code_section *s = mk_blocks_section(b, address, false);
        size_t at = s ? address - s->address : 0;
        if (!s || s->length - at < step || (s->flags && s->flags[at] & (START | INSIDE)))
            return;
        uint64_t target = pointer_at(b, s->bytes + at);
        if (!mk_blocks_section(b, target, true))
            return;
        if (s->flags)
            memset(s->flags + at, DATA, step);
        mk_blocks_push(b, target, true);
    }
}

/* What the instruction reads at an address that it names is data, or a table of addresses. */
static void note_data(struct mk_blocks *b, const cs_x86_op *op, enum mk_block_kind kind)
{
    const x86_op_mem *m = &op->mem;
    uint64_t address = (uint64_t)m->disp;
    if (m->base == X86_REG_RIP)
        address += b->cs.insn->address + b->cs.insn->size;
    else if (m->base != X86_REG_INVALID || m->segment != X86_REG_INVALID)
        return;
    if (b->bits == 32)
        address &= 0xffffffff;
    if (kind == MK_BLOCK_JUMP && b->bits > 16)
        return follow_table(b, address);
    struct mk_code_section *s = mk_blocks_section(b, address, true);
    if (!s || !(op->access & CS_AC_READ) || b->cs.insn->id == X86_INS_LEA)
        return;
    for (size_t at = address - s->address, i = 0; i < op->size && at + i < s->length; i++)
        if (!(s->flags[at + i] & (START | INSIDE)))
            s->flags[at + i] |= DATA;
}

static void note_operands(struct mk_blocks *b, enum mk_block_kind kind)
{
    const cs_x86 *x86 = &b->cs.insn->detail->x86;
    for (unsigned i = 0; i < x86->op_count; i++)
        if (x86->operands[i].type == X86_OP_MEM)
            note_data(b, &x86->operands[i], kind);
}

/* Takes back the instructions from `from` on, which led to what is none. */
static void retract(struct mk_code_section *s, size_t from, size_t to)
{
    for (size_t at = from, size; at < to; at += size) {
        size = s->sizes[at];
        s->flags[at] = (uint8_t)(s->flags[at] & ~(START | LEADER | END));
        for (size_t i = 1; i < size; i++)
            s->flags[at + i] = (uint8_t)(s->flags[at + i] & ~INSIDE);
    }
    if (to < s->length)
        s->flags[to] = (uint8_t)(s->flags[to] & ~LEADER);
}

/* What is called there takes its return address off the stack: what lies behind the call is data
 * for it, such as a text. One that only tells where it was called from returns. */
static bool takes_return_address(struct mk_blocks *b, uint64_t address)
{
    const struct mk_code_section *s = mk_blocks_section(b, address, true);
    const cs_x86 *x86 = &b->cs.insn->detail->x86;
    if (!s || !mk_blocks_decode(b, s, address))
        return false;
    if (b->cs.insn->id == X86_INS_POP)
        return true;
    const x86_op_mem *m = &x86->operands[x86->operands[0].type == X86_OP_MEM ? 0 : 1].mem;
    bool top = (m->base == X86_REG_ESP || m->base == X86_REG_RSP) && !m->disp &&
               m->index == X86_REG_INVALID;
    if (b->cs.insn->id == X86_INS_XCHG)
        return top;
    if (b->cs.insn->id != X86_INS_MOV || x86->operands[0].type != X86_OP_REG || !top)
        return false;
    address += b->cs.insn->size;
    return mk_blocks_decode(b, s, address) && mk_block_kind(b->cs.insn) != MK_BLOCK_STOP;
}

static void mark(struct mk_code_section *s, size_t at, size_t size, bool end)
{
    s->flags[at] |= (uint8_t)(START | (end ? END : 0));
    s->sizes[at] = (uint8_t)size;
    for (size_t i = 1; i < size; i++)
        s->flags[at + i] |= INSIDE;
}

/* Follows one run of instructions to its end; how many there were. */
static size_t follow(struct mk_blocks *b, uint64_t address)
{
    struct mk_code_section *s = mk_blocks_section(b, address, true);
    size_t at = address - s->address, from = at, count = 0;
    for (;;) {
        if (at >= s->length || s->flags[at] & START)
            return count;
        if (!mk_blocks_decode(b, s, s->address + at)) {
            retract(s, from, at);
            return count;
        }
        enum mk_block_kind kind = mk_block_kind(b->cs.insn);
        size_t size = b->cs.insn->size;
        uint64_t target = 0;
        mark(s, at, size, kind != MK_BLOCK_NEXT);
        note_operands(b, kind);
        bool has_target = mk_blocks_is_transfer(b->cs.insn) && mk_blocks_target(b, &target);
        if (has_target)
            mk_blocks_push(b, target, kind == MK_BLOCK_NEXT);
        count++;
        at += size;
        if (kind == MK_BLOCK_BRANCH)
            mk_blocks_push(b, s->address + at, false);
        if (kind != MK_BLOCK_NEXT)
            return count;
        if (is_call(b->cs.insn) || b->cs.insn->id == X86_INS_HLT ||
            in_group(b->cs.insn, CS_GRP_INT))
            from = at; /* it may not come back */
        if (!is_call(b->cs.insn))
            continue;
        if (has_target && target != s->address + at && takes_return_address(b, target)) {
            s->flags[at - size] |= END;
            if (at < s->length)
                s->flags[at] |= TRIED;
            return count;
        }
    }
}

bool mk_blocks_follow(struct mk_blocks *b, int64_t budget)
{
    while (b->todo_count && budget > 0) {
        uint64_t address = b->todo[--b->todo_count];
        b->entries = 0;
        budget -= (int64_t)follow(b, address) + 1;
        budget -= b->entries;
    }
    return !b->todo_count;
}
