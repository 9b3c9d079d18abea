/* pic.c - the 8259A pair, which brings interrupts, and the 8254 timer (Intel data sheets). */
#include "kernel.h"

#define PIC1_DATA (MK_PORT_PIC1 + 1)
#define PIC2_DATA (MK_PORT_PIC2 + 1)
#define CASCADE 2
#define EOI 0x20
#define PIT_HZ 1193182
#define DIVISOR ((PIT_HZ + TICKS_PER_SECOND / 2) / TICKS_PER_SECOND)

volatile uint64_t ticks; /* counted in trap.c */

void pic_init(void)
{
    outb(MK_PORT_PIC1, 0x11); /* ICW1: initialise, ICW4 follows */
    outb(MK_PORT_PIC2, 0x11);
    outb(PIC1_DATA, VECTOR_IRQ); /* ICW2: first vector */
    outb(PIC2_DATA, VECTOR_IRQ + 8);
    outb(PIC1_DATA, 1 << CASCADE); /* ICW3: where the second chip is */
    outb(PIC2_DATA, CASCADE);
    outb(PIC1_DATA, 0x01); /* ICW4: 8086 mode */
    outb(PIC2_DATA, 0x01);
    outb(PIC1_DATA, 0xff); /* all masked */
    outb(PIC2_DATA, 0xff);
}

/* The devices of this kernel are all on the first chip. */
void irq_enable(unsigned irq)
{
    outb(PIC1_DATA, inb(PIC1_DATA) & (uint8_t)~(1 << irq));
}

void irq_done(unsigned irq)
{
    (void)irq;
    outb(MK_PORT_PIC1, EOI);
}

void timer_init(void)
{
    outb(MK_PORT_PIT + 3, 0x34); /* channel 0, low byte then high byte, mode 2: rate generator */
    outb(MK_PORT_PIT, DIVISOR & 0xff);
    outb(MK_PORT_PIT, DIVISOR >> 8);
    irq_enable(0);
}
