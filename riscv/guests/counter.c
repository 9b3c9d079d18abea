/* counter.c - ten timer interrupts, 20 ms apart; asleep in between. */
#include "guest.h"

#define INTERVAL (20 * TICKS_PER_MS)
#define SSTATUS_SIE (1 << 1)
#define SIE_STIE (1 << 5)

static volatile unsigned ticks;

/* stvec takes addresses of four bytes. sret goes back to the instruction behind the WFI. */
__attribute__((interrupt("supervisor"), aligned(4))) static void on_timer(void)
{
    ticks++;
    set_timer(csr_read(time) + INTERVAL); /* which also takes the interrupt back */
}

int main(void)
{
    csr_write(stvec, on_timer);
    csr_set(sie, SIE_STIE);
    set_timer(csr_read(time) + INTERVAL);
    csr_set(sstatus, SSTATUS_SIE);
    for (unsigned seen = 0; seen < 10;) {
        __asm__ volatile("wfi");
        if (ticks == seen)
            continue;
        seen = ticks;
        put_string("tick ");
        put_number(seen);
        put_string("\n");
    }
    return 0;
}
