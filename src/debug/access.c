/* access.c - the guest has accessed memory that is protected, because it has patches or is watched.
 * See engine.h.
 *
 * Where KVM's emulator made the access it is told like one to no memory, and carried out here.
 * Elsewhere KVM_RUN fails with EFAULT, or the instruction cannot be emulated: then it is executed
 * alone, with its memory unprotected, and the operands say what it has accessed. */
#include "debug/engine.h"

#include "x86/mode.h"

#define PARTS 8 /* accesses of one instruction */

static bool is_protected(struct mk_debug *d, uint64_t gpa, uint64_t length, bool write)
{
    pthread_mutex_lock(&d->lock);
    bool is = watch_has(d, gpa, length, write) ||
              (write && (page_is_sealed(d, gpa) || page_is_sealed(d, gpa + length - 1)));
    pthread_mutex_unlock(&d->lock);
    return is;
}

/* --- told as one to no memory --- */

/* Where the assist does the guest's paging it serves the access, with what the tables allow. */
static bool serve(struct mk_vcpu *c, uint64_t gpa)
{
    struct kvm_run *run = c->run;
    if (mk_vcpu_is_assisted(c)) {
        mk_vcpu_exit(c);
        return c->incomplete;
    }
    debug_count(c);
    c->incomplete = true;
    return run->mmio.is_write ? mk_mem_write(c->mem, gpa, run->mmio.data, run->mmio.len)
                              : mk_mem_read(c->mem, gpa, run->mmio.data, run->mmio.len);
}

static void protect_again(struct mk_debug *d)
{
    pthread_mutex_lock(&d->lock);
    if (d->open && d->watches)
        watch_protect(d);
    pthread_mutex_unlock(&d->lock);
}

struct mmio {
    uint64_t gpa;
    unsigned length;
    bool write;
};

/* The access that KVM tells of now, if it is to protected memory. */
static bool is_ours(struct mk_vcpu *c, struct mmio *m)
{
    const struct kvm_run *run = c->run;
    *m = (struct mmio){ run->mmio.phys_addr, run->mmio.len, run->mmio.is_write };
    if (c->assist)
        m->gpa = c->assist->ops->address(c, m->gpa);
    return mk_mem_find(c->mem, m->gpa) && is_protected(debug_of(c), m->gpa, m->length, m->write);
}

/* One after the other, until the instruction is done or does something else; how many. */
static unsigned carry_out(struct mk_vcpu *c, struct mmio *list, unsigned most)
{
    unsigned n = 1;
    while (serve(c, list[n - 1].gpa)) {
        if (!list[n - 1].write) /* what the instruction writes then is told, too */
            protect_again(debug_of(c));
        mk_vcpu_complete(c);
        if (n == most || !c->incomplete || c->run->exit_reason != KVM_EXIT_MMIO ||
            !is_ours(c, &list[n]))
            return n;
        n++;
    }
    return n - 1;
}

/* What the instruction came to behind its accesses: one to a device, which is served; or KVM cannot
 * go on, and it begins again: true. */
static bool failed_after(struct mk_vcpu *c, unsigned accesses)
{
    if (!c->incomplete || !accesses || c->end.reason != MK_RUNNING)
        return false;
    if (c->run->exit_reason == KVM_EXIT_MMIO)
        mk_vcpu_exit(c);
    if (c->run->exit_reason != KVM_EXIT_INTERNAL_ERROR)
        return false;
    c->incomplete = false;
    if (!access_fault(c, true))
        mk_vcpu_exit(c);
    return true;
}

/* Other vCPUs stay outside meanwhile: the instruction may be a locked one. */
bool access_mmio(struct mk_vcpu *c)
{
    struct mmio list[PARTS];
    if (!is_ours(c, &list[0]))
        return false;
    alone_begin(c);
    unsigned n = carry_out(c, list, PARTS);
    alone_end(c);
    if (failed_after(c, n))
        return true;
    for (unsigned i = 0; i < n && c->end.reason == MK_RUNNING; i++)
        watch_report(c, &(struct mk_access){ .address = list[i].gpa,
                                             .length = list[i].length,
                                             .write = list[i].write });
    return true;
}

/* --- not told at all --- */

static void add(struct mk_vcpu *c, const struct kvm_sregs *s, struct accesses *accesses,
                struct mk_operand o, bool execute)
{
    struct mk_walk w = mk_walk(c->mem, s, o.linear);
    if (w.present)
        accesses->list[accesses->count++] =
            (struct access){ { w.address, o.size, o.linear }, o.write, execute };
}

/* Where the instruction is; NOWHERE when KVM does not tell. */
static uint64_t find(struct mk_vcpu *c, struct accesses *accesses)
{
    struct kvm_sregs s;
    struct mk_operand operands[MK_OPERANDS];
    uint8_t code[MK_LONGEST_INSTRUCTION];
    uint64_t linear = debug_here(c, &s);
    accesses->count = 0;
    if (linear == NOWHERE)
        return NOWHERE;
    const struct kvm_regs *regs = mk_vcpu_get_regs(c);
    unsigned length = mk_fetch_code(c->mem, &s, regs->rip, code, sizeof(code));
    add(c, &s, accesses, (struct mk_operand){ linear, length ? length : 1, false }, true);
    unsigned n = mk_operands(code, length, regs, &s, operands);
    for (unsigned i = 0; i < n; i++)
        add(c, &s, accesses, operands[i], false);
    return linear;
}

static bool any_protected(struct mk_vcpu *c, const struct accesses *accesses)
{
    bool any = false;
    for (unsigned i = 0; i < accesses->count && !any; i++) {
        const struct access *a = &accesses->list[i];
        any = is_protected(debug_of(c), a->at.gpa, a->at.length, a->write);
    }
    return any;
}

/* An instruction is executed where it begins. */
static void report(struct mk_vcpu *c, const struct accesses *accesses)
{
    for (unsigned i = 0; i < accesses->count && c->end.reason == MK_RUNNING; i++) {
        const struct access *a = &accesses->list[i];
        watch_report(c, &(struct mk_access){ .address = a->at.gpa,
                                             .length = a->execute ? 1 : (unsigned)a->at.length,
                                             .write = a->write,
                                             .execute = a->execute });
    }
}

/* The instruction, or a turn of a repeated one. */
static bool has_executed(struct mk_vcpu *c, const struct kvm_regs *before)
{
    const struct kvm_regs *now = mk_vcpu_get_regs(c);
    return now->rip != before->rip || now->rcx != before->rcx;
}

/* At the second failure everything is opened: the processor accesses more than operands. */
static bool execute(struct mk_vcpu *c, uint64_t linear, const struct accesses *accesses, bool all)
{
    struct cpu *k = cpu_of(c);
    k->accesses = accesses;
    k->accessing = all ? 2 : 1;
    const struct kvm_regs before = *mk_vcpu_get_regs(c);
    while (k->accessing && c->end.reason == MK_RUNNING && !has_executed(c, &before))
        step_over(c, linear); /* again, if a kick has come in between */
    bool done = k->accessing != 0;
    k->accessing = 0;
    return done;
}

bool access_fault(struct mk_vcpu *c, bool emulation)
{
    struct mk_debug *d = debug_of(c);
    struct cpu *k = cpu_of(c);
    struct accesses accesses;
    if (k->accessing) { /* the attempt has failed */
        bool last = k->accessing == 2;
        k->accessing = 0;
        return !last;
    }
    uint64_t linear = d->pages || d->watches ? find(c, &accesses) : NOWHERE;
    if (linear == NOWHERE || (emulation && !any_protected(c, &accesses)))
        return false;
    debug_count(c);
    if (emulation) /* KVM has queued #UD with its failure */
        debug_drop_exception(c);
    const struct kvm_regs before = *mk_vcpu_get_regs(c);
    if (!execute(c, linear, &accesses, false) && !execute(c, linear, &accesses, true))
        return false;
    if (has_executed(c, &before)) /* else the run ends first */
        report(c, &accesses);
    return true;
}

void access_step(struct mk_vcpu *c)
{
    struct accesses accesses;
    uint64_t linear = find(c, &accesses);
    if (linear != NOWHERE && step_over(c, linear))
        report(c, &accesses);
}
