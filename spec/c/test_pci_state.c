/* test_pci_state.c - the state of a PCI bus, and a guest that does anything to one. Arguments:
 * accesses and their seed. No KVM. Prints TAP. */
#include "pci_bus.h"

/* --- state --- */

static void test_state(void)
{
    bus_on();
    struct mk_pci_fn *fn = card("card", 3, 1);
    set(SLOT3, 0x10, 4, 0xfeb00000);
    set(SLOT3, 4, 2, 2);
    store_at(0xfeb00004, 4, 0xcafe);
    drive(fn, true);
    route(2, 7);
    out(0xcf8, 4, SLOT3 | 8);
    struct mk_bytes state = save();
    mk_devs_reset(&devices);
    tap_is(load_at(0xfeb00004, 4), 0xffffffff, "reset: BARs are nowhere");
    tap_is(get(SLOT3, 0x10), 0, "reset: their registers are 0");
    tap_is(mk_pci_irq_line(fn), 5, "reset: routing is firmware's");
    tap_is(load(&state, NULL), 0, "a saved state");
    tap_is(in(0xcfc, 4), 0x00ff0007, "has the address");
    tap_is(load_at(0xfeb00004, 4), 0xcafe, "BARs and what is in them");
    pic_program(0x11, 0x01);
    tap_is(take(), BASE1 + 7, "lines that are up, and where they go");
    mk_pci_detach(fn);
    tap_is(load(&state, NULL), 0, "without the function it loads");
    tap_is(get(SLOT3, 0), 0xffffffff, "and the function is missing");
    attach_at(fn, 3 << 3);
    tap_is(mk_devs_load(&devices, now(), &state, MK_LOAD_HOOKS, NULL), 0, "attached later");
    tap_is(load_at(0xfeb00004, 4), 0xcafe, "it gets what is its own");
    mk_bytes_free(&state);
    mk_pci_fn_unref(fn);
    bus_off();
}

/* --- a hostile guest --- */

static uint64_t random_state;

static uint32_t rnd(uint32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % below;
}

static void fuzz_config(void)
{
    static const uint8_t sizes[] = { 1, 2, 4 };
    static const uint32_t values[] = { 0, 0xffffffff, 0xfeb00000, 0xcf8, 0x20, 0xe0000000, 0x547 };
    uint8_t size = sizes[rnd(3)];
    uint32_t value = rnd(2) ? values[rnd(MK_COUNT(values))] : rnd(0x7fffffff) << 1;
    if (rnd(3))
        out(0xcf8, 4, 0x80000000 | rnd(9) << 11 | (rnd(2) ? rnd(0x40) : rnd(0x100)));
    if (rnd(2))
        out((uint16_t)(0xcf6 + rnd(12)), size, value);
    else
        in((uint16_t)(0xcf6 + rnd(12)), size);
}

static void fuzz_world(struct mk_pci_fn **fn, unsigned count)
{
    struct mk_pci_fn *one = fn[rnd(count)];
    uint64_t at;
    switch (rnd(6)) {
    case 0: drive(one, rnd(2)); break;
    case 1: mk_pci_detach(one); break;
    case 2: mk_pci_attach(one, (uint8_t)(2 + rnd(7)) << 3, NULL); break;
    default:
        if (mk_pci_bar_place(one, rnd(6), &at)) {
            store_at(at + rnd(64), 1u << rnd(4), rnd(0x7fffffff));
            load_at(at + rnd(64), 1u << rnd(4));
        }
    }
}

/* A byte of a saved state becomes another: it loads, or it is refused. */
static void fuzz_state(void)
{
    struct mk_bytes state = save(), bad = save();
    bad.data[rnd((unsigned)bad.length)] = (uint8_t)rnd(256);
    if (load(&bad, NULL) < 0 && load(&state, NULL) < 0)
        abort();
    mk_bytes_free(&state);
    mk_bytes_free(&bad);
}

static void test_fuzz(unsigned accesses, uint64_t seed)
{
    struct mk_pci_fn *fn[4];
    unsigned bad_id = 0, bad_line = 0, bad_end = 0;
    random_state = seed;
    bus_on();
    for (unsigned i = 0; i < MK_COUNT(fn); i++)
        fn[i] = card("card", (uint8_t)(2 + i), 1);
    for (unsigned i = 0; i < accesses; i++) {
        fuzz_config();
        if (!rnd(4))
            fuzz_world(fn, MK_COUNT(fn));
        if (!rnd(1000))
            fuzz_state();
        for (unsigned k = 0; k < MK_COUNT(fn); k++)
            bad_id += mk_pci_get32(fn[k]->config) != 0x56781234;
        bad_end += ends && end_reason != MK_SHUTDOWN;
        bad_line += (pci.lines & ~0xdef8u) != 0;
    }
    printf("# %u accesses, seed %llu\n", accesses, (unsigned long long)seed);
    tap_is(bad_id, 0, "fuzz: what is read-only stays");
    tap_is(bad_line, 0, "fuzz: only lines that may be routed to are up");
    tap_is(get(0x80000000, 0), 0x12378086, "fuzz: the bus answers");
    tap_is(bad_end, 0, "fuzz: nothing but a reset ends the VM");
    for (unsigned i = 0; i < MK_COUNT(fn); i++) {
        drive(fn[i], false);
        mk_pci_fn_unref(fn[i]);
    }
    bus_off();
}

int main(int argc, char **argv)
{
    test_state();
    test_fuzz(argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 200000,
              argc > 2 ? strtoull(argv[2], NULL, 0) : 1);
    return tap_done();
}
