/* pci_config.c - a function's configuration space: what a guest may write there, and what that
 * does. See pci.h; PCI 3.0, 6.1 to 6.7. */
#include "dev/pci.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMAND_BITS 0x0547 /* I/O, memory, master, parity, SERR#, INTx off */
#define STATUS_CAPS 0x10
#define HEADER_TYPE 0x0e
#define SEVERAL 0x80 /* functions in this slot */

/* --- accesses --- */

static bool has_siblings(const struct mk_pci_fn *fn)
{
    bool more = false;
    for (unsigned i = 1; i < 8 && !(fn->devfn & 7); i++)
        more |= atomic_load(&fn->pci->fn[fn->devfn + i]) != NULL;
    return more;
}

/* What does not lie in `config`: what the function signals, what else is in its slot. */
static uint8_t read_byte(const struct mk_pci_fn *fn, unsigned reg)
{
    uint8_t value = fn->config[reg];
    if (reg == MK_PCI_STATUS && fn->raised)
        value |= MK_PCI_INTX;
    if (reg == HEADER_TYPE && has_siblings(fn))
        value |= SEVERAL;
    return value;
}

static uint64_t config_in(void *self, struct mk_io *io)
{
    struct mk_pci_fn *fn = self;
    uint64_t value = 0;
    pthread_mutex_lock(&fn->pci->dev.lock);
    for (unsigned i = 0; i < io->size; i++)
        value |= (uint64_t)read_byte(fn, (unsigned)io->address + i) << 8 * i;
    pthread_mutex_unlock(&fn->pci->dev.lock);
    return value;
}

static void config_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_pci_fn *fn = self;
    pthread_mutex_lock(&fn->pci->dev.lock);
    for (unsigned i = 0; i < io->size; i++) {
        unsigned reg = (unsigned)io->address + i;
        uint8_t mask = fn->writable[reg], byte = (uint8_t)(value >> 8 * i);
        fn->config[reg] = (uint8_t)((fn->config[reg] & ~mask) | (byte & mask));
    }
    if (fn->attached) {
        mk_pci_place_bars(fn);
        mk_pci_route(fn->pci);
    }
    pthread_mutex_unlock(&fn->pci->dev.lock);
}

static const struct mk_io_ops config_ops = {
    .name = "pci config", .in = config_in, .out = config_out, .width = 4
};

/* --- what a function is --- */

static void set_id(struct mk_pci_fn *fn, const struct mk_pci_id *id)
{
    uint8_t *c = fn->initial;
    mk_pci_put16(c, id->vendor);
    mk_pci_put16(c + 2, id->device);
    mk_pci_put32(c + 8, id->class << 8 | id->revision);
    mk_pci_put16(c + 0x2c, id->subvendor);
    mk_pci_put16(c + 0x2e, id->subdevice);
    c[MK_PCI_PIN] = id->pin;
    mk_pci_put16(fn->writable + MK_PCI_COMMAND, COMMAND_BITS);
    fn->writable[0x0c] = fn->writable[0x0d] = 0xff; /* cache line, latency */
    fn->writable[MK_PCI_LINE] = 0xff;
}

struct mk_pci_fn *mk_pci_fn_new(struct mk_pci *pci, const struct mk_pci_id *id, struct mk_err *err)
{
    struct mk_pci_fn *fn = calloc(1, sizeof(*fn));
    if (!fn) {
        mk_fail_errno(err, ENOMEM, "pci: %s", id->name);
        return NULL;
    }
    fn->pci = pci;
    fn->next_cap = MK_PCI_FIRST_CAP;
    atomic_store(&fn->references, 1);
    snprintf(fn->name, sizeof(fn->name), "%s", id->name);
    set_id(fn, id);
    mk_bus_init_window(&fn->window, MK_SPACE_MMIO, pci->ports);
    if (mk_bus_hook(&fn->window, 0, MK_PCI_CONFIG - 1, &config_ops, fn, fn->name))
        return fn;
    mk_pci_fn_unref(fn);
    mk_fail_errno(err, ENOMEM, "pci: %s", id->name);
    return NULL;
}

static void free_fn(struct mk_pci_fn *fn)
{
    for (unsigned i = 0; i < MK_PCI_BARS; i++)
        mk_pci_free_bar(fn->bar[i]);
    mk_bus_free(&fn->window);
    free(fn->vectors);
    free(fn);
}

void mk_pci_fn_unref(struct mk_pci_fn *fn)
{
    if (atomic_fetch_sub(&fn->references, 1) == 1)
        free_fn(fn);
}

int mk_pci_add_cap(struct mk_pci_fn *fn, uint8_t id, const uint8_t *bytes, const uint8_t *mask,
                   size_t length, struct mk_err *err)
{
    unsigned at = fn->next_cap;
    if (at + 2 + length > MK_PCI_CONFIG || at == 0)
        return mk_fail(err, E2BIG,
                       "pci: %s: capability 0x%x of %zu bytes does not fit: configuration space "
                       "has 192 bytes for all of them",
                       fn->name, id, 2 + length);
    fn->initial[fn->last_cap ? fn->last_cap + 1u : MK_PCI_CAPS] = (uint8_t)at;
    fn->initial[MK_PCI_STATUS] |= STATUS_CAPS;
    fn->initial[at] = id;
    memcpy(fn->initial + at + 2, bytes, length);
    if (mask)
        memcpy(fn->writable + at + 2, mask, length);
    fn->last_cap = (uint8_t)at;
    fn->next_cap = (uint8_t)((at + 2 + length + 3) & ~3u); /* 0: it is full */
    return (int)at;
}

void mk_pci_set_writable(struct mk_pci_fn *fn, unsigned reg, uint8_t mask)
{
    fn->writable[reg] = mask;
}

/* --- its state --- */

void mk_pci_fn_reset(struct mk_pci_fn *fn)
{
    memcpy(fn->config, fn->initial, sizeof(fn->config));
    fn->raised = false;
}

/* Only what a guest could have written. */
void mk_pci_fn_load(struct mk_pci_fn *fn, const uint8_t *config, bool raised)
{
    for (unsigned i = 0; i < MK_PCI_CONFIG; i++)
        fn->config[i] =
            (uint8_t)((fn->initial[i] & ~fn->writable[i]) | (config[i] & fn->writable[i]));
    fn->raised = raised && fn->initial[MK_PCI_PIN];
}
