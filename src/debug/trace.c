/* trace.c - every instruction of a VM is told before it is executed (vm/trace.h). See engine.h.
 *
 * KVM steps over one after the other. It would push the flag that makes it step with an interrupt,
 * for the guest to find there (TF; SDM volume 3, 6.12.1.2), so an interrupt is delivered without a
 * step, up to a patch at its handler. */
#include "debug/engine.h"

#include "kvm/interrupt.h"
#include "vm/trace.h"
#include "x86/access.h"
#include "x86/mode.h"

#include <errno.h>

#define NMI 2

int mk_debug_trace(struct mk_vm *vm, bool on, struct mk_err *err)
{
    struct mk_debug *d = on || vm->debug ? debug_get(vm, err) : NULL;
    if (!d)
        return on ? -1 : 0;
    if (atomic_exchange(&d->traces, on) == on)
        return 0;
    on ? debug_use(d) : debug_unuse(d);
    return 0;
}

void trace_tell(struct mk_vcpu *c)
{
    uint8_t code[MK_LONGEST_INSTRUCTION];
    struct kvm_sregs s;
    if (c->incomplete)
        mk_vcpu_complete(c);
    if (!debug_sregs(c, &s))
        return;
    const struct kvm_regs *regs = mk_vcpu_get_regs(c);
    bool wide = s.cs.l && s.efer & MK_EFER_LMA;
    struct mk_trace event = { .kind = MK_TRACE_STEP,
                              .address = regs->rsp,
                              .value = wide      ? 64
                                       : s.cs.db ? 32
                                                 : 16,
                              .bytes = (const char *)code };
    event.size = mk_fetch_code(c, &s, debug_linear(&s, regs->rip), code, sizeof(code));
    mk_trace(c, &event);
}

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
    int code = run_enter(c, false) < 0 ? errno : 0;
    mk_vcpu_drain(c);
    run_serve(c, code);
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
    cpu_of(c)->told = false;
    run_to(c, step_handler(c, &s, (unsigned)vector));
    return true;
}
