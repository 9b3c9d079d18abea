/* interrupt.c - see interrupt.h. */
#include "kvm/interrupt.h"

#include <errno.h>
#include <string.h>

void mk_interrupt_notify(struct mk_vcpu *c)
{
    if (!mk_vcpu_is_current(c))
        mk_vcpu_request(c, MK_REQ_WAKE);
}

void mk_interrupt_request(struct mk_vcpu *c, uint8_t vector)
{
    atomic_fetch_or(&c->irq.queued[vector / 64], UINT64_C(1) << vector % 64);
    atomic_store(&c->irq.any, true);
    mk_interrupt_notify(c);
}

void mk_interrupt_nmi(struct mk_vcpu *c)
{
    atomic_store(&c->irq.nmi, true);
    mk_interrupt_notify(c);
}

static bool intr_asserted(const struct mk_vcpu *c)
{
    return c->intr && atomic_load_explicit(c->intr, memory_order_acquire);
}

bool mk_interrupt_pending(struct mk_vcpu *c)
{
    return atomic_load_explicit(&c->irq.any, memory_order_relaxed) || intr_asserted(c);
}

bool mk_interrupt_deliverable(struct mk_vcpu *c, bool enabled)
{
    return atomic_load(&c->irq.nmi) || (enabled && mk_interrupt_pending(c));
}

/* The lowest queued vector, or -1. `any` is cleared first: a request that comes meanwhile sets it
 * again. It stays clear when nothing is left, or KVM would be asked for a window in vain. */
static int pop_queued(struct mk_vcpu *c)
{
    int vector = -1;
    atomic_store(&c->irq.any, false);
    for (int i = 0; i < 4; i++) {
        uint64_t word = atomic_load(&c->irq.queued[i]);
        if (word && vector < 0) {
            vector = i * 64 + __builtin_ctzll(word);
            word &= word - 1;
            atomic_fetch_and(&c->irq.queued[i], ~(UINT64_C(1) << vector % 64));
        }
        if (word)
            atomic_store(&c->irq.any, true);
    }
    return vector;
}

static int accept(struct mk_vcpu *c)
{
    int vector = atomic_load(&c->irq.any) ? pop_queued(c) : -1;
    if (vector < 0 && intr_asserted(c))
        vector = c->ops->acknowledge(c);
    return vector;
}

static void record(struct mk_vcpu *c, uint8_t vector)
{
    c->irq.last[c->irq.delivered++ % MK_COUNT(c->irq.last)] = vector;
    if (c->ops->delivered)
        c->ops->delivered(c, vector);
}

/* Events that wait in the shared memory replace KVM's at the entry. */
static void inject_nmi(struct mk_vcpu *c)
{
    if (c->run->kvm_dirty_regs & KVM_SYNC_X86_EVENTS)
        c->run->s.regs.events.nmi.pending = 1;
    else if (mk_ioctl(c->fd, KVM_NMI, NULL) < 0)
        mk_vcpu_end(c, MK_FAULT, 0, false, "KVM refuses an NMI: %s", strerror(errno));
}

static void inject(struct mk_vcpu *c)
{
    int vector = accept(c);
    if (vector < 0)
        return;
    struct kvm_interrupt irq = { .irq = (uint32_t)vector };
    record(c, (uint8_t)vector);
    if (mk_ioctl(c->fd, KVM_INTERRUPT, &irq) < 0)
        mk_vcpu_end(c, MK_FAULT, 0, false, "KVM refuses interrupt 0x%02x: %s", (unsigned)vector,
                    strerror(errno));
    c->run->ready_for_interrupt_injection = 0;
}

/* --- storms ---
 *
 * When one interrupt follows upon the other, each at the moment the guest can take it, the
 * interrupted program would never run. After BURST of them it gets half the time they took. */

#define BURST 32

static bool storm_pause(struct mk_vcpu *c)
{
    if (c->irq.hold_until && (c->run->exit_reason == KVM_EXIT_HLT || mk_now() >= c->irq.hold_until))
        c->irq.hold_until = 0;
    return c->irq.hold_until != 0;
}

/* An interrupt is about to be injected: false when it has to wait. */
static bool may_inject(struct mk_vcpu *c)
{
    if (c->run->exit_reason != KVM_EXIT_IRQ_WINDOW_OPEN)
        c->irq.burst = 0;
    if (c->irq.burst++ == 0)
        c->irq.burst_began = mk_now();
    if (c->irq.burst <= BURST)
        return true;
    uint64_t now = mk_now();
    c->irq.hold_until = now + (now - c->irq.burst_began) / 2;
    c->irq.burst = 0;
    return false;
}

MK_HOT void mk_interrupt_inject(struct mk_vcpu *c)
{
    if (atomic_load_explicit(&c->irq.nmi, memory_order_relaxed) &&
        atomic_exchange(&c->irq.nmi, false))
        inject_nmi(c);
    if (!storm_pause(c) && mk_interrupt_pending(c) && c->run->ready_for_interrupt_injection &&
        may_inject(c))
        inject(c);
    c->run->request_interrupt_window = mk_interrupt_pending(c) && !c->irq.hold_until;
}
