/* blk.c - a driver for virtio's block device (Virtual I/O Device 1.2: 2.7, 3.1, 4.1, 5.2), and a
 * test of it: four requests at a time, of 512 bytes to a little more than 1 MiB, are written, read
 * back and compared, round after round. Each must be answered once.
 *
 * The command line says how many rounds. The device is looked for on the PCI bus, gets its address
 * from here and its interrupt line from who routes it. Without an interrupt the processor sleeps:
 * no timer ticks, so that a lost one is a run that ends too soon. */
#include "minikvm.h"

#define BAR 0xfeb00000ul
#define PCI_ID 0x10421af4u /* device, vendor */
#define QUEUE 16u
#define SLOTS 4u
#define PARTS 3u /* of a request: header, data, status */
#define AREA 4096u /* sectors of a slot */
#define SECTOR 512u
#define STEP 8192u /* a stamp in so many bytes */

enum { COMMON = 0, ISR = 0x1000, NOTIFY = 0x3000 }; /* where minikvm has them in the BAR */
enum reg {
    DRIVER_SELECT = 0x08, DRIVER_FEATURE = 0x0c, STATUS = 0x14, QUEUE_SIZE = 0x18,
    QUEUE_ENABLE = 0x1c, QUEUE_DESC = 0x20, QUEUE_DRIVER = 0x28, QUEUE_DEVICE = 0x30
};
enum { NEXT = 1, WRITE = 2 };
enum { IN = 0, OUT = 1, FLUSH = 4 };

struct descriptor {
    uint64_t at;
    uint32_t length;
    uint16_t flags, next;
};

static struct descriptor table[QUEUE] __attribute__((aligned(16)));
static volatile struct {
    uint16_t flags, index, ring[QUEUE], event;
} driver __attribute__((aligned(2)));
static volatile struct {
    uint16_t flags, index;
    struct {
        uint32_t id, length;
    } ring[QUEUE];
    uint16_t event;
} device __attribute__((aligned(4)));

static const uint32_t sizes[SLOTS] = { 8192, 65536, 4096, 512 };
#define LARGE ((1u << 20) + 4096) /* of the first, every eighth round */
static uint8_t *data[SLOTS];
static struct {
    uint32_t kind, reserved;
    uint64_t sector;
} header[SLOTS];
static volatile uint8_t status[SLOTS];

static unsigned line;
static uint16_t seen;             /* answers that were looked at */
static bool open[SLOTS];          /* not answered yet */
static volatile unsigned interrupts;

static volatile uint8_t *at(uint32_t offset)
{
    return (volatile uint8_t *)(BAR + offset);
}

static void put32(enum reg r, uint32_t value)
{
    *(volatile uint32_t *)at(r) = value;
}

static void put64(enum reg r, const volatile void *where)
{
    put32(r, (uint32_t)(uint64_t)where);
    put32(r + 4, 0);
}

static void fail(const char *what, unsigned number)
{
    printf("%s (%u)\n", what, number);
    exit(1);
}

static void on_irq(struct trap *t)
{
    (void)t;
    interrupts++;
    (void)*at(ISR);
    irq_done(line);
}

static void start(void)
{
    *at(STATUS) = 0;
    while (*at(STATUS))
        ;
    *at(STATUS) = 3;
    put32(DRIVER_SELECT, 0);
    put32(DRIVER_FEATURE, 1u << 9); /* VIRTIO_BLK_F_FLUSH */
    put32(DRIVER_SELECT, 1);
    put32(DRIVER_FEATURE, 1); /* VIRTIO_F_VERSION_1 */
    *at(STATUS) = 11;
    if (!(*at(STATUS) & 8))
        fail("the features are refused", *at(STATUS));
    *(volatile uint16_t *)at(QUEUE_SIZE) = QUEUE;
    put64(QUEUE_DESC, table);
    put64(QUEUE_DRIVER, &driver);
    put64(QUEUE_DEVICE, &device);
    *(volatile uint16_t *)at(QUEUE_ENABLE) = 1;
    *at(STATUS) = 15;
}

static void offer(unsigned i, uint32_t kind, uint64_t sector, uint32_t length)
{
    struct descriptor *d = table + i * PARTS;
    uint16_t into = kind == IN ? WRITE : 0, first = (uint16_t)(i * PARTS);

    header[i].kind = kind;
    header[i].sector = sector;
    status[i] = 0xaa;
    d[0] = (struct descriptor){ (uint64_t)&header[i], 16, NEXT, (uint16_t)(first + 1) };
    d[1] = (struct descriptor){ (uint64_t)data[i], length, NEXT | into, (uint16_t)(first + 2) };
    d[2] = (struct descriptor){ (uint64_t)&status[i], 1, WRITE, 0 };
    if (!length)
        d[0].next = (uint16_t)(first + 2);
    if (open[i])
        fail("a request is open", i);
    open[i] = true;
    driver.ring[driver.index % QUEUE] = first;
    __asm__ volatile("" : : : "memory");
    driver.index++;
}

static void notify(void)
{
    __asm__ volatile("mfence" : : : "memory");
    *(volatile uint16_t *)at(NOTIFY) = 0;
}

static void take_answers(void)
{
    while (seen != device.index) {
        unsigned id = device.ring[seen % QUEUE].id, i = id / PARTS;

        if (i >= SLOTS || id % PARTS || !open[i])
            fail("answered once too often", id);
        if (status[i] != 0)
            fail("failed with status", status[i]);
        open[i] = false;
        seen++;
    }
}

static void wait_all(void)
{
    for (;;) {
        take_answers();
        if (seen == driver.index)
            return;
        interrupts_on_and_halt();
        interrupts_off();
    }
}

static uint64_t stamp(unsigned i, uint32_t round, uint32_t offset)
{
    return ((uint64_t)round << 32 | i << 28 | offset) * 0x9e3779b97f4a7c15u;
}

static uint64_t *word(unsigned i, uint32_t offset)
{
    return (uint64_t *)(data[i] + offset);
}

static uint32_t size(unsigned i, uint32_t round)
{
    return i == 0 && round % 8 == 0 ? LARGE : sizes[i];
}

static uint64_t place(unsigned i, uint32_t round)
{
    return i * AREA + round % 3 * 8;
}

static void all(uint32_t kind, uint32_t round)
{
    for (unsigned i = 0; i < SLOTS; i++)
        offer(i, kind, place(i, round), size(i, round));
    notify();
    wait_all();
}

static void one_round(uint32_t round)
{
    for (unsigned i = 0; i < SLOTS; i++)
        for (uint32_t o = 0; o < size(i, round); o += STEP)
            *word(i, o) = stamp(i, round, o);
    all(OUT, round);
    for (unsigned i = 0; i < SLOTS; i++)
        for (uint32_t o = 0; o < size(i, round); o += STEP)
            *word(i, o) = 0;
    all(IN, round);
    for (unsigned i = 0; i < SLOTS; i++)
        for (uint32_t o = 0; o < size(i, round); o += STEP)
            if (*word(i, o) != stamp(i, round, o))
                fail("other bytes than were written", i);
}

static uint32_t rounds(void)
{
    const char *text = (const char *)(uint64_t)boot->command_line;
    uint32_t n = 0;

    for (; text && *text >= '0' && *text <= '9'; text++)
        n = n * 10 + (uint32_t)(*text - '0');
    return n ? n : 1;
}

int main(void)
{
    uint8_t *room = (uint8_t *)0x200000; /* behind this program */
    uint32_t count = rounds();

    if (!pci_find(PCI_ID, (uint32_t)BAR))
        fail("no disk", 0);
    line = pci_config(0x3c) & 0xff;
    for (unsigned i = 0; i < SLOTS; i++, room += 2u << 20)
        data[i] = room;
    trap_handler(TRAP_IRQ + line, on_irq);
    irq_init((uint16_t)(1u << line));
    start();
    for (uint32_t round = 1; round <= count; round++)
        one_round(round);
    offer(0, FLUSH, 0, 0);
    notify();
    wait_all();
    printf("%u rounds, %u answers\n", count, (unsigned)seen);
    if (!interrupts) /* each answer was there before it was waited for: their interrupt still waits */
        interrupts_on_and_halt();
    return 0;
}
