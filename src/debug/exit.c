/* exit.c - what KVM_RUN returned with in a VM that is debugged: exits that are of the engine's
 * making, and all others, which go to the VM. See engine.h. */
#include "debug/engine.h"

#include "x86/mode.h"

#include <errno.h>

#define VECTORS 256

enum trap { TRAP_NONE, TRAP_HIT, TRAP_STEP };

/* A program of an outer ring came to a patch, or was stepped: the vCPU is back there. */
static enum trap at_outer(struct mk_vcpu *c, const struct kvm_sregs *s, enum ring back)
{
    uint64_t linear = mk_code_address(s, mk_vcpu_get_regs(c)->rip);
    struct mk_walk w;
    if (back == RING_STEP) {
        cpu_of(c)->trailing = false;
        return TRAP_STEP;
    }
    if (page_has_patch(c, s, linear, &w))
        hit_report(c, linear, w.address);
    return TRAP_HIT;
}

/* A HLT that may be a patch: RIP is behind it then. It was one, too, when the guest's own byte is
 * no HLT: the patch has gone meanwhile, and the instruction is executed now. */
static enum trap trapped(struct mk_vcpu *c)
{
    struct mk_debug *d = debug_of(c);
    struct kvm_sregs s;
    uint8_t own = HLT;
    if (!d->pages || !debug_sregs(c, &s))
        return TRAP_NONE;
    struct kvm_regs regs = *mk_vcpu_get_regs(c);
    bool real = !(s.cr0 & MK_CR0_PE);
    regs.rip = real ? (uint16_t)(regs.rip - 1) : regs.rip - 1;
    uint64_t linear = mk_code_address(&s, regs.rip);
    struct mk_walk w;
    pthread_mutex_lock(&d->lock);
    bool wanted = page_has_patch(c, &s, linear, &w);
    if (w.present)
        mk_mem_read(&d->vm->mem, w.address, &own, 1);
    pthread_mutex_unlock(&d->lock);
    bool stale = cpu_of(c)->stale_halt;
    cpu_of(c)->stale_halt = false;
    if (!wanted && own == HLT)
        return TRAP_NONE;
    if (!wanted && stale) /* of one that was told already */
        return TRAP_HIT;
    debug_count(c);
    debug_set_regs(c, &regs);
    enum ring back = wanted ? ring_return(c, &s, linear) : RING_NONE;
    if (back != RING_NONE)
        return at_outer(c, &s, back);
    if (wanted)
        hit_report(c, linear, w.address);
    return TRAP_HIT;
}

/* Some KVMs step over a HLT without an exit for it, and tell of it late (docs/hosts.md): so they do
 * when a stepped instruction raises an exception, and a patch is where its handler begins. */
static bool over_handler(struct mk_vcpu *c, const struct kvm_sregs *s, uint64_t linear)
{
    struct mk_walk w;
    bool is = false, patch = page_has_patch(c, s, linear, &w);
    for (unsigned vector = 0; patch && vector < VECTORS && !is; vector++)
        is = debug_handler(c, s, vector) == linear;
    return is;
}

static void step_exit(struct mk_vcpu *c, const struct kvm_sregs *s)
{
    struct cpu *k = cpu_of(c);
    struct kvm_regs regs = *mk_vcpu_get_regs(c);
    regs.rip--;
    uint64_t linear = mk_code_address(s, regs.rip);
    k->trailing = false;
    if (linear == k->over_at || !over_handler(c, s, linear))
        return;
    struct mk_walk w = mk_walk(c->mem, s, linear);
    k->stale_halt = true;
    debug_set_regs(c, &regs);
    hit_report(c, linear, w.address);
}

/* KVM has stepped: asked for, or when the handler of an exception has returned. Or the vCPU is at
 * an address that is in a debug register; it has not executed the instruction. */
static void debug_exit(struct mk_vcpu *c)
{
    struct kvm_sregs s;
    debug_count(c);
    uint64_t linear = debug_here(c, &s);
    if (linear == NOWHERE)
        return;
    if (cpu_of(c)->stepping) {
        step_exit(c, &s);
    } else if (step_is_hardware(c, linear)) {
        struct mk_walk w = mk_walk(c->mem, &s, linear);
        hit_report(c, linear, w.present ? w.address : NOWHERE);
    }
}

/* A triple fault at a patch in a program of an outer ring: the guest has no handler for #GP. Where
 * the registers are still those of before, it was a hit like any other. */
static bool died_at_patch(struct mk_vcpu *c)
{
    struct kvm_sregs s;
    if (!debug_of(c)->pages || !debug_sregs(c, &s) || s.ss.dpl != 3)
        return false;
    uint64_t linear = mk_code_address(&s, mk_vcpu_get_regs(c)->rip);
    struct mk_walk w;
    if (!page_has_patch(c, &s, linear, &w) || !debug_drop_exception(c))
        return false;
    debug_count(c);
    hit_report(c, linear, w.address);
    return true;
}

/* Exits that are of the engine's making. */
static bool served(struct mk_vcpu *c, unsigned kind)
{
    const struct mk_debug *d = debug_of(c);
    if (kind == KVM_EXIT_SHUTDOWN)
        return died_at_patch(c);
    if (!d->pages && !d->watches)
        return false;
    if (kind == KVM_EXIT_MMIO)
        return access_mmio(c);
    return kind == KVM_EXIT_INTERNAL_ERROR && access_fault(c, true);
}

bool exit_serve(struct mk_vcpu *c, int code)
{
    bool stepped = false;
    if (code == EINTR || code == EAGAIN) {
        mk_vcpu_handle_events(c);
    } else if (code) {
        if (code != EFAULT || !access_fault(c, false))
            mk_vcpu_entry_failed(c, code);
    } else {
        unsigned kind = c->run->exit_reason;
        enum trap trap = kind == KVM_EXIT_HLT ? trapped(c) : TRAP_NONE;
        stepped = kind == KVM_EXIT_DEBUG || trap == TRAP_STEP;
        if (kind == KVM_EXIT_DEBUG)
            debug_exit(c);
        else if (trap == TRAP_NONE && !served(c, kind))
            mk_vcpu_exit(c);
        if (mk_vcpu_is_assisted(c))
            c->assist->ops->follow(c);
    }
    mk_vcpu_check_limits(c);
    return stepped;
}
