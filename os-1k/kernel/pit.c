/* pit.c - the 8254 timer: 100 interrupts a second, and what can be built on them. */
#include "io.h"
#include "kernel.h"

#define PIT_HZ 1193182
#define DIVISOR ((PIT_HZ + TIMER_HZ / 2) / TIMER_HZ)

volatile uint32_t ticks; /* counted by the interrupt handler in pic.c */

void pit_init(void)
{
    outb(MK_PORT_PIT + 3, 0x34); /* channel 0, low byte then high byte, mode 2: rate generator */
    outb(MK_PORT_PIT, DIVISOR & 0xff);
    outb(MK_PORT_PIT, DIVISOR >> 8);
    irq_enable(0);
}

uint32_t uptime_ms(void)
{
    return ticks * (1000 / TIMER_HZ);
}

int sleep_ms(uint32_t ms)
{
    uint32_t start = ticks, wanted = ms / (1000 / TIMER_HZ) + 1; /* never shorter than asked */

    if (!have_pic)
        return ERR_NODEV;
    for (;;) {
        interrupts_off();
        if (ticks - start >= wanted)
            break;
        interrupts_on_and_halt();
    }
    interrupts_on();
    return 0;
}
