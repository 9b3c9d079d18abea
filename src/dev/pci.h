/* pci.h - PCI bus 0 as a PC with a PIIX3 has it: configuration mechanism 1, functions with BARs,
 * and INTx lines that a router puts on the 8259A pair.
 *
 * Follows the PCI Local Bus Specification 3.0 (chapter 6; 3.2.2.3.2 for mechanism 1), Intel's
 * 82371SB (PIIX3) data sheet for the router. A function's registers lie in windows (bus.h), one for
 * each BAR, so that what is hooked there goes where the guest puts the BAR. They lie beneath all
 * other hooks: what a guest puts over the PC's own devices, or over RAM, cannot be reached.
 *
 * Configuration accesses come on the threads of vCPUs, functions are attached, detached and raise
 * their interrupts on any thread. The device's lock is over all of it, and is held while the PIC's
 * inputs are set, which never call back. There is no APIC that would take messages of MSI and
 * MSI-X: a function that is to send some just keeps its line down. */
#ifndef MK_PCI_H
#define MK_PCI_H

#include "dev/bus.h"
#include "dev/doorbell.h"
#include "dev/pic.h"
#include "kvm/mem.h"

#define MK_PCI_BARS 6
#define MK_PCI_CONFIG 256
#define MK_PCI_FUNCTIONS 256 /* of a bus: slot << 3 | function */
#define MK_PCI_PIRQS 4

struct mk_pci_bar {
    bool ports, wide;  /* wide: an address of 64 bits, in this register and the next one */
    uint64_t size, at; /* `at`: while the window is open */
    struct mk_bus bus; /* the window */
    /* RAM in it; `ram` NULL: none. Reached through a memory slot where that is possible, else
     * through a hook in the window. */
    uint8_t *ram;
    uint64_t ram_at, ram_size;
    bool has_slot;
    uint32_t slot;
};

struct mk_pci_fn {
    struct mk_pci *pci;
    char name[64];
    uint8_t devfn;
    bool attached;
    uint8_t config[MK_PCI_CONFIG], writable[MK_PCI_CONFIG], initial[MK_PCI_CONFIG];
    uint8_t msi, msix;    /* where those capabilities are; 0: none */
    bool raised;          /* the device wants an interrupt */
    struct mk_bus window; /* configuration space: what a script adds lies on top */
    struct mk_pci_bar *bar[MK_PCI_BARS];
    _Atomic unsigned references;
    struct mk_fn_gone {
        struct mk_retired retired; /* first */
        struct mk_pci_fn *fn;
    } gone[2]; /* for the buses of ports and of memory */
};

struct mk_pci {
    struct mk_dev dev;
    struct mk_bus *ports, *mmio;
    struct mk_doorbells *doorbells;
    struct mk_pic *pic; /* NULL: nobody takes interrupts */
    const struct mk_mem *mem;
    int vm_fd;  /* -1: KVM has no such VM now */
    bool slots; /* memory slots may be used for RAM in BARs */
    bool on;    /* the configuration mechanism is there */
    struct mk_hook *address_hook, *data_hook;
    uint32_t address;                 /* CONFADD */
    struct mk_pci_fn *bridge, *piix3; /* slots 0 and 1 */
    struct mk_pci_fn *_Atomic fn[MK_PCI_FUNCTIONS];
    uint16_t lines; /* the PIC's inputs that are held up */
    bool missing;   /* functions of the snapshot that was loaded last are not there (yet) */
};

/* The parts of it are set in vm/compose.c. */
struct mk_dev *mk_pci_init(struct mk_pci *pci);
extern const struct mk_dev_ops mk_pci_dev;
/* The bus is there from now on, with a host bridge and a PIIX3. -1: memory ran out, or somebody
 * else serves its ports. */
int mk_pci_enable(struct mk_pci *pci, struct mk_err *err);
/* The KVM VM is new, or gone: -1. And whether BARs may have memory slots. */
void mk_pci_register(struct mk_pci *pci, int vm_fd);
void mk_pci_use_slots(struct mk_pci *pci, bool slots);

/* A function that is on no bus yet; NULL with *err. Its maker has a reference. `initial` is its
 * configuration space after a reset, MK_PCI_CONFIG bytes, `writable` the bits of it that guests may
 * write, beside those that every function has. Its BARs are the registers with bits of an address
 * to write, the lowest of which is the size (6.2.5.1). */
struct mk_pci_fn *mk_pci_fn_new(struct mk_pci *pci, const char *name, const uint8_t *initial,
                                const uint8_t *writable, struct mk_err *err);
void mk_pci_fn_unref(struct mk_pci_fn *fn);
/* RAM in a BAR of memory, in whole pages; before it is attached. */
int mk_pci_add_ram(struct mk_pci_fn *fn, unsigned number, uint64_t at, uint64_t size,
                   struct mk_err *err);

/* Also while the VM runs. Detached, its place reads as empty, and it raises nothing. */
int mk_pci_attach(struct mk_pci_fn *fn, uint8_t devfn, struct mk_err *err);
void mk_pci_detach(struct mk_pci_fn *fn);
/* Its interrupt is wanted or not. When it is from now on and the guest has enabled messages, the
 * first of them is due instead of INTx: the id of the capability, MSI's or MSI-X's, and its
 * control; else 0. */
uint8_t mk_pci_set_irq(struct mk_pci_fn *fn, bool level, uint16_t *control);
/* The PIC's input that its INTx goes to at the moment, or -1. */
int mk_pci_irq_line(struct mk_pci_fn *fn);
/* Whether the guest lets it access memory (bus master). */
bool mk_pci_is_master(struct mk_pci_fn *fn);
/* 0: what a script adds to configuration space; 1 to 6: of a BAR, NULL when there is none. */
struct mk_bus *mk_pci_window(struct mk_pci_fn *fn, unsigned number);
/* Where a BAR is: false while it is nowhere. */
bool mk_pci_bar_place(struct mk_pci_fn *fn, unsigned number, uint64_t *at);

/* --- for the files of the bus, with its lock --- */

static inline uint16_t mk_pci_get16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

static inline uint32_t mk_pci_get32(const uint8_t *at)
{
    return mk_pci_get16(at) | (uint32_t)mk_pci_get16(at + 2) << 16;
}

#define MK_PCI_COMMAND 0x04
#define MK_PCI_STATUS 0x06
#define MK_PCI_BAR0 0x10
#define MK_PCI_LINE 0x3c
#define MK_PCI_PIN 0x3d
#define MK_PCI_IO 0x1 /* of COMMAND */
#define MK_PCI_MEMORY 0x2
#define MK_PCI_MASTER 0x4
#define MK_PCI_NO_INTX 0x400
#define MK_PCI_INTX 0x8  /* of STATUS */
#define MK_PCI_PIRQ 0x60 /* of the PIIX3: PIRQRC[A:D] */

/* pci_config.c: as after a reset, or as in a snapshot. */
void mk_pci_fn_reset(struct mk_pci_fn *fn);
void mk_pci_fn_load(struct mk_pci_fn *fn, const uint8_t *config, bool raised);
/* pci_bar.c: BARs go where configuration space says, none of it while it is detached. */
void mk_pci_place_bars(struct mk_pci_fn *fn);
void mk_pci_close_bars(struct mk_pci_fn *fn);
void mk_pci_place_slots(struct mk_pci *pci); /* a place of RAM may have become free */
bool mk_pci_make_bars(struct mk_pci_fn *fn); /* false: out of memory */
void mk_pci_free_bar(struct mk_pci_bar *bar);
/* pci_irq.c: sets the PIC's inputs to what is raised and routed. */
void mk_pci_route(struct mk_pci *pci);
void mk_pci_route_all(struct mk_pci *pci); /* the PIC may have a state of its own */
void mk_pci_init_router(struct mk_pci *pci);
uint8_t mk_pci_default_line(uint8_t devfn, uint8_t pin);

#endif
