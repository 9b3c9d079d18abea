/* test_ranges.c - who answers an address outside RAM (src/dev/ranges.h, bus.h). Prints TAP.
 *
 * The right answer is bus.h's: of the hooks that cover an address the newest one. */
#include "dev/bus.h"
#include "tap.h"

#include <stdlib.h>

#define SPAN 64 /* addresses in which hooks are put at random */

static struct mk_bus bus;
static struct mk_cpu cpu;

static uint64_t rnd(uint64_t below)
{
    static uint64_t state = 1;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

/* Reads its own number in each byte. */
static uint64_t number_in(void *self, struct mk_io *io)
{
    (void)io;
    return (uintptr_t)self * 0x0101010101010101;
}

static const struct mk_io_ops numbered = { .name = "numbered", .in = number_in, .width = 8 };

static struct mk_hook *hook(uint64_t first, uint64_t last, uintptr_t number)
{
    return mk_bus_hook(&bus, first, last, &numbered, (void *)number, NULL);
}

static uint64_t read_at(uint64_t address, uint8_t size)
{
    return mk_bus_in(&bus, &cpu, address, size, NULL);
}

struct model {
    struct mk_hook *hook;
    uint64_t first, last;
    uint8_t number;
};

/* The newest is the last. */
static uint8_t expected(const struct model *m, unsigned count, uint64_t address)
{
    while (count--)
        if (m[count].first <= address && address <= m[count].last)
            return m[count].number;
    return 0xff;
}

static bool all_as_expected(const struct model *m, unsigned count)
{
    for (uint64_t a = 0; a < SPAN; a++) {
        uint64_t want = 0;
        for (unsigned i = 0; i < 8; i++)
            want |= (uint64_t)expected(m, count, a + i) << (8 * i);
        if (read_at(a, 1) != (want & 0xff) || read_at(a, 8) != want)
            return false;
    }
    return true;
}

static void hooks_at_random(void)
{
    struct model m[24];
    unsigned count = 0;
    bool same = true;
    mk_bus_init(&bus, MK_SPACE_MMIO);
    for (unsigned step = 1; step <= 4000 && same; step++) {
        if (count < 24 && rnd(3)) {
            uint64_t first = rnd(SPAN), last = rnd(8) ? first + rnd(SPAN - first) : UINT64_MAX;
            uint8_t number = (uint8_t)(1 + step % 254);
            m[count++] = (struct model){ hook(first, last, number), first, last, number };
        } else if (count) {
            unsigned i = (unsigned)rnd(count--);
            mk_bus_unhook(&bus, m[i].hook);
            memmove(&m[i], &m[i + 1], (count - i) * sizeof(m[0]));
        }
        same = all_as_expected(m, count);
    }
    tap_ok(same, "of hooks that come and go at random the newest answers, byte by byte");
    tap_ok(bus.ranges->count <= 2 * count + 1, "what lies together is one range");
    mk_bus_free(&bus);
}

/* As many as a full PCI bus may have, and more. */
static void a_thousand_ranges(void)
{
    bool right = true;
    mk_bus_init(&bus, MK_SPACE_MMIO);
    for (uint64_t i = 0; i < 1000; i++)
        hook(0xe0000000 + i * 0x1000, 0xe0000000 + i * 0x1000 + 0xff, i % 250 + 1);
    tap_is(bus.ranges->count, 2001, "1000 hooks apart are 1000 ranges and the gaps around them");
    for (uint64_t n = 0; n < 20000 && right; n++) {
        uint64_t i = rnd(1000), at = 0xe0000000 + i * 0x1000;
        right = read_at(at + rnd(0x100), 1) == i % 250 + 1 && read_at(at + 0x100, 1) == 0xff;
    }
    tap_ok(right && read_at(0, 1) == 0xff && read_at(UINT64_MAX, 1) == 0xff,
           "each answers its addresses and nobody the others");
    mk_bus_free(&bus);
}

static void the_whole_space(void)
{
    mk_bus_init(&bus, MK_SPACE_MMIO);
    tap_is(read_at(0, 4), 0xffffffff, "without a hook reads see all ones");
    tap_ok(bus.ranges, "by a map, so that a hook that comes meanwhile does not get a part of it");
    struct mk_hook *whole = hook(0, UINT64_MAX, 1);
    struct mk_hook *end = hook(UINT64_MAX, UINT64_MAX, 2);
    tap_ok(read_at(0, 1) == 1 && read_at(UINT64_MAX - 1, 1) == 1 && read_at(UINT64_MAX, 1) == 2,
           "a hook of the last address above one of all");
    tap_is(read_at(UINT64_MAX, 2), 0x102, "after the last address comes the first");
    mk_bus_unhook(&bus, end);
    tap_is(read_at(UINT64_MAX, 1), 1, "it is the other's again");
    mk_bus_unhook(&bus, whole);
    tap_is(read_at(UINT64_MAX, 1), 0xff, "and nobody's");
    mk_bus_free(&bus);
}

/* --- hooks change while a vCPU reads --- */

static _Atomic bool done;

static void *change_hooks(void *unused)
{
    for (unsigned i = 0; i < 3000; i++) {
        uint64_t first = i % 40;
        struct mk_hook *h = hook(first, first + i % 20, 2);
        mk_bus_unhook(&bus, h);
    }
    done = true;
    return unused;
}

static void hooks_change_while_read(void)
{
    pthread_t thread;
    bool right = true;
    mk_bus_init(&bus, MK_SPACE_MMIO);
    hook(0, SPAN - 1, 1);
    pthread_create(&thread, NULL, change_hooks, NULL);
    while (!done) {
        uint64_t value = read_at(rnd(SPAN), 1);
        right &= value == 1 || value == 2;
    }
    pthread_join(thread, NULL);
    tap_ok(right, "while hooks above come and go, they or the one beneath answer");
    mk_bus_free(&bus);
}

int main(void)
{
    hooks_at_random();
    a_thousand_ranges();
    the_whole_space();
    hooks_change_while_read();
    return tap_done();
}
