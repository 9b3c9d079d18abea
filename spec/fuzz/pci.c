/* pci.c - configuration space, BARs that a guest puts anywhere, messages; functions that come and
 * go meanwhile (src/dev/pci*.c, bus.c, ranges.c), and states as a snapshot may have them. */
#include "fuzz.h"

#include "pci_bus.h"

#define FUNCTIONS 4

static struct mk_pci_fn *fns[FUNCTIONS];

static struct mk_pci_fn *new_function(unsigned i)
{
    struct mk_err err;
    struct space s = identity((uint8_t)(1 + i));
    add_bar(&s, 0, 0, 4096);
    add_bar(&s, 1, 1, 8);
    add_bar(&s, 2, 12, UINT64_C(1) << 33);
    if (i == 1) {
        put(s.initial, MK_PCI_BAR0, 4, 0xe0000000);
        put(s.initial, MK_PCI_COMMAND, 1, MK_PCI_MEMORY);
    }
    if (i == 2)
        add_cap(&s, 0x40, 5, "\x80", "\x71", 2);
    if (i == 3)
        add_cap(&s, 0x50, 0x11, "\2", "\0\xc0", 2);
    add_cap(&s, 0x60, 9, "\1\2\3", "\1\2\3", 3);
    struct mk_pci_fn *fn = make_fn("card", &s);
    fill(fn, 0, 4096);
    fill(fn, 1, 8);
    mk_pci_attach(fn, (uint8_t)((3 + i) << 3), &err);
    return fn;
}

static void init(void)
{
    fuzz_mem_open();
    bus_on();
    pci.mem = &fuzz_mem;
    for (unsigned i = 0; i < FUNCTIONS; i++)
        fns[i] = new_function(i);
}

/* All functions where they were, as after power-up. */
static void restart(void)
{
    struct mk_err err;
    for (unsigned i = 0; i < FUNCTIONS; i++)
        if (fns[i]->attached)
            mk_pci_detach(fns[i]);
    for (unsigned i = 0; i < FUNCTIONS; i++) {
        drive(fns[i], false);
        fuzz_check(mk_pci_attach(fns[i], (uint8_t)((3 + i) << 3), &err) == 0);
    }
    mk_devs_reset(&devices);
    mk_bus_reset(&mmio);
}

static void configure(struct fuzz_in *in, bool write)
{
    uint8_t reg = fuzz_u8(in), size = (uint8_t)(1u << fuzz_u8(in) % 3);
    uint32_t slot = fuzz_u8(in) % 8;
    mk_bus_out(&bus, &cpu, 0xcf8, 4, 0x80000000u | slot << 11 | (reg & 0xfcu), NULL);
    uint16_t port = (uint16_t)(0xcfc + (reg & 3));
    if (write)
        mk_bus_out(&bus, &cpu, port, size, fuzz_number(in, size), NULL);
    else
        fuzz_check(mk_bus_in(&bus, &cpu, port, size, NULL) <= mk_mask(size));
}

static void touch(struct fuzz_in *in)
{
    static const uint64_t places[] = { 0xe0000000, 0, 0xfffffff0, 0x20000, UINT64_MAX };
    uint8_t size = (uint8_t)fuzz_size(in), what = fuzz_u8(in);
    uint64_t at = places[what % 5] + fuzz_u16(in);
    if (what & 0x40)
        mk_bus_out(&mmio, &cpu, at, size, fuzz_number(in, size), NULL);
    else
        fuzz_check(mk_bus_in(&mmio, &cpu, at, size, NULL) <= mk_mask(size));
}

static void damage(struct fuzz_in *in)
{
    struct mk_bytes good = save(), bad = save();
    for (unsigned n = fuzz_u8(in) % 8; n; n--)
        bad.data[fuzz_u16(in) % bad.length] = fuzz_u8(in);
    if (load(&bad, NULL) < 0)
        fuzz_check(load(&good, NULL) == 0);
    mk_bytes_free(&good);
    mk_bytes_free(&bad);
}

static void one(const uint8_t *bytes, size_t length)
{
    struct fuzz_in in = { bytes, length };
    struct mk_err err;
    restart();
    while (in.left) {
        fuzz_steps++;
        uint8_t op = fuzz_u8(&in), which = op >> 4 & 3;
        switch (op & 15) {
        case 0:
        case 1:
        case 2:
        case 3: configure(&in, true); break;
        case 4:
        case 5: configure(&in, false); break;
        case 6:
        case 7: touch(&in); break;
        case 8:
            mk_bus_out(&bus, &cpu, 0xcf8, (uint8_t)(1u << which % 3), fuzz_u32(&in), NULL);
            break;
        case 9: mk_bus_in(&bus, &cpu, fuzz_u16(&in), (uint8_t)(1u << which % 3), NULL); break;
        case 10: drive(fns[which], op & 0x40); break;
        case 11: mk_pci_detach(fns[which]); break;
        case 12:
            if (!fns[which]->attached)
                mk_pci_attach(fns[which], (uint8_t)(fuzz_u8(&in) & 0x3f), &err);
            break;
        case 13: damage(&in); break;
        case 14: mk_devs_reset(&devices); break;
        default:
            if (pic.intr)
                mk_pic_ack(&pic);
        }
    }
}

FUZZ_TARGET(pci, init, one)
