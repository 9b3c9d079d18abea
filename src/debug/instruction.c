/* instruction.c - see instruction.h. Encodings: Intel SDM volume 2, 2.1, 2.2.1 and appendix A. */
#include "debug/instruction.h"

#include "x86/mode.h"

#include <string.h>

#define PREFIXED 4 /* bytes of an OUT with a prefix or two */

enum { ES, CS, SS, DS, FS, GS };

struct mk_prefixes mk_prefixes(const uint8_t *code, unsigned length, unsigned bits)
{
    struct mk_prefixes p = { .segment = -1 };
    for (; p.length < length; p.length++) {
        uint8_t b = code[p.length];
        if (b == 0x66)
            p.operand = true;
        else if (b == 0x67)
            p.address = true;
        else if ((b & 0xe7) == 0x26)
            p.segment = b >> 3 & 3;
        else if ((b & 0xfe) == 0x64)
            p.segment = b == 0x64 ? FS : GS;
        else if ((b & 0xfe) == 0xf2)
            p.repeated = true;
        else if (bits == 64 && (b & 0xf0) == 0x40)
            p.rex = b;
        else if (b != 0xf0)
            break;
    }
    return p;
}

/* --- operands --- */

struct decoder {
    const uint8_t *code;
    unsigned at, length;
    const struct kvm_regs *regs;
    const struct kvm_sregs *sregs;
    unsigned bits;    /* 16, 32, 64 */
    unsigned operand; /* bytes of an operand */
    unsigned address; /* bits of an address */
    uint8_t rex;
    int segment; /* of a prefix; -1: none */
    bool repeated;
    unsigned widest; /* bytes of an operand that is not a general one */
    struct mk_operand *out;
    unsigned count;
};

static uint8_t next(struct decoder *d)
{
    return d->at < d->length ? d->code[d->at++] : 0;
}

static uint64_t reg(const struct decoder *d, unsigned number)
{
    return mk_general_register(d->regs, number);
}

static uint64_t base_of(const struct decoder *d, int segment)
{
    const struct kvm_sregs *s = d->sregs;
    const struct kvm_segment *all[] = { &s->es, &s->cs, &s->ss, &s->ds, &s->fs, &s->gs };
    return d->bits == 64 && segment < FS ? 0 : all[segment]->base;
}

static void add(struct decoder *d, int segment, uint64_t offset, unsigned size, bool write)
{
    if (d->address < 64)
        offset &= (UINT64_C(1) << d->address) - 1;
    uint64_t linear = base_of(d, segment) + offset;
    if (d->bits != 64)
        linear = (uint32_t)linear;
    if (d->count < MK_OPERANDS)
        d->out[d->count++] = (struct mk_operand){ linear, size, write };
}

static uint64_t displacement(struct decoder *d, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)next(d) << (8 * i);
    return bytes == 1 ? (uint64_t)(int8_t)value : bytes == 4 ? (uint64_t)(int32_t)value : value;
}

/* The offset that ModRM names in 16-bit addressing (table 2-1). */
static uint64_t offset16(struct decoder *d, uint8_t modrm, int *segment)
{
    static const int8_t first[] = { 3, 3, 5, 5, 6, 7, 5, 3 },
                        second[] = { 6, 7, 6, 7, -1, -1, -1, -1 };
    unsigned mod = modrm >> 6, rm = modrm & 7;
    if (mod == 0 && rm == 6)
        return displacement(d, 2);
    uint64_t offset = reg(d, (unsigned)first[rm]);
    if (second[rm] >= 0)
        offset += reg(d, (unsigned)second[rm]);
    if (first[rm] == 5)
        *segment = SS;
    return offset + displacement(d, mod);
}

/* The same in the others (tables 2-2 and 2-3). *relative: to the next instruction. */
static uint64_t offset32(struct decoder *d, uint8_t modrm, int *segment, bool *relative)
{
    unsigned mod = modrm >> 6, base = (modrm & 7) | (d->rex & 1) << 3;
    uint64_t offset = 0;
    if ((modrm & 7) == 4) {
        uint8_t sib = next(d);
        unsigned index = (sib >> 3 & 7) | (d->rex & 2) << 2;
        base = (sib & 7) | (d->rex & 1) << 3;
        offset = index == 4 ? 0 : reg(d, index) << (sib >> 6);
    } else if (mod == 0 && (modrm & 7) == 5) {
        *relative = d->bits == 64;
        return displacement(d, 4);
    }
    if (mod == 0 && (base & 7) == 5)
        return offset + displacement(d, 4);
    if (base == 4 || base == 5)
        *segment = SS;
    return offset + reg(d, base) + displacement(d, mod == 2 ? 4 : mod);
}

static bool has_modrm(uint8_t op)
{
    return (op < 0x40 && (op & 7) < 4) || op == 0x62 || op == 0x63 || op == 0x69 || op == 0x6b ||
           (op >= 0x80 && op <= 0x8f) || op == 0xc0 || op == 0xc1 || (op >= 0xc4 && op <= 0xc7) ||
           (op >= 0xd0 && op <= 0xd3) || (op >= 0xd8 && op <= 0xdf) || (op & 0xf6) == 0xf6;
}

static bool has_modrm_0f(uint8_t op)
{
    return !(op >= 0x04 && op <= 0x0b) && !(op >= 0x30 && op <= 0x37) && op != 0x77 &&
           (op & 0xf0) != 0x80 && op != 0xa0 && op != 0xa1 && op != 0xa2 && op != 0xa8 &&
           op != 0xa9 && op != 0xaa && !(op >= 0xc8 && op <= 0xcf);
}

/* Does the instruction write to its operand in memory? */
static bool writes(uint8_t op, unsigned digit)
{
    if (op < 0x40)
        return (op & 7) < 2 && op < 0x38;
    switch (op) {
    case 0x80:
    case 0x81:
    case 0x82:
    case 0x83: return digit != 7;
    case 0x86:
    case 0x87:
    case 0x88:
    case 0x89:
    case 0x8c:
    case 0x8f: return true;
    case 0xf6:
    case 0xf7: return digit == 2 || digit == 3;
    case 0xfe:
    case 0xff: return digit < 2;
    default:
        return (op >= 0xc0 && op <= 0xd3 && op != 0xc4 && op != 0xc5) || (op >= 0xd8 && op <= 0xdf);
    }
}

static bool writes_0f(uint8_t op)
{
    static const uint8_t list[] = { 0x00, 0x01, 0x11, 0x13, 0x17, 0x29, 0x2b, 0x7e, 0x7f,
                                    0xa4, 0xa5, 0xab, 0xac, 0xad, 0xae, 0xb0, 0xb1, 0xb3,
                                    0xba, 0xbb, 0xc0, 0xc1, 0xc3, 0xc7, 0xd6, 0xe7 };
    return (op & 0xf0) == 0x90 || memchr(list, op, sizeof(list));
}

/* Maps of opcodes: of one byte, behind 0F, 0F 38 and 0F 3A. */
enum { ONE, TWO, THREE_38, THREE_3A, NO_MAP };

/* Escape bytes or a VEX prefix (SDM volume 2, 2.3.5) lead to a map. EVEX is not known. */
static unsigned find_map(struct decoder *d, uint8_t *op)
{
    *op = next(d);
    uint8_t after = d->at < d->length ? d->code[d->at] : 0;
    bool vex = (*op == 0xc4 || *op == 0xc5) && (d->bits == 64 || after >= 0xc0);
    if (*op == 0x62 && (d->bits == 64 || after >= 0xc0))
        return NO_MAP;
    if (vex) {
        bool longer = *op == 0xc4;
        d->at += longer ? 2 : 1;
        d->rex = longer && d->bits == 64 ? (after >> 5 & 3) ^ 3 : 0;
        d->widest = 32;
        *op = next(d);
        return longer ? after & 0x1f : TWO;
    }
    if (*op != 0x0f)
        return ONE;
    *op = next(d);
    unsigned map = *op == 0x38 ? THREE_38 : *op == 0x3a ? THREE_3A : TWO;
    *op = map == TWO ? *op : next(d);
    return map;
}

static bool writes_in(const struct decoder *d, unsigned map, uint8_t op, unsigned digit)
{
    switch (map) {
    case ONE: return writes(op, digit);
    case TWO: return writes_0f(op);
    case THREE_38:
        return op == 0x2e || op == 0x2f || op == 0x8e || (op == 0xf1 && !d->repeated); /* CRC32 */
    default: return (op & 0xfc) == 0x14 || op == 0x19 || op == 0x1d || op == 0x39;
    }
}

/* Bytes of an immediate operand behind one in memory. */
static unsigned immediate(const struct decoder *d, unsigned map, uint8_t op, unsigned digit)
{
    if (map == TWO)
        return op == 0xba || (op & 0xf7) == 0xa4 || (op & 0xfc) == 0x70 || op == 0xc2 ||
               op == 0xc4 || op == 0xc6;
    if (map != ONE)
        return map == THREE_3A;
    if (op == 0x69 || op == 0x81 || op == 0xc7 || (op == 0xf7 && digit < 2))
        return d->operand == 2 ? 2 : 4;
    return op == 0x80 || op == 0x83 || op == 0x6b || op == 0xc0 || op == 0xc1 || op == 0xc6 ||
           (op == 0xf6 && digit < 2);
}

/* Bytes that the stack moves by. */
static unsigned word(const struct decoder *d)
{
    return d->bits == 64 ? 8 : d->operand;
}

static void add_modrm(struct decoder *d, unsigned map, uint8_t op)
{
    uint8_t modrm = next(d);
    bool one = map == ONE, x87 = one && op >= 0xd8 && op <= 0xdf, relative = false,
         byte = one ? !(op & 1) && !x87 && op != 0x62 : map == TWO && (op & 0xf0) == 0x90;
    int segment = DS;
    if (modrm >> 6 == 3 || (one && op == 0x8d))
        return;
    uint64_t offset =
        d->address == 16 ? offset16(d, modrm, &segment) : offset32(d, modrm, &segment, &relative);
    unsigned digit = modrm >> 3 & 7;
    bool near = one && op == 0xff && digit >= 2 && !(digit & 1); /* CALL, JMP, PUSH */
    unsigned size = byte ? 1 : !one || x87 ? d->widest : near ? word(d) : d->operand;
    if (relative)
        offset += d->regs->rip + d->at + immediate(d, map, op, digit);
    add(d, d->segment >= 0 ? d->segment : segment, offset, size, writes_in(d, map, op, digit));
    if (near && digit != 4)
        add(d, SS, d->regs->rsp - word(d), word(d), true);
}

static void add_string(struct decoder *d, uint8_t op)
{
    unsigned size = op & 1 ? d->operand : 1;
    int source = d->segment >= 0 ? d->segment : DS;
    bool from = (op & 0xfc) == 0xa4 || (op & 0xfe) == 0xac || (op & 0xfe) == 0x6e;
    bool to = (op & 0xfe) != 0xac && (op & 0xfe) != 0x6e;
    if (from)
        add(d, source, d->regs->rsi, size, false);
    if (to)
        add(d, ES, d->regs->rdi, size, (op & 0xfe) == 0xa4 || (op & 0xfe) == 0xaa || op < 0x70);
}

/* PUSH, CALL and the like, POP, RET and the like. */
static void add_stack(struct decoder *d, uint8_t op)
{
    bool push = (op & 0xf8) == 0x50 || op == 0x68 || op == 0x6a || op == 0xe8 || op == 0x9c ||
                op == 0xc8 || op == 0x60 || (op < 0x20 && (op & 7) == 6);
    bool pop = (op & 0xf8) == 0x58 || op == 0xc2 || op == 0xc3 || op == 0xc9 || op == 0x9d ||
               op == 0x61 || op == 0xca || op == 0xcb || op == 0xcf ||
               (op < 0x20 && (op & 7) == 7 && op != 0x0f);
    unsigned many = op == 0x60 || op == 0x61   ? 8
                    : op == 0xcf               ? 5
                    : op == 0xcb || op == 0xca ? 2
                                               : 1;
    unsigned size = word(d) * many;
    if (push)
        add(d, SS, d->regs->rsp - size, size, true);
    if (pop)
        add(d, SS, op == 0xc9 ? d->regs->rbp : d->regs->rsp, size, false);
}

unsigned mk_operands(const uint8_t *code, unsigned length, const struct kvm_regs *regs,
                     const struct kvm_sregs *sregs, struct mk_operand operands[MK_OPERANDS])
{
    unsigned bits = mk_code_bits(sregs);
    struct mk_prefixes p = mk_prefixes(code, length, bits);
    bool narrow = (bits == 16) != p.operand, short_address = (bits == 16) != p.address;
    struct decoder d = { .code = code,
                         .at = p.length,
                         .length = length,
                         .regs = regs,
                         .sregs = sregs,
                         .bits = bits,
                         .operand = p.rex & 8 ? 8
                                    : narrow  ? 2
                                              : 4,
                         .address = bits == 64      ? (p.address ? 32 : 64)
                                    : short_address ? 16
                                                    : 32,
                         .rex = p.rex,
                         .segment = p.segment,
                         .repeated = p.repeated,
                         .widest = 16,
                         .out = operands };
    uint8_t op;
    unsigned map = find_map(&d, &op);
    if (map != ONE) {
        if (map < NO_MAP && (map != TWO || has_modrm_0f(op)))
            add_modrm(&d, map, op);
        return d.count;
    }
    if ((op & 0xfc) == 0x6c || (op >= 0xa4 && op <= 0xaf && (op & 0xfe) != 0xa8))
        add_string(&d, op);
    else if ((op & 0xfc) == 0xa0)
        add(&d, d.segment >= 0 ? d.segment : DS, displacement(&d, d.address / 8),
            op & 1 ? d.operand : 1, op >= 0xa2);
    else if (has_modrm(op))
        add_modrm(&d, ONE, op);
    else
        add_stack(&d, op);
    return d.count;
}

/* --- the access that is being served --- */

struct out {
    unsigned length; /* 0: it is none, or not the one that is served */
    bool repeated;
};

/* The bytes as an OUT of the size and to the port that is served. */
static struct out decode(struct mk_vcpu *c, const struct kvm_sregs *s, const uint8_t *bytes,
                         unsigned count)
{
    const struct kvm_run *run = c->run;
    unsigned bits = mk_code_bits(s);
    struct mk_prefixes p = mk_prefixes(bytes, count, bits);
    struct out out = { 0 };
    unsigned i = p.length, wide = (bits == 16) != p.operand ? 2 : 4;
    if (i == count || run->io.size != (bytes[i] & 1 ? wide : 1))
        return out;
    uint8_t opcode = bytes[i] & 0xfe;
    bool by_dx = opcode == 0xee || opcode == 0x6e; /* OUT DX; OUTS */
    if (by_dx && (uint16_t)mk_vcpu_get_regs(c)->rdx == run->io.port)
        out.length = i + 1;
    else if (opcode == 0xe6 && i + 1 < count && bytes[i + 1] == run->io.port)
        out.length = i + 2;
    out.repeated = p.repeated && opcode == 0x6e;
    return out;
}

/* The length of the OUT that ends at RIP; 0: there is none. */
static unsigned out_before(struct mk_vcpu *c, const struct kvm_sregs *s, uint64_t rip)
{
    uint8_t bytes[PREFIXED];
    for (unsigned n = 1; n <= PREFIXED; n++)
        if (mk_fetch_code(c->mem, s, rip - n, bytes, n) == n && decode(c, s, bytes, n).length == n)
            return n;
    return 0;
}

uint64_t mk_access_rip(struct mk_vcpu *c)
{
    uint64_t rip = mk_vcpu_get_regs(c)->rip;
    uint8_t bytes[MK_LONGEST_INSTRUCTION];
    struct kvm_sregs s;
    if (!c->in_access || c->run->exit_reason != KVM_EXIT_IO ||
        c->run->io.direction != KVM_EXIT_IO_OUT || mk_vcpu_get_guest_sregs(c, &s) < 0)
        return rip;
    unsigned before = out_before(c, &s, rip);
    if (!before)
        return rip;
    struct out at =
        decode(c, &s, bytes, mk_fetch_code(c->mem, &s, rip, bytes, MK_LONGEST_INSTRUCTION));
    if (at.repeated) /* stays at it until the last item is out */
        return rip;
    if (at.length) { /* which of the two? One that is not complete moves on now */
        mk_vcpu_complete(c);
        if (mk_vcpu_get_regs(c)->rip != rip)
            return rip;
    }
    return rip - before;
}
