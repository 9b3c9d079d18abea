/* transfer.c - control transfers that a weak KVM does not carry out: int n, int3, iret (SDM volume
 * 2, INT n and IRET). See assist.h. */
#include "x86/weak/state.h"

#include "x86/mode.h"

#define FLAG_NT 0x4000u
#define FLAG_VM 0x20000u
#define TASK_GATE 5
#define INTERRUPT_GATE 6 /* bit 0: trap gate; bit 3: of 32 or 64 bits */

/* The gate of `int n`, with the checks of SDM volume 2, INT n: the exception, 0 when it is right,
 * -1 when the IDT is not in memory. */
static int check_gate(const struct mk_weak_exit *x, uint8_t vector, uint8_t gate[8])
{
    const struct kvm_sregs *s = &x->s.sregs;
    unsigned size = s->efer & MK_EFER_LMA ? 16 : 8;
    if ((vector + 1u) * size - 1 > s->idt.limit)
        return MK_GP;
    if (!mk_weak_copy(x, s->idt.base + vector * size, gate, 8, false))
        return -1;
    unsigned type = gate[5] & 0x1f, dpl = gate[5] >> 5 & 3;
    if ((type != TASK_GATE && (type & 0x16) != INTERRUPT_GATE) || dpl < (s->cs.selector & 3u))
        return MK_GP;
    return gate[5] & 0x80 ? 0 : MK_NP;
}

/* The same for the code segment that the gate leads to, whose selector goes into *code. */
static int check_target(const struct mk_weak_exit *x, const uint8_t gate[8], uint32_t *code)
{
    const struct kvm_sregs *s = &x->s.sregs;
    uint16_t selector = (uint16_t)(gate[2] | gate[3] << 8);
    struct kvm_segment cs;
    *code = selector & 0xfffc;
    if (!mk_descriptor_load(x->c->mem, s, selector, &cs) || !cs.s || !(cs.type & 8) ||
        cs.dpl > (s->cs.selector & 3))
        return MK_GP;
    return cs.present ? 0 : MK_NP;
}

/* Delivered like an interrupt: to KVM, vectors above 31, and 2, are not exceptions. Where it raises
 * an exception itself, RIP stays at the instruction. */
static bool software_interrupt(struct mk_weak_exit *x, uint8_t vector, uint64_t length)
{
    uint8_t gate[8];
    uint32_t code = vector * 8u + 2;
    int exception = check_gate(x, vector, gate);
    if (!exception && (gate[5] & 0x1f) != TASK_GATE)
        exception = check_target(x, gate, &code);
    if (exception < 0)
        return false;
    if (exception) {
        mk_weak_raise(x, (uint8_t)exception, code);
        return true;
    }
    mk_weak_clear_exception(x);
    x->s.regs.rip = (x->s.regs.rip + length) & x->mask;
    x->s.events.interrupt.injected = 1;
    x->s.events.interrupt.nr = vector;
    x->s.events.interrupt.soft = 0;
    return mk_weak_commit(x);
}

/* What an iret takes from the stack. */
struct frame {
    uint32_t eip, cs, eflags, esp, ss;
    uint32_t bytes;
};

/* Reads the frame, with the outer stack pointer when the ring changes. */
static bool read_frame(const struct mk_weak_exit *x, bool wide, struct frame *f)
{
    uint32_t size = wide ? 4 : 2, words[5] = { 0 };
    unsigned count = 3, cpl = x->s.sregs.cs.selector & 3;
    for (unsigned i = 0; i < count; i++) {
        uint64_t at = mk_stack_address(&x->s.sregs, x->s.regs.rsp + i * size);
        if (!mk_weak_copy(x, at, &words[i], size, false))
            return false;
        if (i == 1 && (words[1] & 3) > cpl)
            count = 5;
    }
    *f = (struct frame){ words[0], words[1] & 0xffff, words[2],
                         words[3], words[4] & 0xffff, count * size };
    return true;
}

/* The descriptor of a selector, with the checks of SDM volume 2, IRET; the exception or 0. */
static uint8_t load_descriptor(const struct mk_weak_exit *x, uint32_t selector, bool is_code,
                               struct kvm_segment *segment)
{
    if (!mk_descriptor_load(x->c->mem, &x->s.sregs, (uint16_t)selector, segment))
        return MK_GP;
    unsigned rpl = selector & 3;
    bool right = segment->s && (is_code ? segment->type & 8 : (segment->type & 0xa) == 2);
    bool conforming = is_code && segment->type & 4;
    if (!right || (conforming ? segment->dpl > rpl : segment->dpl != rpl))
        return MK_GP;
    segment->type |= 1; /* accessed */
    return segment->present ? 0 : is_code ? MK_NP : MK_SS_FAULT;
}

/* CS, and SS when the ring changes. Returns the exception or 0, and whose selector it is about. */
static uint8_t load_segments(const struct mk_weak_exit *x, const struct frame *f,
                             struct kvm_segment *cs, struct kvm_segment *ss, uint32_t *culprit)
{
    unsigned rpl = f->cs & 3, cpl = x->s.sregs.cs.selector & 3;
    *culprit = f->cs;
    uint8_t vector = rpl < cpl ? MK_GP : load_descriptor(x, f->cs, true, cs);
    if (vector || rpl == cpl)
        return vector;
    *culprit = f->ss;
    return (f->ss & 3) == rpl ? load_descriptor(x, f->ss, false, ss) : MK_GP;
}

/* Segments that the outer ring may not use are emptied. */
static void drop_inner(struct kvm_sregs *s, unsigned rpl)
{
    struct kvm_segment *segments[] = { &s->ds, &s->es, &s->fs, &s->gs };
    for (size_t i = 0; i < MK_COUNT(segments); i++)
        if (segments[i]->dpl < rpl && (segments[i]->type & 0xc) != 0xc)
            *segments[i] = (struct kvm_segment){ .unusable = 1 };
}

/* IOPL may change at CPL 0 only, IF where CPL <= IOPL. */
static uint64_t new_flags(const struct mk_weak_exit *x, uint32_t popped, bool wide)
{
    uint64_t old = x->s.regs.rflags;
    unsigned cpl = x->s.sregs.cs.selector & 3;
    uint64_t allowed = 0x4dd5; /* the status flags, TF, DF, NT */
    if (wide)
        allowed |= 0x250000; /* RF, AC, ID */
    if (cpl == 0)
        allowed |= 0x3000;
    if (cpl <= (old >> 12 & 3))
        allowed |= MK_RFLAGS_IF;
    return (old & ~allowed) | (popped & allowed) | 2;
}

/* The write that faulted, when the handler has mapped its page and returns to it. */
static void complete_deferred_write(struct mk_weak_exit *x, const struct frame *f)
{
    if (x->a->assist.deferred.pending && x->a->assist.deferred.rip == f->eip)
        mk_weak_copy(x, x->a->assist.deferred.linear, x->a->assist.deferred.data,
                     x->a->assist.deferred.length, true);
    x->a->assist.deferred.pending = false;
}

/* Not done: task returns (NT) and returns to virtual-8086 mode. */
static bool iret(struct mk_weak_exit *x, bool wide)
{
    struct frame f;
    struct kvm_segment cs, ss = x->s.sregs.ss;
    uint32_t culprit;
    if (x->s.regs.rflags & (FLAG_NT | FLAG_VM) || !read_frame(x, wide, &f) ||
        (wide && f.eflags & FLAG_VM))
        return false;
    uint8_t vector = load_segments(x, &f, &cs, &ss, &culprit);
    if (vector) {
        mk_weak_raise(x, vector, culprit & 0xfffc);
        return true;
    }
    bool outward = (f.cs & 3) > (x->s.sregs.cs.selector & 3);
    uint64_t rsp = x->s.regs.rsp, mask = ss.db ? UINT32_MAX : 0xffff;
    x->s.regs.rflags = new_flags(x, f.eflags, wide);
    x->s.regs.rip = f.eip;
    x->s.regs.rsp = outward ? f.esp : (rsp & ~mask) | ((rsp + f.bytes) & mask);
    complete_deferred_write(x, &f);
    x->s.sregs.cs = cs;
    x->s.sregs.ss = ss;
    if (outward)
        drop_inner(&x->s.sregs, f.cs & 3);
    x->s.events.nmi.masked = 0; /* an iret lets the next NMI in (SDM 6.7.1) */
    mk_weak_clear_exception(x);
    return mk_weak_commit(x);
}

/* The instruction that KVM failed at, if it is one of ours. Prefix 66 changes the operand size. */
bool mk_weak_transfer(struct mk_weak_exit *x, uint64_t rip)
{
    const struct kvm_sregs *s = &x->s.sregs;
    uint8_t code[2];
    if (!(s->cr0 & MK_CR0_PE) || !mk_weak_copy(x, rip, code, 1, false))
        return false;
    unsigned prefix = code[0] == 0x66;
    if (prefix && !mk_weak_copy(x, rip + 1, code, 1, false))
        return false;
    if (code[0] == 0xcf && !(s->efer & MK_EFER_LMA))
        return iret(x, s->cs.db != prefix);
    if (code[0] == 0xcc)
        return software_interrupt(x, 3, 1 + prefix);
    return code[0] == 0xcd && mk_weak_copy(x, rip + 1 + prefix, code, 1, false) &&
           software_interrupt(x, code[0], 2 + prefix);
}
