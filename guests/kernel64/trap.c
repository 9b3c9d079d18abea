/* trap.c - interrupt descriptor table, and who handles what (Intel SDM volume 3, chapter 6).
 *
 * All gates are interrupt gates: a handler runs with interrupts off, and to its end. */
#include "kernel.h"

struct gate {
    uint16_t offset_low, selector, attributes, offset_middle;
    uint32_t offset_high, reserved;
};

extern const uint64_t trap_stubs[VECTORS];
static struct gate idt[VECTORS];

void traps_init(void)
{
    struct {
        uint16_t limit;
        const void *base;
    } __attribute__((packed)) idtr = { sizeof(idt) - 1, idt };

    for (unsigned i = 0; i < VECTORS; i++)
        idt[i] = (struct gate){
            .offset_low = (uint16_t)trap_stubs[i],
            .selector = MK_SEL_KCODE,
            .attributes = 0x8e00, /* present, level 0, interrupt gate */
            .offset_middle = (uint16_t)(trap_stubs[i] >> 16),
            .offset_high = (uint32_t)(trap_stubs[i] >> 32),
        };
    __asm__ volatile("lidt %0" : : "m"(idtr));
}

static struct frame *timer_interrupt(struct frame *frame)
{
    ticks++;
    if (ticks % (TICKS_PER_SECOND / 10) == 0)
        status_show();
    irq_done(0);
    return thread_switch(frame); /* every tick ends a time slice */
}

struct frame *trap(struct frame *frame)
{
    switch (frame->vector) {
    case VECTOR_IRQ + 0:
        return timer_interrupt(frame);
    case VECTOR_IRQ + 1:
        keyboard_interrupt();
        irq_done(1);
        return frame;
    case VECTOR_YIELD:
        return thread_switch(frame);
    default:
        panic(frame);
    }
}
