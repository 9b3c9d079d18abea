/* dev.h - the device contract: what a device is, and what serves an access. What that may ask of
 * the vCPU it serves is in kvm/cpu.h.
 *
 * A device is a struct that begins with a `struct mk_dev`, and a `struct mk_dev_ops`: its ranges of
 * ports, memory or MSRs with the `mk_io_ops` that serve them, the table of its state, and what a
 * reset and the end do. A VM holds a list of devices; all that is done with every device is a loop
 * over it (dev.c). Handlers run on the thread of the vCPU that made the access. A device whose
 * state more than one thread reaches takes its lock, and calls out while it holds it only to what
 * never calls it back: its interrupt line, timers. */
#ifndef MK_DEV_H
#define MK_DEV_H

#include "codec/fields.h"
#include "kvm/cpu.h"

#include <pthread.h>

struct mk_bus;
struct mk_bus_ranges;

#define MK_PIECE 65536 /* bytes a device moves at once; about 10 microseconds */

/* One access. */
struct mk_io {
    struct mk_cpu *cpu;
    struct mk_bus *bus;
    struct mk_hook *hook; /* whose turn it is (bus.h) */
    uint64_t address;     /* port, guest-physical address or number of the MSR */
    uint8_t size;         /* in bytes: ports 1, 2, 4; memory 1 to 8; MSRs 8 */
    bool passed;          /* set by a handler that leaves the access to what lies beneath */
    /* The bus's map at the look for who answers all of it: another vCPU may move a BAR meanwhile.
     */
    const struct mk_bus_ranges *map;
};

struct mk_io_ops {
    const char *name;
    uint64_t (*in)(void *self, struct mk_io *io);
    void (*out)(void *self, struct mk_io *io, uint64_t value);
    /* Is told what is read, after `in` has passed; may be NULL. */
    void (*tap)(void *self, struct mk_io *io, uint64_t value);
    uint8_t width; /* the widest access taken whole; wider ones are served byte by byte */
    bool coalesce; /* one-byte OUTs may be collected by KVM and arrive later, in order */
    bool patient;  /* the same in VMs that say so (zones.h) */
    bool script;   /* served in Lua: only for the counters */
    void (*reset)(void *self); /* the VM is reset; may be NULL */
    /* What a snapshot keeps, written and taken back (any content must be safe); may be NULL. */
    void (*save)(void *self, struct mk_bytes *out);
    void (*load)(void *self, const uint8_t *bytes, size_t length);
    void (*retire)(void *self); /* called once when the bus lets go of the hook; may be NULL */
};

enum mk_space { MK_SPACE_PORTS, MK_SPACE_MMIO, MK_SPACE_MSRS, MK_SPACES };

struct mk_dev_range {
    enum mk_space space;
    uint64_t first, last;
    const struct mk_io_ops *io; /* `self` is the device */
};

#define MK_RANGES 4

struct mk_dev_ops {
    const char *name;
    struct mk_dev_range ranges[MK_RANGES]; /* as many as have `io` */
    /* All that a guest can see, for snapshots, files and forks: fields of the device's struct, and
     * what follows them. Used while no vCPU runs; each may be NULL. */
    const struct mk_field *fields;
    bool (*valid)(const void *dev); /* the fields that were read, when ranges do not say all */
    void (*code)(void *dev, struct mk_codec *k);
    void (*before_save)(void *dev); /* before it is written: hands on what is due; may be NULL */
    void (*after_load)(void *dev);  /* after it was read: moves interrupt lines; may be NULL */
    /* Room for what it keeps of each vCPU, of which there are as many, or more than before; false
     * when memory ran out. No vCPU runs; may be NULL. */
    bool (*grow)(void *dev, unsigned cpus);
    bool hooks;               /* it is what hooks hold: read again when they are made late */
    void (*reset)(void *dev); /* as at power-up; may be NULL */
    void (*free)(void *dev);  /* no vCPU runs; may be NULL */
};

struct mk_dev {
    const struct mk_dev_ops *ops;
    pthread_mutex_t lock; /* for its state, if it wants one */
    struct mk_dev *next, *previous;
};

/* In the order in which they were added: a controller is added before what drives its lines, and
 * is restored before it. They are freed in the opposite order. All zero: empty. */
struct mk_devs {
    struct mk_dev *first, *last;
    bool failed; /* one could not be made */
};

/* NULL: the device could not be made; mk_devs_attach() says so. */
void mk_devs_add(struct mk_devs *list, struct mk_dev *dev, const struct mk_dev_ops *ops);
/* Hooks their ranges to the buses of ports, memory and MSRs. */
int mk_devs_attach(const struct mk_devs *list, struct mk_bus *const bus[MK_SPACES],
                   struct mk_err *err);
/* Makes room for so many vCPUs; after -1 there may be more than before. */
int mk_devs_grow(const struct mk_devs *list, unsigned cpus, struct mk_err *err);
/* For that: an array of structs with one for each vCPU, new ones all zero. */
bool mk_grow_cpus(void *array, size_t size, unsigned *count, unsigned cpus);
void mk_devs_reset(const struct mk_devs *list);
void mk_devs_free(struct mk_devs *list);
/* Adds their states to *out; `now` is the VM's time. */
int mk_devs_save(const struct mk_devs *list, uint64_t now, struct mk_bytes *out,
                 struct mk_err *err);
/* Reads them. After -1 a device may hold a part of its state, and needs a reset or another load.
 * MK_LOAD_CHECK: into devices that no guest will see, whose interrupt lines stay;
 * MK_LOAD_HOOKS: only what hooks hold. */
enum mk_load { MK_LOAD_ALL, MK_LOAD_CHECK, MK_LOAD_HOOKS };
int mk_devs_load(const struct mk_devs *list, uint64_t now, const struct mk_bytes *from,
                 enum mk_load how, struct mk_err *err);

/* An interrupt line that a device drives, also with its lock held: `set` never calls back, and may
 * be NULL (not wired). Level, active high. */
struct mk_irq {
    void (*set)(void *ctx, unsigned line, bool level);
    void *ctx;
    unsigned line;
    bool level; /* of the line now; the controller's state has it in snapshots */
};

static inline void mk_irq_set(struct mk_irq *irq, bool level)
{
    if (irq->level != level && irq->set)
        irq->set(irq->ctx, irq->line, level);
    irq->level = level;
}

#endif
