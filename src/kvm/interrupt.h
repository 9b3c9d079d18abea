/* interrupt.h - getting interrupts into a vCPU when KVM has no irqchip of its own.
 *
 * Sources are the interrupt controller that drives `intr` and direct requests by vector. What waits
 * is offered before every entry: injected when the guest can take it (KVM_INTERRUPT), else KVM is
 * asked to exit as soon as it can (Documentation/virt/kvm/api.rst, request_interrupt_window). */
#ifndef MK_INTERRUPT_H
#define MK_INTERRUPT_H

#include "kvm/vcpu.h"

/* Any thread: queues a vector or an NMI and gets the vCPU's attention. */
void mk_interrupt_request(struct mk_vcpu *c, uint8_t vector);
void mk_interrupt_nmi(struct mk_vcpu *c);
/* Any thread: something waits now. The vCPU's own thread offers it at the next entry anyway; on
 * another one this gets the vCPU's attention. */
void mk_interrupt_notify(struct mk_vcpu *c);

/* The vCPU's thread. Is something waiting that the guest's flags may or may not let in? */
bool mk_interrupt_pending(struct mk_vcpu *c);
/* Would one of these be delivered now, or an NMI, were the guest's interrupt flag as `enabled`? */
bool mk_interrupt_deliverable(struct mk_vcpu *c, bool enabled);
/* Before an entry. */
void mk_interrupt_inject(struct mk_vcpu *c);

#endif
