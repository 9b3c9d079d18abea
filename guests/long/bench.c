/* bench.c - what an exit costs, and how fast memory is, in figures of this host.
 *
 * Time comes from the TSC, whose frequency is measured against the PIT: needs irqchip = "pic". */
#include "minikvm.h"

#define EXITS 20000
#define BYTES (512u << 10)
#define FILLS 200
#define PIT_HZ 1193182
#define NOBODY 0x80 /* a port that is not served: an exit and nothing else */

static uint8_t buffer[BYTES];
static uint64_t hz; /* of the TSC */

static uint64_t tsc(void)
{
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

/* The counter goes down from 65536, and round. */
static uint16_t pit_count(void)
{
    outb(MK_PORT_PIT + 3, 0x00); /* latch channel 0 */
    uint16_t low = inb(MK_PORT_PIT);
    return (uint16_t)(low | inb(MK_PORT_PIT) << 8);
}

static void calibrate(void)
{
    outb(MK_PORT_PIT + 3, 0x34); /* channel 0, low byte then high byte, mode 2, from 65536 */
    outb(MK_PORT_PIT, 0);
    outb(MK_PORT_PIT, 0);
    uint16_t first = pit_count(), passed;
    uint64_t start = tsc();
    do {
        passed = (uint16_t)(first - pit_count());
    } while (passed < PIT_HZ / 50);
    hz = (tsc() - start) * PIT_HZ / passed;
}

static uint64_t per_second(uint64_t amount, uint64_t start)
{
    uint64_t spent = tsc() - start;
    return amount * hz / (spent ? spent : 1);
}

static void exits(void)
{
    uint64_t start = tsc();

    for (int i = 0; i < EXITS; i++)
        outb(NOBODY, 0);
    printf("%lu exits/s\n", per_second(EXITS, start));
}

static uint64_t fill(uint64_t times)
{
    uint64_t start = tsc();

    for (uint64_t i = 0; i < times; i++)
        memset(buffer, (int)i, BYTES);
    return per_second(times * BYTES, start) >> 20;
}

static uint64_t count(uint64_t rounds)
{
    uint64_t start = tsc();

    for (uint64_t i = rounds; i; i--)
        __asm__ volatile("");
    return per_second(rounds, start);
}

int main(void)
{
    calibrate();
    printf("TSC at %lu MHz\n", hz / 1000000);
    exits();
    printf("CPL 0: fill %lu MiB/s, %lu loops/s\n", fill(FILLS / 100), count(20000));
    printf("CPL 3: fill %lu MiB/s, %lu loops/s\n", user_call(fill, FILLS),
           user_call(count, 20000000));
    return 0;
}
