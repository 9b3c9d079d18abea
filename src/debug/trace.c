/* trace.c - every instruction of a VM is told before it is executed (vm/trace.h). See engine.h.
 *
 * KVM steps over one after the other. It would push the flag that makes it step with an interrupt,
 * for the guest to find there (TF; SDM volume 3, 6.12.1.2), so an interrupt is delivered without a
 * step, up to a patch at its handler. */
#include "debug/engine.h"

#include "kvm/interrupt.h"
#include "x86/mode.h"

#include <errno.h>

#define NMI 2

/* Into the guest until the handler's first instruction, or an earlier exit. */
static void run_to(struct mk_vcpu *c, uint64_t linear)
{
    struct mk_debug *d = debug_of(c);
    struct kvm_sregs s;
    struct mk_walk w = { 0 };
    pthread_mutex_lock(&d->lock);
    if (linear != NOWHERE && debug_sregs(c, &s))
        w = mk_walk(&d->vm->mem, &s, linear);
    bool patched = w.present && page_ref(d, w.address, NULL);
    if (d->lifted)
        page_insert_all(d);
    pthread_mutex_unlock(&d->lock);
    int code = alone_enter(c, false) < 0 ? errno : 0;
    mk_vcpu_drain(c);
    d->serve(c, code);
    pthread_mutex_lock(&d->lock);
    if (patched)
        page_unref(d, w.address);
    pthread_mutex_unlock(&d->lock);
}

/* The vector that KVM is to deliver with the next entry; -1: none. An entry that a signal ended may
 * have left one there. */
static int queued(const struct kvm_vcpu_events *e)
{
    if (e->interrupt.injected)
        return e->interrupt.nr;
    return e->nmi.injected || e->nmi.pending ? NMI : -1;
}

bool trace_deliver(struct mk_vcpu *c)
{
    struct kvm_sync_regs state;
    struct kvm_sregs s;
    if (mk_vcpu_get_state(c, &state) < 0 || !debug_sregs(c, &s))
        return false;
    int vector = queued(&state.events);
    uint64_t before = c->irq.delivered;
    bool nmi = atomic_load(&c->irq.nmi);
    if (vector < 0 && !nmi && !mk_interrupt_pending(c))
        return false;
    step_end(c);
    if (vector < 0) {
        mk_interrupt_inject(c);
        if (c->irq.delivered != before)
            vector = c->irq.last[before % MK_COUNT(c->irq.last)];
        else if (nmi)
            vector = NMI;
    }
    if (vector < 0)
        return false;
    cpu_of(c)->traced = false;
    run_to(c, debug_handler(c, &s, (unsigned)vector));
    return true;
}
