/* step.c - one instruction of a vCPU, whatever is at its address. See engine.h.
 *
 * KVM_SET_GUEST_DEBUG sets TF for the RIP that the vCPU has at that moment, so it comes after the
 * registers are set and before every entry (Documentation/virt/kvm/api.rst, 4.87). Interrupts wait
 * meanwhile. An exit ends a step when RIP has changed, whatever the exit is. */
#include "debug/engine.h"

#include "vm/trace.h"
#include "x86/mode.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define ATTEMPTS 16   /* KVM may stop at the instruction itself first */
#define FRAME_WORDS 6 /* looked through for an exception's frame */
#define FLAG_TF 0x100u

/* The instruction to be executed, and the vCPU before it. */
struct step {
    uint64_t linear;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    uint8_t code[MK_LONGEST_INSTRUCTION];
    unsigned length; /* bytes of code that are mapped */
    uint8_t opcode;  /* 0: none is */
    bool repeated;   /* by a prefix */
};

/* The general registers' TF, which a program of the outer rings is stepped by: its #DB comes to the
 * guest's handler, which has a patch (ring.c). Not every KVM keeps it from the guest. */
static void set_trap_flag(struct mk_vcpu *c, bool on)
{
    struct kvm_regs regs = *mk_vcpu_get_regs(c);
    bool is = regs.rflags & FLAG_TF;
    regs.rflags = on ? regs.rflags | FLAG_TF : regs.rflags & ~(uint64_t)FLAG_TF;
    if (is != on)
        debug_set_regs(c, &regs);
}

/* While KVM steps, an instruction that is at one of the addresses would stop before it is done.
 * DR7: a local bit each, of execution (SDM volume 3, 18.2.4). */
static void set_guest_debug(struct mk_vcpu *c, bool step)
{
    const struct cpu *k = cpu_of(c);
    struct kvm_guest_debug debug = { 0 };
    if (step)
        debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
    else if (k->hardware_count)
        debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    for (unsigned i = 0; !step && i < k->hardware_count; i++) {
        debug.arch.debugreg[i] = k->hardware[i];
        debug.arch.debugreg[7] |= UINT64_C(1) << (2 * i);
    }
    cpu_of(c)->undone = mk_ioctl(c->fd, KVM_SET_GUEST_DEBUG, &debug) < 0;
    if (cpu_of(c)->undone && mk_vcpu_is_current(c))
        mk_vcpu_end(c, MK_ERROR, 0, true, "KVM does not %s: %s",
                    step ? "step" : "set debug registers", strerror(errno));
}

static void set_stepping(struct mk_vcpu *c, bool on)
{
    if (cpu_of(c)->by_flag)
        set_trap_flag(c, on);
    else
        set_guest_debug(c, on);
    cpu_of(c)->stepping = on;
}

void step_set_hardware(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    struct cpu *k = cpu_of(c);
    uint64_t address[MK_BREAKS_HIDDEN];
    unsigned n = 0;
    if (k->hardware_of == d->changes)
        return;
    k->hardware_of = d->changes;
    for (size_t i = 0; d->hidden && i < d->count; i++)
        if (d->list[i]->o.hidden)
            address[n++] = d->list[i]->o.address;
    for (size_t i = 0; i < d->count && n < MK_BREAKS_HIDDEN; i++)
        if (!d->list[i]->places && !d->list[i]->o.physical && !d->list[i]->o.hidden)
            address[n++] = d->list[i]->o.address;
    if (n == k->hardware_count && memcmp(address, k->hardware, n * sizeof(address[0])) == 0)
        return;
    memcpy(k->hardware, address, n * sizeof(address[0]));
    k->hardware_count = n;
    if (!k->stepping || k->by_flag)
        set_guest_debug(c, false);
}

bool step_is_hardware(const struct mk_vcpu *c, uint64_t linear)
{
    const struct cpu *k = cpu_of(c);
    bool is = false;
    for (unsigned i = 0; i < k->hardware_count; i++)
        is |= k->hardware[i] == linear;
    return is;
}

void step_clear_hardware(struct mk_vcpu *c)
{
    struct cpu *k = cpu_of(c);
    k->hardware_of = 0;
    if (!k->hardware_count)
        return;
    k->hardware_count = 0;
    set_guest_debug(c, false);
}

/* A run that ended could not take it back. */
void step_begin(struct mk_vcpu *c)
{
    if (cpu_of(c)->undone)
        set_guest_debug(c, false);
}

void step_end(struct mk_vcpu *c)
{
    struct cpu *k = cpu_of(c);
    if (!k->stepping || k->trailing)
        return;
    if (k->by_flag)
        k->stepping = false;
    else
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
    t->linear = mk_code_address(&t->sregs, t->regs.rip);
    t->length = mk_fetch_code(c->mem, &t->sregs, t->regs.rip, t->code, MK_LONGEST_INSTRUCTION);
    struct mk_prefixes p = mk_prefixes(t->code, t->length, mk_code_bits(&t->sregs));
    t->opcode = p.length < t->length ? t->code[p.length] : 0;
    t->repeated = p.repeated;
    return true;
}

/* A string instruction that has more to do: stays at its address. */
static bool repeats(const struct step *t)
{
    uint8_t op = t->opcode;
    return t->repeated && ((op & 0xfc) == 0x6c || (op & 0xfc) == 0xa4 || (op & 0xfc) == 0xac ||
                           (op & 0xfe) == 0xaa || (op & 0xfe) == 0xa6);
}

/* A jump or loop, which may lead to itself: a step at its address is one. */
static bool jumps(const struct step *t)
{
    uint8_t op = t->opcode;
    return op == 0xeb || op == 0xe9 || (op & 0xf0) == 0x70 || (op & 0xfc) == 0xe0 || op == 0x0f ||
           op == 0xff || (op & 0xfe) == 0xc2;
}

/* CPL is that of SS (SDM volume 3, 5.5); a HLT elsewhere faults. */
static bool halts(const struct step *t)
{
    return t->opcode == HLT && t->sregs.ss.dpl == 0;
}

static void lift_range(struct mk_debug *d, uint64_t at, const struct kvm_sregs *s, unsigned left)
{
    for (unsigned n; left; at += n, left -= n) {
        struct mk_walk w = mk_walk(&d->vm->mem, s, at);
        n = MK_PAGE - at % MK_PAGE < left ? (unsigned)(MK_PAGE - at % MK_PAGE) : left;
        if (w.present)
            page_lift(d, w.address, n);
    }
}

/* Its patches, those in its other bytes included, while no other vCPU may run into them. */
static void lift_patches(struct mk_vcpu *c, const struct step *t)
{
    struct mk_debug *d = debug_of(c);
    pthread_mutex_lock(&d->lock);
    lift_range(d, t->linear, &t->sregs, MK_LONGEST_INSTRUCTION);
    const struct cpu *k = cpu_of(c);
    for (unsigned i = 0; k->accessing == 1 && i < k->accesses->count; i++) {
        const struct chunk *at = &k->accesses->list[i].at;
        page_unseal(d, at->gpa, at->length);
        lift_range(d, at->linear, &t->sregs, (unsigned)at->length);
    }
    if (k->accessing == 2) {
        page_lift_all(d);
        watch_open_all(d);
    }
    pthread_mutex_unlock(&d->lock);
}

/* --- what came of it --- */

/* A word on the stack, `at` bytes above its pointer. */
static bool copy_stack(struct mk_vcpu *c, const struct kvm_sregs *s, uint64_t at, unsigned bytes,
                       uint64_t *word, bool write)
{
    uint64_t linear = mk_stack_address(s, mk_vcpu_get_regs(c)->rsp + at);
    *word = write ? *word : 0;
    return mk_linear_copy(c->mem, s, linear, word, bytes, write) == bytes;
}

/* TF that was stored there is KVM's, or ours. */
static void clear_stored_flag(struct mk_vcpu *c, const struct step *t, const struct kvm_sregs *s,
                              uint64_t at)
{
    uint64_t word;
    if (t->regs.rflags & FLAG_TF || !copy_stack(c, s, at, 2, &word, false) || !(word & FLAG_TF))
        return;
    word &= ~(uint64_t)FLAG_TF;
    copy_stack(c, s, at, 2, &word, true);
}

/* Did an exception, or an INT, come of the instruction? Its frame is on the stack, below an error
 * code and what the handler has pushed since (SDM volume 3, 6.12.1). TF in it is not the guest's,
 * and after a fault the instruction begins again. */
static void note_frame(struct mk_vcpu *c, const struct step *t, uint64_t rip)
{
    struct cpu *k = cpu_of(c);
    struct kvm_sregs s;
    uint64_t word, cs;
    if (rip - t->regs.rip <= MK_LONGEST_INSTRUCTION || !debug_sregs(c, &s))
        return;
    unsigned size = !(s.cr0 & MK_CR0_PE) ? 2 : s.efer & MK_EFER_LMA ? 8 : 4;
    for (unsigned i = 0; i < FRAME_WORDS; i++) {
        if (!copy_stack(c, &s, i * size, size, &word, false) ||
            !copy_stack(c, &s, (i + 1) * size, 2, &cs, false))
            return;
        if (word - t->regs.rip > MK_LONGEST_INSTRUCTION || cs != t->sregs.cs.selector)
            continue;
        clear_stored_flag(c, t, &s, (i + 2) * size);
        k->faulted.pending = word == t->regs.rip;
        k->faulted.at = t->linear;
        k->faulted.rsp = t->regs.rsp;
        k->faulted.cr3 = t->sregs.cr3;
        return;
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

static bool in_outer_ring(struct mk_vcpu *c)
{
    struct kvm_sregs s;
    return debug_sregs(c, &s) && s.cr0 & MK_CR0_PE && s.ss.dpl == 3;
}

/* The instruction is executed. */
static void forget(struct cpu *k)
{
    k->over_at = NOWHERE;
    k->traced = false;
}

/* Interrupted, or done: false when it is to be tried again. */
static bool came_to(struct mk_vcpu *c, const struct step *t, int code)
{
    struct cpu *k = cpu_of(c);
    bool stepped = debug_of(c)->serve(c, code);
    finish_access(c);
    uint64_t rip = mk_vcpu_get_regs(c)->rip;
    if (k->by_flag && !(t->regs.rflags & FLAG_TF) && in_outer_ring(c))
        set_trap_flag(c, false);
    else if (k->by_flag && !stepped)
        k->trailing = true;                /* it is in the kernel, and comes when that returns */
    if (code == EINTR || code == EAGAIN) { /* in an exception's handler: that runs on */
        k->trailing |= rip != t->regs.rip;
        if (k->trailing && k->over_at == t->linear)
            k->over_at = NOWHERE;
        return true;
    }
    if (rip == t->regs.rip && stepped && !jumps(t))
        return false;
    if (stepped && t->opcode == 0x9c) /* PUSHF */
        clear_stored_flag(c, t, &t->sregs, 0);
    note_frame(c, t, rip);
    if ((rip != t->regs.rip || !repeats(t)) && k->over_at == t->linear)
        forget(k); /* else it has come to another breakpoint */
    return true;
}

/* HLT is done here: KVMs differ in whether a step over it is told as one. An interrupt that KVM has
 * already ends it. */
static void halt(struct mk_vcpu *c, const struct step *t)
{
    struct kvm_vcpu_events events;
    struct kvm_regs regs = t->regs;
    bool real = !(t->sregs.cr0 & MK_CR0_PE);
    regs.rip = real ? (uint16_t)(regs.rip + 1) : regs.rip + 1;
    forget(cpu_of(c));
    debug_set_regs(c, &regs);
    if (mk_ioctl(c->fd, KVM_GET_VCPU_EVENTS, &events) == 0) {
        events.flags = KVM_VCPUEVENT_VALID_SHADOW;
        events.interrupt.shadow = 0; /* of an STI before it */
        mk_ioctl(c->fd, KVM_SET_VCPU_EVENTS, &events);
        c->synced = 0;
        if (events.interrupt.injected)
            return;
    }
    c->run->exit_reason = KVM_EXIT_HLT;
    mk_vcpu_exit(c);
}

/* A program of an outer ring is stepped by TF, if the guest has a handler for what comes of it. */
static void choose_means(struct mk_vcpu *c, const struct step *t)
{
    struct mk_debug *d = debug_of(c);
    struct cpu *k = cpu_of(c);
    bool outer = t->sregs.cr0 & MK_CR0_PE && t->sregs.ss.dpl == 3;
    step_end(c);
    if (outer) {
        pthread_mutex_lock(&d->lock);
        ring_place(d, c, &t->sregs);
        page_insert_all(d);
        pthread_mutex_unlock(&d->lock);
    }
    k->by_flag = outer && k->handler[0].gpa != NOWHERE;
    k->trailing = false;
}

/* Who traces the VM is told of the instruction. */
static void report(struct mk_vcpu *c)
{
    uint8_t code[MK_LONGEST_INSTRUCTION];
    struct kvm_sregs s;
    if (c->incomplete)
        mk_vcpu_complete(c);
    if (!debug_sregs(c, &s))
        return;
    const struct kvm_regs *regs = mk_vcpu_get_regs(c);
    struct mk_trace event = { .kind = MK_TRACE_STEP,
                              .address = regs->rsp,
                              .value = mk_code_bits(&s),
                              .bytes = (const char *)code };
    event.size = mk_fetch_code(c->mem, &s, regs->rip, code, sizeof(code));
    mk_trace(c, &event);
}

static void step_one(struct mk_vcpu *c)
{
    struct cpu *k = cpu_of(c);
    struct step t;
    bool done = false;
    if (debug_of(c)->traces && !k->traced)
        report(c);
    k->traced = true;
    if (c->end.reason != MK_RUNNING || !begin(c, &t))
        return;
    if (halts(&t)) {
        halt(c, &t);
        return;
    }
    for (int i = 0; i < ATTEMPTS && !done && c->end.reason == MK_RUNNING; i++) {
        alone_begin(c);
        choose_means(c, &t);
        lift_patches(c, &t);
        c->run->request_interrupt_window = 0;
        set_stepping(c, true);
        int code = EINTR;
        if (c->end.reason == MK_RUNNING)
            code = alone_enter(c, false) < 0 ? errno : 0;
        alone_end(c);
        mk_vcpu_drain(c);
        done = came_to(c, &t, code);
        if (!done && repeats(&t))
            return;
    }
    if (!done)
        forget(k);
}

bool step_over(struct mk_vcpu *c, uint64_t linear)
{
    struct cpu *k = cpu_of(c);
    k->over_at = linear;
    step_one(c);
    return k->over_at != linear;
}
