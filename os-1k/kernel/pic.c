/* pic.c - the 8259A pair of interrupt controllers (Intel 8259A data sheet).
 *
 * At power-on IRQ 0-7 would arrive at vectors 8-15, where exceptions live: they are moved to 0x20.
 * The second chip hangs on line 2 of the first. */
#include "io.h"
#include "kernel.h"

#define PIC1_DATA (MK_PORT_PIC1 + 1)
#define PIC2_DATA (MK_PORT_PIC2 + 1)
#define CASCADE 2
#define READ_ISR 0x0b
#define EOI 0x20

bool have_pic;
static uint16_t mask = (uint16_t)~(1 << CASCADE);

static void mask_write(void)
{
    outb(PIC1_DATA, mask & 0xff);
    outb(PIC2_DATA, mask >> 8);
}

void pic_init(void)
{
    if (!(boot.features & BOOT_PIC)) /* do not even touch ports that nobody said are there */
        return;
    outb(PIC1_DATA, mask & 0xff);
    if (inb(PIC1_DATA) != (mask & 0xff)) /* a port that nobody serves reads 0xff */
        return;

    outb(MK_PORT_PIC1, 0x11); /* ICW1: initialise, ICW4 follows */
    outb(MK_PORT_PIC2, 0x11);
    outb(PIC1_DATA, VECTOR_IRQ); /* ICW2: first vector */
    outb(PIC2_DATA, VECTOR_IRQ + 8);
    outb(PIC1_DATA, 1 << CASCADE); /* ICW3: where the second chip is */
    outb(PIC2_DATA, CASCADE);
    outb(PIC1_DATA, 0x01); /* ICW4: 8086 mode */
    outb(PIC2_DATA, 0x01);
    mask_write();
    have_pic = true;
}

void irq_enable(unsigned irq)
{
    mask &= (uint16_t)~(1 << irq);
    mask_write();
}

/* A line that falls before the CPU asks is reported as line 7 of its chip without being in
 * service: such a spurious interrupt must not be acknowledged. */
static bool is_spurious(unsigned irq)
{
    uint16_t port = irq < 8 ? MK_PORT_PIC1 : MK_PORT_PIC2;

    if ((irq & 7) != 7)
        return false;
    outb(port, READ_ISR);
    return !(inb(port) & 0x80);
}

void irq_handle(unsigned irq)
{
    bool spurious = is_spurious(irq);

    if (!spurious && irq == 0)
        ticks++;
    else if (!spurious && irq == 1)
        keyboard_interrupt();
    else if (!spurious && irq == 4)
        uart_interrupt();

    if (irq >= 8 && !spurious)
        outb(MK_PORT_PIC2, EOI);
    if (irq >= 8 || !spurious) /* the first chip has seen the second one's line in any case */
        outb(MK_PORT_PIC1, EOI);
}
