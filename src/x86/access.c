/* access.c - see access.h. Encodings: Intel SDM volume 2, OUT and OUTS. */
#include "x86/access.h"

#include "x86/mode.h"

#define PREFIXED 4 /* of an OUT with a prefix or two */

static bool is_prefix(uint8_t byte, bool wide)
{
    return byte == 0x66 || byte == 0x67 || byte == 0xf2 || byte == 0xf3 || (byte & 0xe7) == 0x26 ||
           byte == 0x64 || byte == 0x65 || (wide && (byte & 0xf0) == 0x40);
}

struct out {
    unsigned length; /* 0: it is none, or not the one that is served */
    bool repeated;
};

/* The bytes as an OUT of the size and to the port that is served. */
static struct out decode(struct mk_vcpu *c, const struct kvm_segment *cs, const uint8_t *bytes,
                         unsigned count)
{
    const struct kvm_run *run = c->run;
    struct out out = { 0 };
    unsigned i = 0, narrow = !cs->l && !cs->db;
    for (; i < count && is_prefix(bytes[i], cs->l); i++) {
        narrow ^= bytes[i] == 0x66;
        out.repeated |= (bytes[i] & 0xfe) == 0xf2;
    }
    if (i == count || run->io.size != (bytes[i] & 1 ? (narrow ? 2 : 4) : 1))
        return out;
    uint8_t opcode = bytes[i] & 0xfe;
    bool by_dx = opcode == 0xee || opcode == 0x6e; /* OUT DX; OUTS */
    if (by_dx && (uint16_t)mk_vcpu_get_regs(c)->rdx == run->io.port)
        out.length = i + 1;
    else if (opcode == 0xe6 && i + 1 < count && bytes[i + 1] == run->io.port)
        out.length = i + 2;
    out.repeated &= opcode == 0x6e;
    return out;
}

/* The length of the OUT that ends at RIP; 0: there is none. */
static unsigned out_before(struct mk_vcpu *c, const struct kvm_sregs *s, uint64_t rip)
{
    uint8_t bytes[PREFIXED];
    for (unsigned n = 1; n <= PREFIXED; n++)
        if (mk_fetch_code(c->mem, s, rip - n, bytes, n) == n &&
            decode(c, &s->cs, bytes, n).length == n)
            return n;
    return 0;
}

uint64_t mk_access_rip(struct mk_vcpu *c, bool may_enter)
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
        decode(c, &s.cs, bytes, mk_fetch_code(c->mem, &s, rip, bytes, MK_LONGEST_INSTRUCTION));
    if (at.repeated) /* stays at it until the last item is out */
        return rip;
    if (at.length && may_enter) { /* which of the two? One that is not complete moves on now */
        mk_vcpu_complete(c);
        if (mk_vcpu_get_regs(c)->rip != rip)
            return rip;
    }
    return rip - before;
}
