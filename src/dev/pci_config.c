/* pci_config.c - a function's configuration space: what a guest may write there, and what that
 * does. See pci.h; PCI 3.0, 6.1 to 6.7. */
#include "dev/pci.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMAND_BITS 0x0547 /* I/O, memory, master, parity, SERR#, INTx off */
#define STATUS_CAPS 0x10
#define CACHE_LINE 0x0c
#define LATENCY 0x0d
#define HEADER_TYPE 0x0e
#define SEVERAL 0x80 /* functions in this slot */
#define CAPS 0x34
#define CAP_LEAST 4 /* id, next, control */
#define MSI 0x05
#define MSIX 0x11

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

/* Where a capability is; 0: there is none. The list may be anything (6.7). */
static uint8_t find_cap(const struct mk_pci_fn *fn, uint8_t id)
{
    uint8_t at = fn->initial[MK_PCI_STATUS] & STATUS_CAPS ? fn->initial[CAPS] : 0;
    for (unsigned left = MK_PCI_CONFIG / 4; at && left; left--) {
        if (at > MK_PCI_CONFIG - CAP_LEAST)
            return 0;
        if (fn->initial[at] == id)
            return at;
        at = fn->initial[at + 1];
    }
    return 0;
}

static bool init_fn(struct mk_pci_fn *fn, const uint8_t *initial, const uint8_t *writable)
{
    memcpy(fn->initial, initial, sizeof(fn->initial));
    memcpy(fn->writable, writable, sizeof(fn->writable));
    fn->writable[MK_PCI_COMMAND] |= COMMAND_BITS & 0xff;
    fn->writable[MK_PCI_COMMAND + 1] |= COMMAND_BITS >> 8;
    fn->writable[CACHE_LINE] = fn->writable[LATENCY] = fn->writable[MK_PCI_LINE] = 0xff;
    fn->msi = find_cap(fn, MSI);
    fn->msix = find_cap(fn, MSIX);
    mk_bus_init_window(&fn->window, MK_SPACE_MMIO, fn->pci->ports);
    return mk_bus_hook(&fn->window, 0, MK_PCI_CONFIG - 1, &config_ops, fn, fn->name) &&
           mk_pci_make_bars(fn);
}

struct mk_pci_fn *mk_pci_fn_new(struct mk_pci *pci, const char *name, const uint8_t *initial,
                                const uint8_t *writable, struct mk_err *err)
{
    struct mk_pci_fn *fn = calloc(1, sizeof(*fn));
    if (fn) {
        fn->pci = pci;
        atomic_store(&fn->references, 1);
        snprintf(fn->name, sizeof(fn->name), "%s", name);
        if (init_fn(fn, initial, writable))
            return fn;
        mk_pci_fn_unref(fn);
    }
    mk_fail_errno(err, ENOMEM, "pci: %s", name);
    return NULL;
}

static void free_fn(struct mk_pci_fn *fn)
{
    for (unsigned i = 0; i < MK_PCI_BARS; i++)
        mk_pci_free_bar(fn->bar[i]);
    mk_bus_free(&fn->window);
    free(fn);
}

void mk_pci_fn_unref(struct mk_pci_fn *fn)
{
    if (atomic_fetch_sub(&fn->references, 1) == 1)
        free_fn(fn);
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
