/* pci.c - the bus: configuration mechanism 1, its functions, and what a snapshot keeps of them. See
 * pci.h. */
#include "dev/pci.h"

#include "base/abi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ENABLE 0x80000000u
#define ADDRESS_BITS 0x80fffffcu
#define RESET_CPU 4u /* of RCR */
#define SLOT(n) ((n) << 3)

/* --- mechanism 1 --- */

/* Only a whole dword is CONFADD; of the bytes one is the PIIX3's RCR. */
static uint64_t address_in(void *self, struct mk_io *io)
{
    struct mk_pci *pci = self;
    if (io->size != 4)
        return mk_mask(io->size);
    pthread_mutex_lock(&pci->dev.lock);
    uint32_t address = pci->address;
    pthread_mutex_unlock(&pci->dev.lock);
    return address;
}

static void address_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_pci *pci = self;
    if (io->size == 4) {
        pthread_mutex_lock(&pci->dev.lock);
        pci->address = (uint32_t)value & ADDRESS_BITS;
        pthread_mutex_unlock(&pci->dev.lock);
    } else if (io->size == 1 && io->address == MK_PORT_RESET && value & RESET_CPU) {
        io->cpu->ops->end(io->cpu, MK_SHUTDOWN, 0, true, "reset by the PIIX3 (port 0xcf9)");
    }
}

/* The function that CONFADD names, and its register; NULL: none. The vCPU is inside the bus of
 * ports, so it is not freed meanwhile. */
static struct mk_pci_fn *target(struct mk_pci *pci, const struct mk_io *io, uint64_t *reg)
{
    pthread_mutex_lock(&pci->dev.lock);
    uint32_t address = pci->address;
    pthread_mutex_unlock(&pci->dev.lock);
    *reg = (address & 0xfc) | (io->address & 3);
    bool ours = address & ENABLE && (address >> 16 & 0xff) == 0; /* bus 0 */
    return ours ? atomic_load(&pci->fn[address >> 8 & 0xff]) : NULL;
}

static uint64_t data_in(void *self, struct mk_io *io)
{
    uint64_t reg;
    struct mk_pci_fn *fn = target(self, io, &reg);
    return fn ? mk_bus_window_in(io, &fn->window, reg) : mk_mask(io->size);
}

static void data_out(void *self, struct mk_io *io, uint64_t value)
{
    uint64_t reg;
    struct mk_pci_fn *fn = target(self, io, &reg);
    if (fn)
        mk_bus_window_out(io, &fn->window, reg, value);
}

static const struct mk_io_ops address_ops = {
    .name = "pci", .in = address_in, .out = address_out, .width = 4
};
static const struct mk_io_ops data_ops = {
    .name = "pci", .in = data_in, .out = data_out, .width = 4
};

/* --- functions come and go --- */

static void release(struct mk_retired *retired)
{
    mk_pci_fn_unref(((struct mk_fn_gone *)(void *)retired)->fn);
}

static void attach(struct mk_pci_fn *fn, uint8_t devfn)
{
    struct mk_pci *pci = fn->pci;
    fn->devfn = devfn;
    fn->initial[MK_PCI_LINE] = mk_pci_default_line(devfn, fn->initial[MK_PCI_PIN]);
    fn->attached = true;
    atomic_fetch_add(&fn->references, MK_COUNT(fn->gone));
    mk_pci_fn_reset(fn);
    atomic_store(&pci->fn[devfn], fn);
    mk_pci_place_bars(fn);
}

int mk_pci_attach(struct mk_pci_fn *fn, uint8_t devfn, struct mk_err *err)
{
    struct mk_pci *pci = fn->pci;
    int rc = 0;
    if (!pci->pic && fn->initial[MK_PCI_PIN])
        return mk_fail(err, EINVAL,
                       "pci: %s interrupts, and the VM has no interrupt lines: create it with "
                       "irqchip = \"pic\"",
                       fn->name);
    if (mk_pci_enable(pci, err) < 0)
        return -1;
    pthread_mutex_lock(&pci->dev.lock);
    const struct mk_pci_fn *other = atomic_load(&pci->fn[devfn]);
    if (other)
        rc = mk_fail(err, EEXIST, "pci: %s: slot %u, function %u is taken by %s", fn->name,
                     devfn >> 3, devfn & 7u, other->name);
    else
        attach(fn, devfn);
    pthread_mutex_unlock(&pci->dev.lock);
    return rc;
}

void mk_pci_detach(struct mk_pci_fn *fn)
{
    struct mk_pci *pci = fn->pci;
    pthread_mutex_lock(&pci->dev.lock);
    bool was = fn->attached;
    fn->attached = fn->raised = false;
    if (was) {
        atomic_store(&pci->fn[fn->devfn], NULL);
        mk_pci_close_bars(fn);
        mk_pci_route(pci);
        mk_pci_place_slots(pci);
    }
    pthread_mutex_unlock(&pci->dev.lock);
    if (!was)
        return;
    struct mk_bus *const buses[] = { pci->ports, pci->mmio };
    for (unsigned i = 0; i < MK_COUNT(fn->gone); i++) {
        fn->gone[i] = (struct mk_fn_gone){ .retired = { .release = release }, .fn = fn };
        mk_bus_retire(buses[i], &fn->gone[i].retired);
    }
}

bool mk_pci_is_master(struct mk_pci_fn *fn)
{
    pthread_mutex_lock(&fn->pci->dev.lock);
    bool master = fn->attached && fn->config[MK_PCI_COMMAND] & MK_PCI_MASTER;
    pthread_mutex_unlock(&fn->pci->dev.lock);
    return master;
}

/* --- the bus is there --- */

/* An Intel 440FX and a PIIX3, of which guests find what concerns interrupts. */
static int make_parts(struct mk_pci *pci, struct mk_err *err)
{
    if (pci->piix3)
        return 0;
    static const uint8_t nothing[MK_PCI_CONFIG],
        pirqs[MK_PCI_CONFIG] = { [MK_PCI_PIRQ] = 0x8f, 0x8f, 0x8f, 0x8f };
    static const uint8_t i440fx[MK_PCI_CONFIG] = { 0x86, 0x80, 0x37, 0x12, [11] = 0x06 };
    static const uint8_t isa[MK_PCI_CONFIG] = { 0x86, 0x80, 0x00, 0x70, [10] = 0x01, 0x06 };
    struct mk_pci_fn *bridge = mk_pci_fn_new(pci, "host bridge", i440fx, nothing, err);
    struct mk_pci_fn *piix3 = bridge ? mk_pci_fn_new(pci, "PIIX3", isa, pirqs, err) : NULL;
    if (!piix3) {
        if (bridge)
            mk_pci_fn_unref(bridge);
        return -1;
    }
    pthread_mutex_lock(&pci->dev.lock);
    pci->bridge = bridge;
    pci->piix3 = piix3;
    attach(bridge, SLOT(0));
    attach(piix3, SLOT(1));
    mk_pci_init_router(pci);
    pthread_mutex_unlock(&pci->dev.lock);
    return 0;
}

static int check_ports(struct mk_pci *pci, struct mk_err *err)
{
    char owner[sizeof(((struct mk_hook *)0)->owner)];
    uint64_t where;
    if (mk_bus_owned(pci->ports, MK_PORT_PCI_ADDRESS, MK_PORT_PCI_DATA + 3, &where, owner))
        return mk_fail(err, EEXIST, "pci: port 0x%llx belongs to %s: remove() that first",
                       (unsigned long long)where, owner);
    return 0;
}

static int hook_ports(struct mk_pci *pci, struct mk_err *err)
{
    pci->address_hook = mk_bus_hook(pci->ports, MK_PORT_PCI_ADDRESS, MK_PORT_PCI_ADDRESS + 3,
                                    &address_ops, pci, NULL);
    if (pci->address_hook)
        pci->data_hook =
            mk_bus_hook(pci->ports, MK_PORT_PCI_DATA, MK_PORT_PCI_DATA + 3, &data_ops, pci, NULL);
    if (pci->data_hook)
        return 0;
    if (pci->address_hook)
        mk_bus_unhook(pci->ports, pci->address_hook);
    return mk_fail_errno(err, ENOMEM, "pci");
}

int mk_pci_enable(struct mk_pci *pci, struct mk_err *err)
{
    if (pci->on)
        return 0;
    if (check_ports(pci, err) < 0 || make_parts(pci, err) < 0 || hook_ports(pci, err) < 0)
        return -1;
    pci->on = true;
    return 0;
}

static void disable(struct mk_pci *pci)
{
    mk_bus_unhook(pci->ports, pci->address_hook);
    mk_bus_unhook(pci->ports, pci->data_hook);
    pci->address_hook = pci->data_hook = NULL;
    pci->on = false;
}

/* --- what a snapshot keeps --- */

/* A function in a snapshot. */
struct saved {
    uint8_t devfn;
    uint32_t id; /* vendor and device */
    uint8_t config[MK_PCI_CONFIG];
    bool raised;
};

static const struct mk_field saved_fields[] = {
    MK_RAW(struct saved, devfn),
    MK_RAW(struct saved, id),
    MK_RAW(struct saved, config),
    MK_FLAG(struct saved, raised),
    { 0 },
};

struct mk_bus *mk_pci_window(struct mk_pci_fn *fn, unsigned number)
{
    if (number == 0)
        return &fn->window;
    return fn->bar[number - 1] ? &fn->bar[number - 1]->bus : NULL;
}

/* What is held in its windows. */
static void code_windows(void *ctx, struct mk_codec *k)
{
    for (unsigned i = 0; i <= MK_PCI_BARS && !mk_codec_failed(k); i++) {
        struct mk_bus *bus = mk_pci_window(ctx, i);
        mk_codec_part(k, bus ? mk_bus_dev.code : NULL, bus);
    }
}

static void save_fn(struct mk_pci_fn *fn, struct mk_codec *k)
{
    struct saved s = { .devfn = fn->devfn, .id = mk_pci_get32(fn->initial), .raised = fn->raised };
    memcpy(s.config, fn->config, sizeof(s.config));
    mk_codec_fields(k, saved_fields, &s);
    mk_codec_part(k, code_windows, fn);
}

/* Into the function that is there now; when there is none, a script will attach it later. */
static void load_fn(struct mk_pci *pci, struct mk_codec *k)
{
    struct saved s = { 0 };
    mk_codec_fields(k, saved_fields, &s);
    struct mk_pci_fn *fn = k->check || mk_codec_failed(k) ? NULL : atomic_load(&pci->fn[s.devfn]);
    bool there = fn && mk_pci_get32(fn->initial) == s.id;
    pci->missing |= !there;
    if (there)
        mk_pci_fn_load(fn, s.config, s.raised);
    mk_codec_part(k, there ? code_windows : NULL, fn);
}

static uint32_t count_fns(const struct mk_pci *pci)
{
    uint32_t count = 0;
    for (unsigned i = 0; i < MK_PCI_FUNCTIONS; i++)
        count += atomic_load(&pci->fn[i]) != NULL;
    return count;
}

/* The mechanism is there if it was then. */
static void switch_to(struct mk_pci *pci, struct mk_codec *k, bool on)
{
    if (on && mk_pci_enable(pci, k->err) < 0)
        k->bad = true;
    if (!on && pci->on)
        disable(pci);
}

static void code(void *self, struct mk_codec *k)
{
    struct mk_pci *pci = self;
    uint32_t on = pci->on, count = count_fns(pci);
    mk_codec_u32(k, &on);
    mk_codec_u32(k, &count);
    mk_codec_check(k, count <= MK_PCI_FUNCTIONS && on <= 1);
    if (!k->out && !k->check && !mk_codec_failed(k))
        switch_to(pci, k, on);
    uint32_t address = pci->address;
    mk_codec_u32(k, &address);
    if (!k->out && !k->check)
        pci->address = address & ADDRESS_BITS;
    for (unsigned i = 0; k->out && i < MK_PCI_FUNCTIONS; i++)
        if (atomic_load(&pci->fn[i]))
            save_fn(atomic_load(&pci->fn[i]), k);
    pci->missing &= k->out != NULL;
    for (unsigned i = 0; !k->out && i < count && !mk_codec_failed(k); i++)
        load_fn(pci, k);
}

/* --- as a device --- */

static void place_all(struct mk_pci *pci)
{
    pthread_mutex_lock(&pci->dev.lock);
    for (unsigned i = 0; i < MK_PCI_FUNCTIONS; i++)
        if (atomic_load(&pci->fn[i]))
            mk_pci_place_bars(atomic_load(&pci->fn[i]));
    if (!pci->missing)
        mk_pci_route_all(pci);
    pthread_mutex_unlock(&pci->dev.lock);
}

static void after_load(void *self)
{
    place_all(self);
}

static void reset(void *self)
{
    struct mk_pci *pci = self;
    pci->address = 0;
    pci->missing = false;
    for (unsigned i = 0; i < MK_PCI_FUNCTIONS; i++) {
        struct mk_pci_fn *fn = atomic_load(&pci->fn[i]);
        if (!fn)
            continue;
        mk_pci_fn_reset(fn);
        for (unsigned k = 0; k <= MK_PCI_BARS; k++)
            if (mk_pci_window(fn, k))
                mk_bus_reset(mk_pci_window(fn, k));
    }
    if (pci->piix3)
        mk_pci_init_router(pci);
    place_all(pci);
}

/* The buses are freed after it. */
static void free_pci(void *self)
{
    struct mk_pci *pci = self;
    for (unsigned i = 0; i < MK_PCI_FUNCTIONS; i++) {
        struct mk_pci_fn *fn = atomic_load(&pci->fn[i]);
        for (unsigned k = 0; fn && k < MK_COUNT(fn->gone); k++)
            mk_pci_fn_unref(fn);
    }
    if (pci->piix3) {
        mk_pci_fn_unref(pci->piix3);
        mk_pci_fn_unref(pci->bridge);
    }
}

const struct mk_dev_ops mk_pci_dev = { .name = "pci",
                                       .code = code,
                                       .after_load = after_load,
                                       .hooks = true,
                                       .reset = reset,
                                       .free = free_pci };

struct mk_dev *mk_pci_init(struct mk_pci *pci)
{
    *pci = (struct mk_pci){ .vm_fd = -1 };
    return &pci->dev;
}
