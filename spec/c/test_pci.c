/* test_pci.c - the PCI bus (src/dev/pci.h), used as a guest uses it: through ports 0xcf8 and 0xcfc
 * and the windows of BARs. Right values: PCI Local Bus Specification 3.0 (3.2.2.3.2, chapter 6),
 * Intel's data sheets of the 82371SB (PIIX3) and the 8259A. No KVM. Prints TAP. */
#include "pci_bus.h"

/* --- the mechanism --- */

static void test_mechanism(void)
{
    bus_on();
    out(0xcf8, 4, 0xffffffff);
    tap_is(in(0xcf8, 4), 0x80fffffc, "CONFADD: reserved bits read as 0 (3.2.2.3.2)");
    out(0xcfb, 1, 1);
    out(0xcf8, 2, 0);
    tap_is(in(0xcf8, 4), 0x80fffffc, "CONFADD: only a dword is it");
    tap_is(in(0xcf8, 1), 0xff, "and its bytes read as nothing");
    tap_is(get(0x80000000, 0), 0x12378086, "a host bridge in slot 0");
    tap_is(get(0x80000000, 8) >> 8, 0x060000, "of class 0600");
    tap_is(get(PIIX, 0), 0x70008086, "a PIIX3 in slot 1");
    get(0x80000000, 0);
    tap_ok(in(0xcfc, 1) == 0x86 && in(0xcfd, 1) == 0x80 && in(0xcfe, 1) == 0x37 &&
               in(0xcff, 1) == 0x12,
           "data: bytes");
    tap_ok(in(0xcfc, 2) == 0x8086 && in(0xcfd, 2) == 0x3780 && in(0xcfe, 2) == 0x1237,
           "data: words, also unaligned");
    tap_is(in(0xcfe, 4), 0xffff1237, "data: a dword over the end has two bytes of the port's");
    tap_is(in(0xcff, 2), 0xff12, "data: so has a word");
    tap_is(in(0xcfa, 4), 0x8086ffff, "data: and one that begins before");
    tap_is(get(0x80010000, 0), 0xffffffff, "there is no bus 1");
    tap_is(get(FREE_SLOT, 0), 0xffffffff, "an empty slot reads as ones");
    tap_is(get(0x80000100, 0), 0xffffffff, "so does another function of a slot that has one");
    tap_is(get(0x00000000, 0), 0xffffffff, "so does all without the enable bit");
    set(FREE_SLOT, 4, 4, 0xffffffff);
    out(0xcf9, 1, 0x02);
    tap_is(ends, 0, "RCR: nothing without its reset bit");
    out(0xcf9, 1, 0x06);
    tap_ok(ends == 1 && end_reason == MK_SHUTDOWN, "RCR: a reset (82371SB, 0cf9h)");
    bus_off();
}

static void test_header(void)
{
    bus_on();
    struct mk_pci_fn *fn = card("card", 3, 1);
    tap_is(get(SLOT3, 0), 0x56781234, "ids");
    tap_is(get(SLOT3, 8), 0x00ff0007, "class and revision");
    tap_is(get(SLOT3, 0x2c), 0x00020001, "subsystem");
    set(SLOT3, 0, 4, 0);
    set(SLOT3, 8, 4, 0);
    tap_is(get(SLOT3, 0), 0x56781234, "ids are read-only");
    set(SLOT3, 4, 4, 0xffffffff);
    tap_is(get(SLOT3, 4), 0x00000547, "command: what is not there stays 0; status is read-only");
    set(SLOT3, 4, 2, 0);
    set(SLOT3, 0x3d, 1, 0xff);
    set(SLOT3, 0x3c, 1, 0x5a);
    tap_is(get(SLOT3, 0x3c), 0x015a, "interrupt line is writable, pin is not");
    set(SLOT3, 0xfc, 4, 0xffffffff);
    tap_is(get(SLOT3, 0xfc), 0, "what is not implemented reads 0 (6.1)");
    tap_is(get(SLOT3, 0x0c), 0, "header type 0, one function");
    struct mk_pci_fn *second = attach_at(new_fn("second", 0), 3 << 3 | 5);
    tap_is(get(SLOT3, 0x0c), 0x00800000, "with another one: several");
    tap_is(get(SLOT3 | 0x500, 0), 0x56781234, "which is there");
    mk_pci_detach(second);
    tap_is(get(SLOT3, 0x0c), 0, "and gone");
    struct mk_err err;
    tap_ok(mk_pci_attach(second, 3 << 3, &err) < 0, "a place that is taken");
    tap_text(err.text, "pci: second: slot 3, function 0 is taken by card", "is refused by name");
    mk_pci_fn_unref(second);
    mk_pci_fn_unref(fn);
    bus_off();
}

static void test_caps(void)
{
    bus_on();
    struct space s = identity(1);
    add_cap(&s, 0x40, 9, "\1\2\3", "\0\xff", 3);
    add_cap(&s, 0x48, 5, "\x80", "\x71", 2);
    struct mk_pci_fn *fn = attach_at(make_fn("caps", &s), 3 << 3);
    tap_is(get(SLOT3, 4) >> 20 & 1, 1, "status says that there are some");
    tap_is(get(SLOT3, 0x34), 0x40, "the first");
    set(SLOT3, 0x40, 4, 0xffffffff);
    tap_is(get(SLOT3, 0x40), 0xff014809, "id, next, and what may be written");
    tap_is(get(SLOT3, 0x48) & 0xffff, 0x0005, "the second is the last");
    tap_ok(fn->msi == 0x48 && !fn->msix, "MSI is found there");
    mk_pci_fn_unref(fn);
    put(s.initial, 0x49, 1, 0x40);
    s.initial[0x48] = 7;
    fn = make_fn("round", &s);
    tap_ok(!fn->msi && !fn->msix, "a list that comes round ends");
    mk_pci_fn_unref(fn);
    put(s.initial, 0x49, 1, 0xff);
    put(s.initial, 0xff, 1, 5);
    fn = make_fn("end", &s);
    tap_is(fn->msi, 0, "one that has no room at the end is none");
    mk_pci_fn_unref(fn);
    bus_off();
}

/* --- BARs --- */

static void test_sizes(void)
{
    bus_on();
    struct mk_pci_fn *fn = card("card", 3, 1);
    for (unsigned reg = 0x10; reg < 0x28; reg += 4)
        set(SLOT3, reg, 4, 0xffffffff);
    tap_is(get(SLOT3, 0x10), 0xfffff000, "BAR 0: 4 KiB (6.2.5.1)");
    tap_is(get(SLOT3, 0x14), 0xfffffff9, "BAR 1: 8 ports");
    tap_is(get(SLOT3, 0x18), 0x0000000c, "BAR 2: 64 bits, prefetchable");
    tap_is(get(SLOT3, 0x1c), 0xfffffffe, "of 8 GiB");
    tap_is(get(SLOT3, 0x20), 0, "BAR 4: none");
    set(SLOT3, 0x11, 1, 0x2f);
    set(SLOT3, 0x12, 2, 0xfeb0);
    tap_is(get(SLOT3, 0x10), 0xfeb02000, "BARs are written in bytes and words, too");
    struct space odd = { 0 };
    memset(odd.initial, 0xff, sizeof(odd.initial));
    memset(odd.writable, 0xff, sizeof(odd.writable));
    put(odd.initial, 0x10, 8, 4);
    put(odd.initial, 0x24, 4, 4);
    put(odd.writable, 0x20, 4, 0x80000000);
    put(odd.initial, 0x20, 4, 1);
    struct mk_pci_fn *bad = make_fn("odd", &odd);
    tap_ok(bad->bar[0]->wide && bad->bar[0]->size == 16 && !bad->bar[1], "64 bits take two");
    tap_ok(bad->bar[2]->ports && bad->bar[2]->size == 4 && bad->bar[3], "ports take one");
    tap_is((long long)bad->bar[4]->size, 0x80000000, "more than there are is nowhere");
    tap_ok(bad->bar[5] && !bad->bar[5]->wide, "the last one has 32 bits");
    tap_ok(mk_pci_add_ram(bad, 0, 0, 4096, NULL) < 0, "RAM does not fit in 16 bytes");
    tap_ok(mk_pci_add_ram(bad, 1, 0, 4096, NULL) < 0, "nor into what is no BAR");
    mk_pci_fn_unref(bad);
    mk_pci_fn_unref(fn);
    bus_off();
}

static void test_places(void)
{
    bus_on();
    struct mk_pci_fn *fn = card("card", 3, 1);
    set(SLOT3, 0x10, 4, 0xfeb00000);
    store_at(0xfeb00010, 4, 0x11223344);
    tap_is(load_at(0xfeb00010, 4), 0xffffffff, "a BAR without memory decoding is nowhere");
    set(SLOT3, 4, 2, 2);
    store_at(0xfeb00010, 4, 0x11223344);
    tap_is(load_at(0xfeb00010, 4), 0x11223344, "with it, it is where its address says");
    tap_is(load_at(0xfeb0000e, 8), 0x112233440000, "to accesses of all widths and alignments");
    tap_is(load_at(0xfeb00ffe, 4), 0xffff0000, "to its last byte");
    set(SLOT3, 0x10, 4, 0xc0000000);
    tap_is(load_at(0xfeb00010, 4), 0xffffffff, "a BAR that moves leaves its place");
    tap_is(load_at(0xc0000010, 4), 0x11223344, "with what it holds");
    set(SLOT3, 4, 2, 0);
    tap_is(load_at(0xc0000010, 4), 0xffffffff, "switched off");
    set(SLOT3, 4, 2, 2);
    tap_is(load_at(0xc0000010, 4), 0x11223344, "and on again");
    set(SLOT3, 0x10, 4, 0);
    tap_is(load_at(0x10, 4), 0xffffffff, "at 0 it is nowhere: nobody has given it a place");
    set(SLOT3, 0x10, 4, 0xffffffff);
    tap_is(load_at(0xfffff010, 4), 0xffffffff, "and while it is sized");
    set(SLOT3, 0x14, 4, 0xcf8);
    set(SLOT3, 4, 2, 3);
    tap_is(get(SLOT3, 0x14), 0xcf9, "ports over 0xcf8: the bus keeps answering");
    set(SLOT3, 0x14, 4, 0x20);
    out8(0x21, 0xa5);
    tap_is(in8(0x21), 0xa5, "ports over the PIC: it answers");
    tap_ok(in(0x24, 2) == 0, "and the function where it has none");
    set(SLOT3, 0x14, 4, 0x10000);
    tap_is(in(0, 1), 0xff, "ports that there are not: nowhere");
    set(SLOT3, 0x14, 4, 0xc000);
    out(0xc002, 2, 0xbeef);
    tap_is(in(0xc000, 4), 0xbeef0000, "ports in their place");
    set(SLOT3, 0x1c, 4, 0x12);
    set(SLOT3, 0x18, 4, 0);
    uint64_t at;
    tap_ok(mk_pci_bar_place(fn, 2, &at) && at == UINT64_C(0x1200000000), "64 bits above 4 GiB");
    set(SLOT3, 0x1c, 4, 0x80000000);
    tap_ok(!mk_pci_bar_place(fn, 2, &at), "but not where addresses end");
    mk_pci_fn_unref(fn);
    bus_off();
}

static void test_overlap(void)
{
    bus_on();
    struct mk_pci_fn *a = card("a", 3, 1), *b = card("b", 4, 1);
    set(SLOT3, 0x10, 4, 0xfeb00000);
    set(0x80002000, 0x10, 4, 0xfeb00000);
    set(SLOT3, 4, 2, 2);
    store_at(0xfeb00000, 4, 1);
    set(0x80002000, 4, 2, 2);
    tap_is(load_at(0xfeb00000, 4), 1, "of two over each other one answers, as before");
    set(SLOT3, 4, 2, 0);
    tap_is(load_at(0xfeb00000, 4), 0, "then the other");
    struct mk_prim *script = mk_prim_new();
    script->value = 0x77;
    struct mk_hook *hook =
        mk_bus_hook(&mmio, 0xfeb00000, 0xfeb00fff, &mk_const_ops, script, "script");
    set(SLOT3, 4, 2, 2);
    tap_is(load_at(0xfeb00000, 1), 0x77, "a BAR goes beneath what a script hooks");
    mk_bus_unhook(&mmio, hook);
    mk_pci_detach(a);
    mk_pci_detach(b);
    tap_is(load_at(0xfeb00000, 4), 0xffffffff, "detached: nowhere");
    tap_is(get(SLOT3, 0), 0xffffffff, "and no function");
    tap_is(mk_pci_attach(a, 7 << 3, NULL), 0, "a function comes back elsewhere");
    tap_is(get(0x80003800, 0x10), 0, "as after a reset");
    mk_pci_fn_unref(a);
    mk_pci_fn_unref(b);
    bus_off();
}

static void test_ram(void)
{
    bus_on();
    struct space s = identity(0);
    add_bar(&s, 0, 8, 1 << 20);
    struct mk_pci_fn *fn = make_fn("video", &s);
    tap_is(mk_pci_add_ram(fn, 0, 4096, 8192, NULL), 0, "RAM in a part of a BAR");
    attach_at(fn, 3 << 3);
    set(SLOT3, 0x10, 4, 0xe0000000);
    set(SLOT3, 4, 2, 2);
    store_at(0xe0001ffc, 8, 0x0102030405060708);
    tap_is(load_at(0xe0001ffc, 8), 0x0102030405060708, "without a slot it is there by exits");
    tap_is(load_at(0xe0000ffe, 4), 0xffff, "its neighbours are not");
    struct mk_bytes state = save();
    store_at(0xe0001ffc, 8, 0);
    tap_is(load(&state, NULL), 0, "a snapshot");
    tap_is(load_at(0xe0001ffc, 8), 0x0102030405060708, "has what it holds");
    mk_devs_reset(&devices);
    set(SLOT3, 0x10, 4, 0xe0000000);
    set(SLOT3, 4, 2, 2);
    tap_is(load_at(0xe0001ffc, 8), 0, "a reset clears it");
    mk_bytes_free(&state);
    mk_pci_fn_unref(fn);
    bus_off();
}

/* --- interrupts --- */

static void test_router(void)
{
    bus_on();
    struct mk_pci_fn *fn[5];
    for (unsigned i = 0; i < 5; i++)
        fn[i] = card("card", (uint8_t)(2 + i), 1);
    tap_is(get(PIIX, 0x60), 0x09050b0a, "firmware has routed to 10, 11, 5 and 9");
    tap_ok(in8(0x4d0) == 0x20 && in8(0x4d1) == 0x0e, "which ELCR says are level-triggered");
    for (unsigned i = 0; i < 5; i++) {
        static const uint8_t lines[5] = { 11, 5, 9, 10, 11 };
        tap_is(mk_pci_irq_line(fn[i]), lines[i], "slots are spread over them");
        tap_is(get(0x80001000 + i * 0x800, 0x3c) & 0xff, lines[i], "as their registers say");
    }
    drive(fn[1], true);
    tap_is(take(), BASE1 + 5, "an interrupt");
    tap_is(take(), -1, "is in service");
    out8(0x20, EOI);
    tap_is(take(), BASE1 + 5, "and comes again while the line is up");
    route(2, 7);
    out8(0x20, EOI);
    tap_is(take(), BASE1 + 7, "routing changes while it is up");
    out8(0x20, EOI);
    route(2, 0x80 | 7);
    tap_is(take(), -1, "bit 7 switches it off (82371SB, PIRQRC)");
    for (unsigned line = 0; line < 16; line++) {
        route(2, (uint8_t)line);
        bool reserved = line < 3 || line == 8 || line == 13;
        tap_is(mk_pci_irq_line(fn[1]), reserved ? -1 : (int)line, "reserved lines are none");
    }
    route(2, 0x70);
    tap_is(get(PIIX, 0x60) >> 16 & 0xff, 0, "its reserved bits stay 0");
    route(2, 5);
    tap_is(get(SLOT3, 4) >> 19 & 1, 1, "status tells of the interrupt");
    set(SLOT3, 4, 2, 0x400);
    out8(0x20, EOI);
    tap_is(take(), -1, "INTx can be switched off (6.2.2)");
    tap_is(get(SLOT3, 4) >> 19 & 1, 1, "status tells of it all the same");
    set(SLOT3, 4, 2, 0);
    mk_pci_detach(fn[1]);
    tap_is(take(), -1, "who is detached holds no line");
    for (unsigned i = 0; i < 5; i++)
        mk_pci_fn_unref(fn[i]);
    bus_off();
}

/* Slots 2 and 6 share line 11. */
static void test_sharing(void)
{
    bus_on();
    struct mk_pci_fn *a = card("a", 2, 1), *b = card("b", 6, 1);
    drive(a, true);
    tap_is(take(), BASE2 + 3, "two on a line: one raises");
    drive(b, true);
    drive(a, false);
    out8(0xa0, EOI), out8(0x20, EOI);
    tap_is(take(), BASE2 + 3, "the other, which raised meanwhile, is not lost");
    drive(b, false);
    out8(0xa0, EOI), out8(0x20, EOI);
    tap_is(take(), -1, "and then it is quiet");
    raise(11);
    drive(a, true);
    drive(a, false);
    tap_is(take(), BASE2 + 3, "so is a device of the line's own");
    lower(11);
    out8(0xa0, EOI), out8(0x20, EOI);
    tap_is(take(), -1, "until it lowers it");
    drive(a, true);
    mk_pic_pulse(&pic, 11);
    tap_is(take(), BASE2 + 3, "a pulse on a line that is up");
    out8(0xa0, EOI), out8(0x20, EOI);
    tap_is(take(), BASE2 + 3, "leaves it up");
    mk_pci_fn_unref(a);
    mk_pci_fn_unref(b);
    bus_off();
}

/* Raises it: the capability by which a message is due, and its control. */
static uint8_t raise_fn(struct mk_pci_fn *fn, uint16_t *control)
{
    uint16_t none;
    mk_pci_set_irq(fn, false, &none);
    return mk_pci_set_irq(fn, true, control);
}

static void test_messages(void)
{
    uint16_t control;
    bus_on();
    struct space s = identity(1);
    add_cap(&s, 0x40, 5, "\x80", "\x71", 2);
    add_cap(&s, 0x50, 0x11, "\2", "\0\xc0", 2);
    struct mk_pci_fn *fn = attach_at(make_fn("msi", &s), 3 << 3);
    tap_is(raise_fn(fn, &control), 0, "without messages a function uses INTx");
    tap_is(take(), BASE1 + 5, "which is there");
    out8(0x20, EOI);
    set(SLOT3, 0x42, 2, 1);
    tap_is(take(), -1, "with MSI it does not (6.8)");
    tap_ok(raise_fn(fn, &control) == 5 && control == 0x81, "a message is due instead");
    tap_is(mk_pci_set_irq(fn, true, &control), 0, "once");
    tap_is(take(), -1, "and no INTx");
    set(SLOT3, 0x52, 2, 0xc000);
    tap_ok(raise_fn(fn, &control) == 0x11 && control == 0xc002, "so with MSI-X");
    set(SLOT3, 0x52, 2, 0);
    set(SLOT3, 0x42, 2, 0);
    tap_is(take(), BASE1 + 5, "without either INTx is back");
    mk_pci_fn_unref(fn);
    bus_off();
}

int main(void)
{
    test_mechanism();
    test_header();
    test_caps();
    test_sizes();
    test_places();
    test_overlap();
    test_ram();
    test_router();
    test_sharing();
    test_messages();
    return tap_done();
}
