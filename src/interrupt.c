/* interrupt.c - see interrupt.h. */
#include "interrupt.h"

#include "dev_pic.h"

#include <errno.h>
#include <string.h>

void mk_interrupt_request(struct mk_vcpu *c, uint8_t vector)
{
    atomic_fetch_or(&c->irq.queued[vector / 64], UINT64_C(1) << vector % 64);
    atomic_store(&c->irq.any, true);
    mk_vcpu_request(c, MK_REQ_WAKE);
}

void mk_interrupt_nmi(struct mk_vcpu *c)
{
    atomic_store(&c->irq.nmi, true);
    mk_vcpu_request(c, MK_REQ_WAKE);
}

static struct mk_pic *pic_of(const struct mk_vcpu *c)
{
    return c->cpu.index == 0 ? c->machine->pic : NULL;
}

bool mk_interrupt_waiting(struct mk_vcpu *c)
{
    struct mk_pic *pic = pic_of(c);
    return atomic_load_explicit(&c->irq.any, memory_order_relaxed) || (pic && mk_pic_pending(pic));
}

/* The lowest queued vector, or -1. `any` is cleared first: a request that comes meanwhile sets it
 * again. */
static int take_queued(struct mk_vcpu *c)
{
    atomic_store(&c->irq.any, false);
    for (int i = 0; i < 4; i++) {
        uint64_t word = atomic_load(&c->irq.queued[i]);
        if (!word)
            continue;
        int bit = __builtin_ctzll(word);
        uint64_t left = atomic_fetch_and(&c->irq.queued[i], ~(UINT64_C(1) << bit));
        if (left & (left - 1) || i < 3)
            atomic_store(&c->irq.any, true); /* perhaps more: looked at next time */
        return i * 64 + bit;
    }
    return -1;
}

static int take(struct mk_vcpu *c)
{
    int vector = atomic_load(&c->irq.any) ? take_queued(c) : -1;
    struct mk_pic *pic = pic_of(c);
    if (vector < 0 && pic && mk_pic_pending(pic))
        vector = mk_pic_ack(pic);
    return vector;
}

static void remember(struct mk_vcpu *c, uint8_t vector)
{
    c->irq.last[c->irq.delivered++ % MK_COUNT(c->irq.last)] = vector;
}

static void inject(struct mk_vcpu *c)
{
    int vector = take(c);
    if (vector < 0)
        return;
    struct kvm_interrupt irq = { .irq = (uint32_t)vector };
    remember(c, (uint8_t)vector);
    if (mk_ioctl(c->fd, KVM_INTERRUPT, &irq) < 0)
        mk_vcpu_end(c, MK_FAULT, 0, false, "KVM refuses interrupt 0x%02x: %s", (unsigned)vector,
                    strerror(errno));
    c->run->ready_for_interrupt_injection = 0;
}

void mk_interrupt_offer(struct mk_vcpu *c)
{
    if (atomic_load_explicit(&c->irq.nmi, memory_order_relaxed) &&
        atomic_exchange(&c->irq.nmi, false))
        mk_ioctl(c->fd, KVM_NMI, NULL);
    if (mk_interrupt_waiting(c) && c->run->ready_for_interrupt_injection)
        inject(c);
    c->run->request_interrupt_window = mk_interrupt_waiting(c);
}
