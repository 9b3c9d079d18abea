/* pci_bus.h - a PCI bus of a PC without a VM, used as a guest uses it (test_pci.c). */
#ifndef TEST_PCI_BUS_H
#define TEST_PCI_BUS_H

#include "dev/pci.h"
#include "dev/prim.h"

#include "pc.h"

#define SLOT3 0x80001800u
#define PIIX 0x80000800u
#define FREE_SLOT 0x8000f800u

static struct mk_bus mmio;
static struct mk_pci pci;
static struct mk_doorbells bells;
static struct mk_mem memory;

static inline void ring_nobody(void *ctx)
{
    (void)ctx;
}

static inline void bus_on(void)
{
    struct mk_err err;
    machine_on();
    pic_program(0x11, 0x01);
    mk_bus_init(&mmio, MK_SPACE_MMIO);
    mk_doorbells_init(&bells, &bus, &mmio, ring_nobody, NULL);
    mk_devs_add(&devices, mk_pci_init(&pci), &mk_pci_dev);
    pci.ports = &bus;
    pci.mmio = &mmio;
    pci.pic = &pic;
    pci.doorbells = &bells;
    pci.mem = &memory;
    if (mk_pci_enable(&pci, &err) < 0)
        abort();
}

static inline void bus_off(void)
{
    mk_doorbells_free(&bells);
    mk_devs_free(&devices);
    mk_bus_free(&bus);
    mk_bus_free(&mmio);
    mk_clock_free(&vm_clock);
}

static inline uint32_t in(uint16_t port, uint8_t size)
{
    return (uint32_t)mk_bus_in(&bus, &cpu, port, size, NULL);
}

static inline void out(uint16_t port, uint8_t size, uint32_t value)
{
    mk_bus_out(&bus, &cpu, port, size, value, NULL);
}

static inline uint32_t get(uint32_t function, unsigned reg)
{
    out(0xcf8, 4, function | (reg & 0xfc));
    return in(0xcfc, 4);
}

static inline void set(uint32_t function, unsigned reg, uint8_t size, uint32_t value)
{
    out(0xcf8, 4, function | (reg & 0xfc));
    out((uint16_t)(0xcfc + (reg & 3)), size, value);
}

static inline uint64_t load_at(uint64_t address, uint8_t size)
{
    return mk_bus_in(&mmio, &cpu, address, size, NULL);
}

static inline void store_at(uint64_t address, uint8_t size, uint64_t value)
{
    mk_bus_out(&mmio, &cpu, address, size, value, NULL);
}

/* Configuration space of a function, while it is put together. */
struct space {
    uint8_t initial[MK_PCI_CONFIG], writable[MK_PCI_CONFIG];
};

static inline void put(uint8_t *bytes, unsigned at, unsigned count, uint64_t value)
{
    for (unsigned i = 0; i < count; i++)
        bytes[at + i] = (uint8_t)(value >> 8 * i);
}

static inline struct space identity(uint8_t pin)
{
    struct space s = { 0 };
    put(s.initial, 0, 4, 0x56781234);
    put(s.initial, 8, 4, 0x00ff0007);
    put(s.initial, 0x2c, 4, 0x00020001);
    s.initial[MK_PCI_PIN] = pin;
    return s;
}

/* `type`: the bits that say of which kind it is. */
static inline void add_bar(struct space *s, unsigned number, uint8_t type, uint64_t size)
{
    unsigned count = type & 4 ? 8 : 4;
    put(s->initial, MK_PCI_BAR0 + 4 * number, count, type);
    put(s->writable, MK_PCI_BAR0 + 4 * number, count, ~(size - 1) & ~UINT64_C(3));
}

/* The last of the list: its bytes, and those of them that guests write. */
static inline void add_cap(struct space *s, unsigned at, uint8_t id, const char *bytes,
                           const char *writable, size_t length)
{
    unsigned link = 0x34;
    while (s->initial[link])
        link = s->initial[link] + 1u;
    s->initial[link] = (uint8_t)at;
    s->initial[MK_PCI_STATUS] |= 0x10;
    s->initial[at] = id;
    memcpy(s->initial + at + 2, bytes, length);
    memcpy(s->writable + at + 2, writable, length);
}

static inline struct mk_pci_fn *make_fn(const char *name, const struct space *s)
{
    struct mk_pci_fn *fn = mk_pci_fn_new(&pci, name, s->initial, s->writable, NULL);
    if (!fn)
        abort();
    return fn;
}

static inline struct mk_pci_fn *new_fn(const char *name, uint8_t pin)
{
    struct space s = identity(pin);
    return make_fn(name, &s);
}

/* A latch is what stands for registers here. */
static inline void fill(struct mk_pci_fn *fn, unsigned number, uint64_t size)
{
    struct mk_prim *latch = mk_prim_new_latch(0, size - 1, 1, 0);
    if (!latch || !mk_bus_hook(&fn->bar[number]->bus, 0, size - 1, &mk_latch_ops, latch, "latch"))
        abort();
}

static inline struct mk_pci_fn *attach_at(struct mk_pci_fn *fn, uint8_t devfn)
{
    if (mk_pci_attach(fn, devfn, NULL) < 0)
        abort();
    return fn;
}

/* Slot 3: BAR 0 memory, 1 ports, 2 and 3 memory of 64 bits. */
static inline struct mk_pci_fn *card(const char *name, uint8_t slot, uint8_t pin)
{
    struct space s = identity(pin);
    add_bar(&s, 0, 0, 4096);
    add_bar(&s, 1, 1, 8);
    add_bar(&s, 2, 12, UINT64_C(1) << 33);
    struct mk_pci_fn *fn = make_fn(name, &s);
    fill(fn, 0, 4096);
    fill(fn, 1, 8);
    return attach_at(fn, (uint8_t)(slot << 3));
}

static inline void drive(struct mk_pci_fn *fn, bool level)
{
    uint16_t control;
    mk_pci_set_irq(fn, level, &control);
}

static inline void route(unsigned pirq, uint8_t value)
{
    set(PIIX, 0x60 + pirq, 1, value);
}

#endif
