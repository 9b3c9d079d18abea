/* pci_msi.c - MSI and MSI-X: capabilities that a guest can enable. What follows is in pci_irq.c.
 * See pci.h; PCI 3.0, 6.8. */
#include "dev/pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MSI_ID 0x05
#define MSI_64 0x0080
#define MSIX_ID 0x11
#define MSIX_MOST 2048u

/* --- the capabilities --- */

/* Control, address, data: one message, to any address of 64 bits. */
int mk_pci_add_msi(struct mk_pci_fn *fn, struct mk_err *err)
{
    static const uint8_t bytes[12] = { MSI_64 };
    static const uint8_t mask[12] = { 0x71, 0,    0xfc, 0xff, 0xff, 0xff,
                                      0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
    int at = mk_pci_add_cap(fn, MSI_ID, bytes, mask, sizeof(bytes), err);
    if (at < 0)
        return -1;
    fn->msi = (uint8_t)at;
    return 0;
}

static uint64_t table_in(void *self, struct mk_io *io)
{
    struct mk_msix *x = self;
    uint64_t value = 0;
    pthread_mutex_lock(&x->fn->pci->dev.lock);
    memcpy(&value, x->bytes + (io->address - x->at), io->size);
    pthread_mutex_unlock(&x->fn->pci->dev.lock);
    return value;
}

/* The pending bits are read-only. */
static void table_out(void *self, struct mk_io *io, uint64_t value)
{
    struct mk_msix *x = self;
    uint64_t at = io->address - x->at;
    pthread_mutex_lock(&x->fn->pci->dev.lock);
    if (mk_inside(at, io->size, (uint64_t)x->count * MK_PCI_MSIX_ENTRY))
        memcpy(x->bytes + at, &value, io->size);
    pthread_mutex_unlock(&x->fn->pci->dev.lock);
}

static void table_reset(void *self)
{
    struct mk_msix *x = self;
    memset(x->bytes, 0, x->length);
    for (unsigned i = 0; i < x->count; i++)
        x->bytes[i * MK_PCI_MSIX_ENTRY + 12] = MK_PCI_MSIX_MASKED;
}

static void table_save(void *self, struct mk_bytes *out)
{
    const struct mk_msix *x = self;
    mk_bytes_add(out, x->bytes, x->length);
}

static void table_load(void *self, const uint8_t *bytes, size_t length)
{
    struct mk_msix *x = self;
    memcpy(x->bytes, bytes, length < x->length ? length : x->length);
}

static const struct mk_io_ops table_ops = { .name = "msix table",
                                            .in = table_in,
                                            .out = table_out,
                                            .width = 8,
                                            .reset = table_reset,
                                            .save = table_save,
                                            .load = table_load };

static size_t table_length(unsigned count)
{
    return (size_t)count * MK_PCI_MSIX_ENTRY + (count + 63) / 64 * 8;
}

static int check_table(const struct mk_pci_fn *fn, unsigned count, unsigned number, uint64_t at,
                       struct mk_err *err)
{
    const struct mk_pci_bar *bar = number < MK_PCI_BARS ? fn->bar[number] : NULL;
    if (count >= 1 && count <= MSIX_MOST && bar && bar->kind != MK_BAR_IO && at % 8 == 0 &&
        mk_inside(at, table_length(count), bar->size < UINT32_MAX ? bar->size : UINT32_MAX))
        return 0;
    return mk_fail(err, EINVAL,
                   "pci: %s: MSI-X with %u vectors at 0x%llx of BAR %u: there are 1 to 2048, and "
                   "their table of 16 bytes each, with a bit for each behind it, lies inside a BAR "
                   "of memory at a multiple of 8",
                   fn->name, count, (unsigned long long)at, number);
}

int mk_pci_add_msix(struct mk_pci_fn *fn, unsigned count, unsigned bar, uint64_t at,
                    struct mk_err *err)
{
    uint8_t bytes[10] = { 0 };
    static const uint8_t mask[10] = { 0, (MK_PCI_MSIX_ENABLE | MK_PCI_MSIX_MASK) >> 8 };
    if (check_table(fn, count, bar, at, err) < 0)
        return -1;
    mk_pci_put16(bytes, (uint16_t)(count - 1));
    mk_pci_put32(bytes + 2, (uint32_t)at | bar);
    mk_pci_put32(bytes + 6, (uint32_t)(at + count * MK_PCI_MSIX_ENTRY) | bar);
    int cap = mk_pci_add_cap(fn, MSIX_ID, bytes, mask, sizeof(bytes), err);
    struct mk_msix *x = cap < 0 ? NULL : calloc(1, sizeof(*x) + table_length(count));
    if (!x)
        return cap < 0 ? -1 : mk_fail_errno(err, ENOMEM, "pci: %s", fn->name);
    *x = (struct mk_msix){ .fn = fn, .count = count, .at = at, .length = table_length(count) };
    fn->vectors = x;
    fn->msix = (uint8_t)cap;
    table_reset(x);
    if (!mk_bus_hook(&fn->bar[bar]->bus, at, at + x->length - 1, &table_ops, x, "MSI-X table"))
        return mk_fail_errno(err, ENOMEM, "pci: %s", fn->name);
    return 0;
}
