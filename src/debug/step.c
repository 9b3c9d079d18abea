/* step.c - one instruction of a vCPU, whatever is at its address. See engine.h.
 *
 * KVM_SET_GUEST_DEBUG sets TF for the RIP that the vCPU has at that moment, so it comes after the
 * registers are set and before every entry (Documentation/virt/kvm/api.rst, 4.87). Interrupts wait
 * meanwhile. An exit ends a step when RIP has changed, whatever the exit is. */
#include "debug/engine.h"

#include "x86/access.h"
#include "x86/mode.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define ATTEMPTS 16 /* KVM may stop at the instruction itself first */
#define EXCEPTIONS 32
#define FLAG_TF 0x100u
#define HLT 0xf4

/* The instruction to be executed, and the vCPU before it. */
struct step {
    uint64_t linear;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    uint8_t code[MK_LONGEST_INSTRUCTION];
    unsigned length; /* bytes of code that are mapped */
};

static void set_stepping(struct mk_vcpu *c, bool on)
{
    struct kvm_guest_debug debug = { .control =
                                         on ? KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP : 0 };
    mk_ioctl(c->fd, KVM_SET_GUEST_DEBUG, &debug);
    cpu_of(c)->stepping = on;
}

void step_end(struct mk_vcpu *c)
{
    struct cpu *k = cpu_of(c);
    if (k->stepping && !k->trailing)
        set_stepping(c, false);
}

/* --- the instruction --- */

static bool begin(struct mk_vcpu *c, struct step *t)
{
    if (c->incomplete || c->run->kvm_dirty_regs)
        mk_vcpu_complete(c);
    t->regs = *mk_vcpu_get_regs(c);
    if (!debug_sregs(c, &t->sregs))
        return false;
    t->linear = debug_linear(&t->sregs, t->regs.rip);
    t->length = mk_fetch_code(c, &t->sregs, t->linear, t->code, MK_LONGEST_INSTRUCTION);
    return true;
}

/* The first byte that is no prefix (SDM volume 2, 2.1.1); *repeated: one of them is REP. */
static uint8_t opcode(const struct step *t, bool *repeated)
{
    unsigned i = 0;
    bool rep = false;
    for (; i < t->length; i++) {
        uint8_t b = t->code[i];
        bool prefix = b == 0x66 || b == 0x67 || b == 0xf0 || (b & 0xfe) == 0xf2 ||
                      (b & 0xe7) == 0x26 || (b & 0xfe) == 0x64 ||
                      (t->sregs.cs.l && (b & 0xf0) == 0x40);
        if (!prefix)
            break;
        rep |= (b & 0xfe) == 0xf2;
    }
    if (repeated)
        *repeated = rep;
    return i < t->length ? t->code[i] : 0;
}

/* A string instruction that has more to do: stays at its address. */
static bool repeats(const struct step *t)
{
    bool rep;
    uint8_t op = opcode(t, &rep);
    return rep && ((op & 0xfc) == 0x6c || (op & 0xfc) == 0xa4 || (op & 0xfc) == 0xac ||
                   (op & 0xfe) == 0xaa || (op & 0xfe) == 0xa6);
}

/* CPL is that of SS (SDM volume 3, 5.5); a HLT elsewhere faults. */
static bool halts(const struct step *t)
{
    return t->length && opcode(t, NULL) == HLT && t->sregs.ss.dpl == 0;
}

/* Its patches, those in its other bytes included, while no other vCPU may run into them. */
static void lift_patches(struct mk_vcpu *c, const struct step *t)
{
    struct mk_debug *d = debug_of(c);
    pthread_mutex_lock(&d->lock);
    for (uint64_t at = t->linear; at <= t->linear + MK_LONGEST_INSTRUCTION;
         at += MK_LONGEST_INSTRUCTION) {
        struct mk_walk w = mk_walk(&d->vm->mem, &t->sregs, at);
        if (w.present)
            page_lift(d, w.address);
    }
    pthread_mutex_unlock(&d->lock);
}

/* --- what came of it --- */

/* PUSHF has stored TF, which is KVM's (SDM volume 2, PUSHF). */
static void correct_flags(struct mk_vcpu *c, const struct step *t)
{
    uint8_t high;
    if (opcode(t, NULL) != 0x9c || t->regs.rflags & FLAG_TF)
        return;
    const struct kvm_sregs *s = &t->sregs;
    bool wide = s->cs.l && s->efer & MK_EFER_LMA;
    uint64_t mask = wide ? UINT64_MAX : s->ss.db ? UINT32_MAX : 0xffff;
    uint64_t at = (mk_vcpu_get_regs(c)->rsp + 1) & mask;
    struct mk_walk w = mk_walk(c->mem, s, wide ? at : (uint32_t)(s->ss.base + at));
    if (w.present && mk_mem_read(c->mem, w.address, &high, 1) && high & FLAG_TF >> 8) {
        high &= (uint8_t) ~(FLAG_TF >> 8);
        mk_mem_write(c->mem, w.address, &high, 1);
    }
}

/* Of protected mode: code segments begin at 0. */
uint64_t step_handler(struct mk_vcpu *c, const struct kvm_sregs *s, unsigned vector)
{
    uint16_t gate[8] = { 0 };
    bool real = !(s->cr0 & MK_CR0_PE);
    unsigned size = real ? 4 : s->efer & MK_EFER_LMA ? 16 : 8;
    struct mk_walk w = mk_walk(c->mem, s, s->idt.base + (uint64_t)vector * size);
    if ((vector + 1) * size - 1 > s->idt.limit || !w.present ||
        !mk_mem_read(c->mem, w.address, gate, size))
        return NOWHERE;
    if (real)
        return gate[0] + ((uint64_t)gate[1] << 4);
    uint64_t low = gate[0] | (uint32_t)gate[3] << 16;
    return size == 8 ? low : low | (uint64_t)gate[4] << 32 | (uint64_t)gate[5] << 48;
}

/* The instruction raised an exception, and the vCPU is at its handler: it begins again later. */
static void note_fault(struct mk_vcpu *c, const struct step *t, uint64_t rip)
{
    struct cpu *k = cpu_of(c);
    struct kvm_sregs s;
    bool handler = false;
    if (rip - t->regs.rip <= MK_LONGEST_INSTRUCTION || !debug_sregs(c, &s))
        return;
    for (unsigned i = 0; i < EXCEPTIONS && !handler; i++)
        handler = step_handler(c, &s, i) == debug_linear(&s, rip);
    if (handler) {
        k->faulted.pending = true;
        k->faulted.at = t->linear;
        k->faulted.rsp = t->regs.rsp;
        k->faulted.cr3 = t->sregs.cr3;
    }
}

/* An access is finished now, so that RIP tells whether the instruction is. */
static void finish_access(struct mk_vcpu *c)
{
    for (int i = 0; i < ATTEMPTS && c->incomplete && c->end.reason == MK_RUNNING; i++) {
        int code = mk_vcpu_enter(c, true) < 0 ? errno : 0;
        if (code == 0 && c->run->exit_reason != KVM_EXIT_DEBUG)
            mk_vcpu_exit(c);
    }
}

/* Interrupted, or done: false when it is to be tried again. */
static bool came_to(struct mk_vcpu *c, const struct step *t, int code)
{
    struct cpu *k = cpu_of(c);
    bool stepped = code == 0 && c->run->exit_reason == KVM_EXIT_DEBUG;
    run_serve(c, code);
    finish_access(c);
    uint64_t rip = mk_vcpu_get_regs(c)->rip;
    if (code == EINTR || code == EAGAIN) { /* in an exception's handler: that runs on */
        k->trailing = rip != t->regs.rip;
        k->over = k->over && !k->trailing;
        return true;
    }
    if (rip == t->regs.rip && stepped)
        return false;
    if (stepped)
        correct_flags(c, t);
    note_fault(c, t, rip);
    if (rip != t->regs.rip || !repeats(t))
        k->over = k->told = false;
    return true;
}

static void halt(struct mk_vcpu *c, const struct step *t)
{
    struct kvm_regs regs = t->regs;
    bool real = !(t->sregs.cr0 & MK_CR0_PE);
    regs.rip = real ? (uint16_t)(regs.rip + 1) : regs.rip + 1;
    cpu_of(c)->over = cpu_of(c)->told = false;
    mk_vcpu_set_regs(c, &regs);
    c->run->exit_reason = KVM_EXIT_HLT;
    mk_vcpu_exit(c);
}

void step_one(struct mk_vcpu *c)
{
    struct cpu *k = cpu_of(c);
    struct step t;
    bool done = false;
    if (debug_of(c)->traces && !k->told)
        trace_tell(c);
    k->told = true;
    if (c->end.reason != MK_RUNNING || !begin(c, &t))
        return;
    if (halts(&t)) {
        halt(c, &t);
        return;
    }
    for (int i = 0; i < ATTEMPTS && !done && c->end.reason == MK_RUNNING; i++) {
        run_hold(c);
        lift_patches(c, &t);
        c->run->request_interrupt_window = 0;
        set_stepping(c, true);
        k->trailing = false;
        int code = run_enter(c, false) < 0 ? errno : 0;
        run_release(c);
        mk_vcpu_drain(c);
        done = came_to(c, &t, code);
        if (!done && repeats(&t))
            return;
    }
    if (!done)
        k->over = k->told = false;
}
