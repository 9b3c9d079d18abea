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
#define TYPE_64 4u
#define PREFETCHABLE 8u
#define MEM32_MAX 0x80000000u
#define MEM64_MAX (UINT64_C(1) << 40)
#define RAM_MAX (UINT64_C(256) << 20)

typedef unsigned long long ull;

/* --- making them --- */

static int check_size(const struct mk_pci_fn *fn, unsigned number, enum mk_bar_kind kind,
                      uint64_t size, struct mk_err *err)
{
    static const struct {
        uint64_t least, most;
    } sizes[] = { [MK_BAR_MEM32] = { 16, MEM32_MAX },
                  [MK_BAR_MEM64] = { 16, MEM64_MAX },
                  [MK_BAR_IO] = { 4, 256 } };
    if (size & (size - 1) || size < sizes[kind].least || size > sizes[kind].most)
        return mk_fail(err, EINVAL,
                       "pci: %s: BAR %u of 0x%llx bytes: a size is a power of two, 0x%llx to "
                       "0x%llx",
                       fn->name, number, (ull)size, (ull)sizes[kind].least, (ull)sizes[kind].most);
    return 0;
}

static int check_number(const struct mk_pci_fn *fn, unsigned number, enum mk_bar_kind kind,
                        struct mk_err *err)
{
    bool wide = kind == MK_BAR_MEM64;
    if (number + wide >= MK_PCI_BARS)
        return mk_fail(err, EINVAL, "pci: %s: BAR %u: there are 0 to 5, and a 64-bit one takes two",
                       fn->name, number);
    bool taken = fn->bar[number] || (wide && fn->bar[number + 1]) ||
                 (number > 0 && fn->bar[number - 1] && fn->bar[number - 1]->kind == MK_BAR_MEM64);
    if (taken)
        return mk_fail(err, EEXIST, "pci: %s: BAR %u is taken: a 64-bit one takes the next, too",
                       fn->name, number);
    return 0;
}

static uint32_t type_bits(enum mk_bar_kind kind, bool prefetch)
{
    if (kind == MK_BAR_IO)
        return MK_PCI_IO;
    return (kind == MK_BAR_MEM64 ? TYPE_64 : 0) | (prefetch ? PREFETCHABLE : 0);
}

/* Behind the last address that a BAR may have: one that ends there is being sized. */
static uint64_t limit_of(enum mk_bar_kind kind)
{
    static const uint64_t limits[] = {
        [MK_BAR_MEM32] = UINT32_MAX, [MK_BAR_MEM64] = UINT64_C(1) << 63, [MK_BAR_IO] = 0x10000
    };
    return limits[kind];
}

int mk_pci_add_bar(struct mk_pci_fn *fn, unsigned number, enum mk_bar_kind kind, bool prefetch,
                   uint64_t size, uint64_t at, struct mk_err *err)
{
    uint32_t low = kind == MK_BAR_IO ? IO_BITS : MEMORY_BITS;
    if (check_size(fn, number, kind, size, err) < 0 || check_number(fn, number, kind, err) < 0)
        return -1;
    if (at & (size - 1))
        return mk_fail(err, EINVAL, "pci: %s: BAR %u at 0x%llx: it is a multiple of its size",
                       fn->name, number, (ull)at);
    if (!mk_inside(at, size, limit_of(kind)))
        return mk_fail(err, EINVAL, "pci: %s: BAR %u at 0x%llx: it has to end below 0x%llx",
                       fn->name, number, (ull)at, (ull)limit_of(kind));
    struct mk_pci_bar *bar = calloc(1, sizeof(*bar));
    if (!bar)
        return mk_fail_errno(err, ENOMEM, "pci: %s", fn->name);
    *bar = (struct mk_pci_bar){ .kind = kind, .prefetch = prefetch, .size = size };
    bool ports = kind == MK_BAR_IO;
    mk_bus_init_window(&bar->bus, ports ? MK_SPACE_PORTS : MK_SPACE_MMIO,
                       ports ? fn->pci->ports : fn->pci->mmio);
    fn->bar[number] = bar;
    uint8_t reg = (uint8_t)(MK_PCI_BAR0 + 4 * number);
    mk_pci_put32(fn->initial + reg, (uint32_t)at | type_bits(kind, prefetch));
    mk_pci_put32(fn->writable + reg, (uint32_t) ~(size - 1) & ~low);
    if (kind == MK_BAR_MEM64) {
        mk_pci_put32(fn->initial + reg + 4, (uint32_t)(at >> 32));
        mk_pci_put32(fn->writable + reg + 4, (uint32_t)(~(size - 1) >> 32));
    }
    if (at)
        fn->initial[MK_PCI_COMMAND] |= ports ? MK_PCI_IO : MK_PCI_MEMORY;
    return 0;
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
    if (bar->kind == MK_BAR_IO || at % MK_PAGE || size % MK_PAGE || size == 0 || size > RAM_MAX ||
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

/* False: nowhere. Address 0 is where a BAR is that nobody has given a place, and one that ends with
 * the last address is being sized. */
static bool wanted_place(const struct mk_pci_fn *fn, unsigned number, uint64_t *at)
{
    const struct mk_pci_bar *bar = fn->bar[number];
    const uint8_t *reg = fn->config + MK_PCI_BAR0 + 4 * number;
    bool ports = bar->kind == MK_BAR_IO, wide = bar->kind == MK_BAR_MEM64;
    *at = mk_pci_get32(reg) & ~(ports ? IO_BITS : MEMORY_BITS);
    if (wide)
        *at |= (uint64_t)mk_pci_get32(reg + 4) << 32;
    bool on = mk_pci_get16(fn->config + MK_PCI_COMMAND) & (ports ? MK_PCI_IO : MK_PCI_MEMORY);
    return fn->attached && on && *at && mk_inside(*at, bar->size, limit_of(bar->kind));
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
        return; /* out of memory: the guest finds nothing there */
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
