/* pci_bar.c - base address registers: their size, where they are, and RAM in them. See pci.h; PCI
 * 3.0, 6.2.5.1. All but the adding is done with the bus's lock held. */
#include "dev/pci.h"

#include "kvm/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define FIRST_SLOT 0x3000u /* memory slots from here on are BARs' */
#define IO_BITS 3u
#define MEMORY_BITS 15u
#define TYPE_IO 1u
#define TYPE_64 4u
#define RAM_MAX (UINT64_C(256) << 20)

typedef unsigned long long ull;

/* --- making them --- */

/* The address in a BAR's register, or two of them. */
static uint64_t address_in(const struct mk_pci_bar *bar, const uint8_t *reg)
{
    uint64_t high = bar->wide ? mk_pci_get32(reg + 4) : 0;
    return high << 32 | (mk_pci_get32(reg) & ~(bar->ports ? IO_BITS : MEMORY_BITS));
}

static bool make_bar(struct mk_pci_fn *fn, unsigned number, bool *wide)
{
    unsigned reg = MK_PCI_BAR0 + 4 * number;
    uint8_t type = fn->initial[reg];
    bool ports = type & TYPE_IO;
    *wide = !ports && type & TYPE_64 && number + 1 < MK_PCI_BARS;
    struct mk_pci_bar bar = { .ports = ports, .wide = *wide };
    uint64_t bits = address_in(&bar, fn->writable + reg);
    bar.size = bits & -bits;
    if (!bits)
        return true;
    fn->bar[number] = malloc(sizeof(bar));
    if (!fn->bar[number])
        return false;
    *fn->bar[number] = bar;
    mk_bus_init_window(&fn->bar[number]->bus, ports ? MK_SPACE_PORTS : MK_SPACE_MMIO,
                       ports ? fn->pci->ports : fn->pci->mmio);
    return true;
}

bool mk_pci_make_bars(struct mk_pci_fn *fn)
{
    bool made = true, wide = false;
    for (unsigned i = 0; made && i < MK_PCI_BARS; i += 1 + wide)
        made = make_bar(fn, i, &wide);
    return made;
}

void mk_pci_free_bar(struct mk_pci_bar *bar)
{
    if (!bar)
        return;
    mk_bus_free(&bar->bus);
    if (bar->ram)
        munmap(bar->ram, bar->ram_size);
    free(bar);
}

/* --- RAM in them: as a device that KVM does not know, where it has no slot --- */

static uint64_t ram_in(void *self, struct mk_io *io)
{
    const struct mk_pci_bar *bar = self;
    uint64_t value = 0;
    memcpy(&value, bar->ram + (io->address - bar->ram_at), io->size);
    return value;
}

static void ram_out(void *self, struct mk_io *io, uint64_t value)
{
    const struct mk_pci_bar *bar = self;
    memcpy(bar->ram + (io->address - bar->ram_at), &value, io->size);
}

static void ram_reset(void *self)
{
    const struct mk_pci_bar *bar = self;
    if (madvise(bar->ram, bar->ram_size, MADV_DONTNEED) < 0)
        memset(bar->ram, 0, bar->ram_size);
}

/* Pages that are not zero, each after its number. */
static void ram_save(void *self, struct mk_bytes *out)
{
    const struct mk_pci_bar *bar = self;
    for (uint64_t page = 0; page < bar->ram_size / MK_PAGE; page++)
        if (!mk_is_zero(bar->ram + page * MK_PAGE, MK_PAGE)) {
            mk_bytes_u64(out, page);
            mk_bytes_add(out, bar->ram + page * MK_PAGE, MK_PAGE);
        }
}

static void ram_load(void *self, const uint8_t *bytes, size_t length)
{
    const struct mk_pci_bar *bar = self;
    struct mk_reader in = { .at = bytes, .left = length };
    ram_reset(self);
    while (in.left && !in.failed) {
        uint64_t page = mk_reader_u64(&in);
        const void *from = mk_reader_bytes(&in, MK_PAGE);
        if (from && page < bar->ram_size / MK_PAGE)
            memcpy(bar->ram + page * MK_PAGE, from, MK_PAGE);
    }
}

static const struct mk_io_ops ram_ops = { .name = "pci ram",
                                          .in = ram_in,
                                          .out = ram_out,
                                          .width = 8,
                                          .reset = ram_reset,
                                          .save = ram_save,
                                          .load = ram_load };

int mk_pci_add_ram(struct mk_pci_fn *fn, unsigned number, uint64_t at, uint64_t size,
                   struct mk_err *err)
{
    struct mk_pci_bar *bar = fn->bar[number];
    if (!bar || bar->ports || at % MK_PAGE || size % MK_PAGE || size == 0 || size > RAM_MAX ||
        !mk_inside(at, size, bar->size))
        return mk_fail(err, EINVAL,
                       "pci: %s: RAM of 0x%llx bytes at 0x%llx in BAR %u: it has whole pages of "
                       "4096 bytes, 256M at most, inside a BAR of memory",
                       fn->name, (ull)size, (ull)at, number);
    uint8_t *ram = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ram == MAP_FAILED)
        return mk_fail_errno(err, errno, "pci: %s: RAM of 0x%llx bytes", fn->name, (ull)size);
    madvise(ram, size, MADV_DONTFORK);
    bar->ram = ram;
    bar->ram_at = at;
    bar->ram_size = size;
    if (!mk_bus_hook(&bar->bus, at, at + size - 1, &ram_ops, bar, "RAM of the BAR"))
        return mk_fail_errno(err, ENOMEM, "pci: %s", fn->name);
    return 0;
}

/* --- memory slots --- */

static int set_slot(const struct mk_pci *pci, const struct mk_pci_bar *bar, uint64_t size)
{
    struct kvm_userspace_memory_region r = { .slot = bar->slot,
                                             .guest_phys_addr = bar->at + bar->ram_at,
                                             .memory_size = size,
                                             .userspace_addr = (uintptr_t)bar->ram };
    return mk_ioctl(pci->vm_fd, KVM_SET_USER_MEMORY_REGION, &r);
}

static void drop_slot(const struct mk_pci *pci, struct mk_pci_bar *bar)
{
    if (bar->has_slot && pci->vm_fd >= 0)
        set_slot(pci, bar, 0);
    bar->has_slot = false;
}

/* Where RAM of the VM's own, or another BAR's, is already, it stays with exits. */
static void give_slot(const struct mk_pci *pci, struct mk_pci_bar *bar)
{
    bool can = bar->ram && bar->bus.window && !bar->has_slot && pci->slots && pci->vm_fd >= 0;
    if (can && !mk_mem_overlap(pci->mem, bar->at + bar->ram_at, bar->ram_size))
        bar->has_slot = set_slot(pci, bar, bar->ram_size) == 0;
}

/* A place has become free, or slots may be used: for RAM of any function. */
void mk_pci_place_slots(struct mk_pci *pci)
{
    for (unsigned i = 0; i < MK_PCI_FUNCTIONS; i++) {
        struct mk_pci_fn *fn = atomic_load(&pci->fn[i]);
        for (unsigned k = 0; fn && k < MK_PCI_BARS; k++)
            if (fn->bar[k] && fn->bar[k]->ram) {
                fn->bar[k]->slot = FIRST_SLOT + i * MK_PCI_BARS + k;
                give_slot(pci, fn->bar[k]);
            }
    }
}

static void drop_slots(struct mk_pci *pci)
{
    for (unsigned i = 0; i < MK_PCI_FUNCTIONS; i++) {
        struct mk_pci_fn *fn = atomic_load(&pci->fn[i]);
        for (unsigned k = 0; fn && k < MK_PCI_BARS; k++)
            if (fn->bar[k])
                drop_slot(pci, fn->bar[k]);
    }
}

void mk_pci_register(struct mk_pci *pci, int vm_fd)
{
    pthread_mutex_lock(&pci->dev.lock);
    pci->vm_fd = -1; /* the old VM is gone, with its slots */
    drop_slots(pci);
    pci->vm_fd = vm_fd;
    mk_pci_place_slots(pci);
    pthread_mutex_unlock(&pci->dev.lock);
}

void mk_pci_use_slots(struct mk_pci *pci, bool slots)
{
    pthread_mutex_lock(&pci->dev.lock);
    pci->slots = slots;
    if (slots)
        mk_pci_place_slots(pci);
    else
        drop_slots(pci);
    pthread_mutex_unlock(&pci->dev.lock);
}

/* --- where they are --- */

/* Behind the last address that a BAR may have. */
static uint64_t limit_of(const struct mk_pci_bar *bar)
{
    return bar->ports ? 0x10000 : bar->wide ? UINT64_C(1) << 63 : UINT32_MAX;
}

/* False: nowhere. Address 0 is where a BAR is that nobody has given a place, and one that ends with
 * the last address is being sized. */
static bool wanted_place(const struct mk_pci_fn *fn, unsigned number, uint64_t *at)
{
    const struct mk_pci_bar *bar = fn->bar[number];
    unsigned decoding = bar->ports ? MK_PCI_IO : MK_PCI_MEMORY;
    *at = address_in(bar, fn->config + MK_PCI_BAR0 + 4 * number);
    return fn->attached && fn->config[MK_PCI_COMMAND] & decoding && *at &&
           mk_inside(*at, bar->size, limit_of(bar));
}

static void close_bar(struct mk_pci_fn *fn, struct mk_pci_bar *bar)
{
    if (!bar->bus.window)
        return;
    drop_slot(fn->pci, bar);
    mk_bus_close_window(&bar->bus);
    mk_doorbells_move(fn->pci->doorbells, &bar->bus, false, 0);
}

static void open_bar(struct mk_pci_fn *fn, unsigned number, uint64_t at)
{
    struct mk_pci_bar *bar = fn->bar[number];
    char owner[64];
    snprintf(owner, sizeof(owner), "%.50s BAR %u", fn->name, number);
    bar->at = at;
    if (mk_bus_open_window(&bar->bus, at, bar->size, owner) < 0)
        return; /* the guest finds nothing there, until it puts it somewhere again */
    mk_doorbells_move(fn->pci->doorbells, &bar->bus, true, at);
}

void mk_pci_place_bars(struct mk_pci_fn *fn)
{
    bool moved = false;
    for (unsigned i = 0; i < MK_PCI_BARS; i++) {
        struct mk_pci_bar *bar = fn->bar[i];
        uint64_t at = 0;
        bool wanted = bar && wanted_place(fn, i, &at);
        if (!bar || (wanted ? bar->bus.window && bar->at == at : !bar->bus.window))
            continue;
        moved = true;
        close_bar(fn, bar);
        if (wanted)
            open_bar(fn, i, at);
    }
    if (moved)
        mk_pci_place_slots(fn->pci);
}

void mk_pci_close_bars(struct mk_pci_fn *fn)
{
    for (unsigned i = 0; i < MK_PCI_BARS; i++)
        if (fn->bar[i])
            close_bar(fn, fn->bar[i]);
}

bool mk_pci_bar_place(struct mk_pci_fn *fn, unsigned number, uint64_t *at)
{
    pthread_mutex_lock(&fn->pci->dev.lock);
    const struct mk_pci_bar *bar = fn->bar[number];
    bool open = bar && bar->bus.window;
    *at = open ? bar->at : 0;
    pthread_mutex_unlock(&fn->pci->dev.lock);
    return open;
}
