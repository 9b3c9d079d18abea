/* edu.c - a driver for QEMU's teaching device "edu" (lua/minikvm/devices/edu.lua), and a test of all
 * that the device does: identification, inversion, factorials by polling and by interrupt, interrupts
 * raised and acknowledged, transfers to and from its buffer, and what it refuses.
 *
 * It is looked for on the PCI bus (PCI Local Bus Specification 3.0: mechanism 1, 3.2.2.3.2; BARs,
 * 6.2.5.1), and gets its address from here, its line from who routes it. Where there is none, its
 * registers lie at 0xfeb00000 and its line is 10. A timer ticks as well: a processor that is
 * emulated badly may let an interrupt in between STI and HLT, and then this is what ends the sleep.
 */
#include "minikvm.h"

#define EDU 0xfeb00000ul
#define PCI_ID 0x11e81234u /* device, vendor */
#define RATE 0x34        /* channel 0 of the timer, low byte then high byte, again and again */
#define TEN_MS 11932     /* of 1193182 a second */
#define BUFFER 0x40000ul /* in the device's own addresses */

enum reg {
    ID = 0x00, ALIVE = 0x04, FACTORIAL = 0x08, STATUS = 0x20, IRQ_STATUS = 0x24, IRQ_RAISE = 0x60,
    IRQ_ACK = 0x64, SOURCE = 0x80, DESTINATION = 0x88, COUNT = 0x90, COMMAND = 0x98
};
enum { COMPUTING = 0x01, FACTORIAL_IRQ = 0x80 };
enum { START = 1, FROM_EDU = 2, DMA_IRQ = 4 };

static unsigned line = 10;
static volatile uint32_t seen;      /* what interrupts brought, since it was last set to 0 */
static volatile unsigned interrupts;

static uint32_t get(enum reg r)
{
    return *(volatile uint32_t *)(EDU + r);
}

static void put(enum reg r, uint32_t value)
{
    *(volatile uint32_t *)(EDU + r) = value;
}

static uint64_t get64(enum reg r)
{
    return *(volatile uint64_t *)(EDU + r);
}

static void put64(enum reg r, uint64_t value)
{
    *(volatile uint64_t *)(EDU + r) = value;
}

/* The PIC sees edges: it would miss what is raised between reading and acknowledging. */
static void on_irq(struct trap *t)
{
    uint32_t why;

    (void)t;
    interrupts++;
    while ((why = get(IRQ_STATUS)) != 0) {
        seen |= why;
        put(IRQ_ACK, why);
    }
    irq_done(line);
}

static void on_tick(struct trap *t)
{
    (void)t;
    irq_done(0);
}

static void start_ticks(void)
{
    trap_handler(TRAP_IRQ + 0, on_tick);
    outb(MK_PORT_PIT + 3, RATE);
    outb(MK_PORT_PIT, TEN_MS & 0xff);
    outb(MK_PORT_PIT, TEN_MS >> 8);
}

static uint32_t wait_irq(void)
{
    while (!seen) {
        interrupts_on_and_halt();
        interrupts_off();
    }
    uint32_t why = seen;
    seen = 0;
    return why;
}

static void identification(void)
{
    printf("id 0x%08x\n", get(ID));
    put(ID, 0);
    printf("id 0x%08x after a write\n", get(ID));
    put(ALIVE, 0x12345678);
    printf("alive 0x%08x\n", get(ALIVE));
}

static void factorial_by_polling(uint32_t n)
{
    put(FACTORIAL, n);
    while (get(STATUS) & COMPUTING)
        ;
    printf("%u! = %u\n", n, get(FACTORIAL));
}

static void factorials(void)
{
    static const uint32_t numbers[] = { 0, 1, 5, 12, 13, 33, 34, 0xffffffff };

    for (size_t i = 0; i < COUNT(numbers); i++)
        factorial_by_polling(numbers[i]);
    put(STATUS, FACTORIAL_IRQ | COMPUTING);
    printf("status 0x%02x\n", get(STATUS));
    put(FACTORIAL, 10);
    uint32_t why = wait_irq();
    printf("interrupt 0x%x: factorial %u, status 0x%02x\n", why, get(FACTORIAL), get(STATUS));
    put(STATUS, 0);
}

static void raised_interrupts(void)
{
    put(IRQ_RAISE, 0x40);
    printf("status 0x%x", get(IRQ_STATUS)); /* interrupts are off: the line waits */
    put(IRQ_RAISE, 0x02);
    printf(", then 0x%x", get(IRQ_STATUS));
    put(IRQ_ACK, 0x40);
    printf(", then 0x%x\n", get(IRQ_STATUS));
    printf("interrupt 0x%x", wait_irq());
    printf(", then status 0x%x\n", get(IRQ_STATUS));
}

static void dma(uint64_t source, uint64_t destination, uint64_t count, uint32_t command)
{
    put64(SOURCE, source);
    put64(DESTINATION, destination);
    put64(COUNT, count);
    put(COMMAND, command | START);
    if (command & DMA_IRQ)
        printf("interrupt 0x%x, ", wait_irq());
    while (get(COMMAND) & START)
        ;
}

static uint8_t there[4096], back[4096];

static uint32_t differences(size_t from, size_t length)
{
    uint32_t n = 0;

    for (size_t i = 0; i < length; i++)
        n += back[i] != there[from + i];
    return n;
}

static void transfers(void)
{
    for (size_t i = 0; i < sizeof(there); i++)
        there[i] = (uint8_t)(i * 7 + i / 256);
    dma((uint64_t)there, BUFFER, sizeof(there), 0);
    dma(BUFFER, (uint64_t)back, sizeof(back), FROM_EDU);
    printf("4096 bytes there and back: %u differ\n", differences(0, sizeof(back)));
    memset(back, 0, sizeof(back));
    dma(BUFFER + 100, (uint64_t)back, 50, FROM_EDU | DMA_IRQ);
    printf("50 bytes from the middle: %u differ, the next is %u\n", differences(100, 50), back[50]);
    put(SOURCE, 0x11111111); /* halves of a register */
    put(SOURCE + 4, 0x22222222);
    printf("source 0x%lx\n", get64(SOURCE));
}

/* Nothing may move, and each must end. */
static void refused_transfers(void)
{
    static const struct { uint64_t source, destination, count; uint32_t command; } bad[] = {
        { 0, BUFFER, 4097, 0 },                     /* more than the buffer */
        { 0, BUFFER + 4095, 2, 0 },                 /* beyond its end */
        { 0, BUFFER - 1, 1, 0 },                    /* before its start */
        { 0, BUFFER, UINT64_MAX, 0 },               /* a count that wraps */
        { UINT64_MAX - 3, BUFFER, 8, 0 },           /* an address that wraps */
        { 0x10000000, BUFFER, 8, 0 },               /* more than 28 bits */
        { 0x0ffffff0, BUFFER, 8, 0 },               /* beyond RAM */
        { EDU, BUFFER, 8, 0 },                      /* a device, not RAM */
        { BUFFER, 0x0ffffff0, 8, FROM_EDU },
        { UINT64_MAX - BUFFER, 0x1000, 8, FROM_EDU },
    };

    for (size_t i = 0; i < COUNT(bad); i++)
        dma(bad[i].source, bad[i].destination, bad[i].count, bad[i].command);
    dma(EDU, BUFFER, 8, DMA_IRQ);
    dma(BUFFER, (uint64_t)back, sizeof(back), FROM_EDU);
    printf("after %u bad transfers: %u differ\n", (unsigned)COUNT(bad) + 1,
           differences(0, sizeof(back)));
}

static void refused_accesses(void)
{
    volatile uint8_t *edu = (volatile uint8_t *)EDU;

    edu[ALIVE] = 1;
    *(volatile uint64_t *)(edu + ID) = 1;
    printf("alive 0x%08x, by a byte 0x%02x, by 8 0x%lx\n", get(ALIVE), edu[ALIVE], get64(ID));
    printf("nothing at 0x44: 0x%08x, at the end: 0x%08x\n", get(0x44), get(0xffffc));
}

int main(void)
{
    if (pci_find(PCI_ID, (uint32_t)EDU))
        line = pci_config(0x3c) & 0xff;
    trap_handler(TRAP_IRQ + line, on_irq);
    start_ticks();
    irq_init((uint16_t)(1u << line | 1u << 0));
    identification();
    factorials();
    raised_interrupts();
    transfers();
    refused_transfers();
    refused_accesses();
    printf("%u interrupts\n", interrupts);
    return 0;
}
